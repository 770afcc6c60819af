"""The report of a real run, made by itself at the end of fold=all, in a real browser where there is one."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from src import cli
from src.predictions import concatenate, load_predictions, save_predictions
from src.recipes import report as recipe

pytestmark = pytest.mark.process
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

# Filters the gallery by class and kind, opens a card, and tells what is then shown.
LOOK = """
<script>
window.addEventListener("load", () => {
  const group = document.getElementById("gallery-cards");
  const shown = () => [...group.querySelectorAll("li")].filter((item) => item.offsetParent !== null)
    .map((item) => item.dataset.id);
  const pick = (mark, value) => {
    const choice = group.querySelector(`select[data-mark=${mark}]`);
    choice.value = value;
    choice.dispatchEvent(new Event("change"));
  };
  const told = {all: shown()};
  pick("kind", "most costly"); pick("class", "digit-3");
  told.costly = shown();
  pick("fold", "1");
  told.fold = shown();
  pick("kind", ""); pick("class", ""); pick("fold", "");
  group.querySelector("li:not([hidden]) > button").click();
  const facts = document.getElementById("closer-facts");
  told.open = document.getElementById("closer").open;
  told.title = document.getElementById("closer-title").textContent;
  told.facts = [...facts.querySelectorAll("dd")].map((fact) => fact.textContent);
  told.heat = document.getElementById("closer-heat").src;
  told.wide = document.documentElement.scrollWidth;
  const found = document.createElement("pre");
  found.id = "told";
  found.textContent = JSON.stringify(told);
  document.body.append(found);
});
</script>
"""


@pytest.fixture(scope="module")
def place(command_in: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report")
    assert cli.main(command_in(place, "fold=all", "epochs=1", "report=true")) == 0
    return place


def test_it_is_there_and_complete(place: Path, command_in: Callable[..., list[str]]) -> None:
    text = (place / "runs" / "r" / "report.html").read_text()
    assert len(text) < 5e6
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", text)
    for title in ("Scores", "Training", "What is taken for what", "Calibration", "Copies and leaks", "To repeat it"):
        assert title in titles
    assert "./run.sh" in text.split('id="repeat"')[1], "the command that made it"
    cv = json.loads((place / "runs" / "r" / "cv.json").read_text())
    assert f"{cv['oof']:.4f}" in text and f"{cv['test']:.4f}" in text
    assert (place / "runs" / "r" / "suspects.csv").is_file()


def test_a_report_that_fails_ends_nothing(
    place: Path,
    command_in: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no paint\nleft")

    monkeypatch.setattr(recipe, "scores", fail)
    assert cli.main(command_in(place, "fold=all", "epochs=1", "report=true")) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "no report" in line]
    assert "RuntimeError: no paint left" in line and "./run.sh report run=r makes it" in line


@pytest.fixture(scope="module")
def twin(place: Path) -> Path:
    """A second run, with the first one's networks and other out-of-fold predictions: a fifth of them is wrong."""
    there = Path(shutil.copytree(place / "runs" / "r", place / "runs" / "q"))
    (there / "config.yaml").write_text((there / "config.yaml").read_text().replace("run: r\n", "run: q\n"))
    for file in there.glob("fold*/oof.npz"):
        oof = load_predictions(file)
        pred = oof.pred.copy()
        pred[::5] = np.roll(pred[::5], 1, axis=1)
        save_predictions(file, dataclasses.replace(oof, pred=pred))
    return there


def test_an_ensemble_has_a_report_with_the_weights_of_its_members(place: Path, twin: Path) -> None:
    paths = [f"paths.{name}={place / name}" for name in ("runs", "cache", "folds", "submissions", "input")]
    words = ["ensemble", *paths, "runs=[r,q]", "method=climb", "run=e"]
    assert cli.main([*words, "report=false"]) == 0
    page = place / "runs" / "e" / "report.html"
    assert not page.exists()
    assert cli.main(words) == 0
    worth = json.loads((place / "runs" / "e" / "members.json").read_text())["members"]
    table = page.read_text().split("<caption>What each is worth")[1].split("</table>")[0]
    for member in worth:
        (row,) = re.findall(rf"<tr[^>]*>\s*<t[dh][^>]*>{member['run']}<.*?</tr>", table, re.DOTALL)
        assert f">{member['weight']:.3f}<" in row
    assert sum(member["weight"] for member in worth) == pytest.approx(1)


@pytest.mark.parametrize("verb", ["ensemble", "stack", "soup"])
def test_no_report_ends_a_second_level(
    place: Path, twin: Path, verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no paint left")

    monkeypatch.setattr(recipe, "scores", fail)
    paths = [f"paths.{name}={place / name}" for name in ("runs", "cache", "folds", "submissions", "input")]
    own = {"ensemble": ["method=soft"], "stack": ["learner=ridge"], "soup": ["method=uniform", "workers=0"]}[verb]
    assert cli.main([verb, *paths, "runs=[r,q]", *own, f"run={verb}"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "no report" in line]
    assert "RuntimeError: no paint left" in line and f"./run.sh report run={verb} makes it" in line
    assert (place / "submissions" / f"{verb}.csv").is_file()


@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
@pytest.mark.parametrize("width", [1366, 390])
def test_in_a_browser_the_gallery_shows_what_oof_says(place: Path, width: int, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text((place / "runs" / "r" / "report.html").read_text().replace("</body>", f"{LOOK}</body>"))
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},900", "--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    told = json.loads(html.unescape(re.search(r'<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)[1]))  # type: ignore[index]

    oof = concatenate([load_predictions(place / "runs" / "r" / f"fold{k}" / "oof.npz") for k in (0, 1)])
    assert oof.target is not None
    guess = oof.classes[oof.pred.argmax(axis=1)]
    y = np.searchsorted(oof.classes, oof.target)
    order = np.argsort(oof.pred[np.arange(len(y)), y], kind="stable")
    mine = order[(oof.target[order] == "digit-3") | (guess[order] == "digit-3")]
    assert told["costly"] and set(told["costly"]) <= set(oof.ids[mine].tolist())
    worst = [row for row in order[:10].tolist() if row in mine]
    assert {oof.ids[row] for row in worst} <= set(told["costly"]), "the most costly rows are there"
    of_fold = set(oof.ids[oof.fold == 1].tolist())
    assert told["fold"] == [row for row in told["costly"] if row in of_fold]
    assert set(told["all"]) <= set(oof.ids.tolist()) and len(told["all"]) == 48
    (row,) = np.flatnonzero(oof.ids == told["title"])
    assert told["open"] and told["facts"][:3] == [oof.target[row], guess[row], f"{oof.pred[row].max():.3f}"]
    heat = base64.b64decode(told["heat"].removeprefix("data:image/jpeg;base64,"))
    assert cv2.imdecode(np.frombuffer(heat, np.uint8), cv2.IMREAD_COLOR).shape == (128, 128, 3), "Grad-CAM beside it"
    if width > 500:  # headless windows are no narrower than that
        assert told["wide"] <= width, "nothing sticks out"
