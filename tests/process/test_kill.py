"""kill -9 at any moment: started again, a run ends as if it had never been stopped, bit by bit."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.process.starts import Moment, Start, require_same, require_tidy, result

pytestmark = pytest.mark.process
FIRST_STAGE = 6  # steps
WORDS = [
    "competition=digits",
    "fold=all",
    f"stages=[{{length: {FIRST_STAGE} steps, size: 0.75, rows: 0.5}}, {{length: 10 steps}}]",
    "mix.mixup=0.2",
    "model.drop_rate=0.2",
    # not accuracy, so that a slip of the raw, EMA or SWA weights shows in the manifest, whichever are kept
    "competition.metric=log_loss",
    "average.swa_start=0.3",
    "average.swa_every=1 steps",
    "checkpoint.every=0.05",
]
OFTEN = "checkpoint.every=0.001"  # after each step: an aimed moment must not depend on the speed of the machine
RANDOM = (
    np.random.default_rng(0).uniform(0.05, 0.92, 8).round(3).tolist()
)  # shares of the processor time of the whole run
# Each with what is there after the kill, and what is not, below the run's place.
AIMED: dict[str, tuple[Moment, list[str], list[str]]] = {
    "before the fold file has its name": (
        Moment("os.rename", r"folds/mini\.csv$"),
        ["folds/.mini.csv.*.tmp"],
        ["folds/mini.csv"],
    ),
    "before the second checkpoint has its name": (
        Moment("os.rename", r"fold0/checkpoints/step\d+\.ckpt$", nth=2),
        ["runs/r/fold0/checkpoints/.step*.tmp", "runs/r/fold0/checkpoints/step*.ckpt"],
        ["runs/r/fold0/oof.npz"],
    ),
    "after the first checkpoint of stage 2": (
        Moment("os.remove", r"fold0/checkpoints/\.step(\d+)\.ckpt\..*tmp$", beyond=FIRST_STAGE),
        ["runs/r/fold0/checkpoints/step*.ckpt"],
        ["runs/r/fold0/oof.npz", "runs/r/fold0/checkpoints/.step*.tmp"],
    ),
    "between oof.npz and test.npz": (
        Moment("os.rename", r"fold0/test\.npz$"),
        ["runs/r/fold0/oof.npz", "runs/r/fold0/.test.npz.*.tmp"],
        ["runs/r/fold0/test.npz"],
    ),
    "between test.npz and the manifest": (
        Moment("os.rename", r"fold0/manifest\.json$"),
        ["runs/r/fold0/test.npz", "runs/r/fold0/history.csv"],
        ["runs/r/fold0/manifest.json"],
    ),
    "between the manifest and the end of its checkpoints": (
        Moment("os.remove", r"fold0/\.manifest\.json\..*tmp$"),
        ["runs/r/fold0/manifest.json", "runs/r/fold0/checkpoints/step*.ckpt"],
        [],
    ),
    "between fold 0 and fold 1": (
        Moment("open", r"\.fold1\.lock$"),
        ["runs/r/fold0/manifest.json"],
        ["runs/r/fold1/figures", "runs/r/fold0/checkpoints"],
    ),
    "before the submission has its name": (
        Moment("os.rename", r"submissions/r\.csv$"),
        ["runs/r/fold1/manifest.json", "submissions/.r.csv.*.tmp"],
        ["submissions/r.csv"],
    ),
    "between the submission and cv.json": (
        Moment("os.rename", r"runs/r/cv\.json$"),
        ["submissions/r.csv", "runs/r/.cv.json.*.tmp"],
        ["runs/r/cv.json"],
    ),
    "between cv.json and its second version, graded": (
        Moment("os.rename", r"runs/r/cv\.json$", nth=2),
        ["runs/r/cv.json", "runs/r/.cv.json.*.tmp"],
        [],
    ),
}
Command = Callable[..., list[str]]


@pytest.fixture(scope="module")
def unbroken(
    start_server: Any, command_in: Command, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], float]:
    """What a run leaves behind that is not stopped, and the seconds of processor time that it took."""
    place = tmp_path_factory.mktemp("unbroken")
    start = Start(start_server, command_in(place, *WORDS), place / "log")
    seconds = 0.0
    while start.process.is_alive():
        seconds = max(seconds, start.work())
        time.sleep(0.01)
    code, output = start.end()
    assert code == 0, output
    return result(place), seconds


def go_on(server: Any, words: list[str], place: Path, expected: dict[str, Any], folds: int = 2) -> str:
    """Start again after a kill, and compare; the output."""
    code, output = Start(server, words, place / "log-again").end()
    assert code == 0, output
    require_same(result(place, folds=folds), expected)
    require_tidy(place)
    return output


@pytest.mark.parametrize(("share", "workers"), [(s, 0) for s in RANDOM] + [(s, 1) for s in RANDOM[:2]])
def test_killed_at_a_random_moment(
    share: float,
    workers: int,
    start_server: Any,
    command_in: Command,
    unbroken: tuple[dict[str, Any], float],
    tmp_path: Path,
) -> None:
    expected, seconds = unbroken
    for attempt in range(4):
        place = tmp_path / str(attempt)
        place.mkdir()
        words = command_in(place, *WORDS, f"workers={workers}")
        start = Start(start_server, words, place / "log")
        start.kill(share * seconds * 0.8**attempt)
        code, output = start.end()
        if code != 0:  # else this one was quicker than the unbroken one
            break
    assert code == -9, output
    go_on(start_server, words, place, expected)


def test_killed_with_acnet_and_a_margin_head(start_server: Any, command_in: Command, tmp_path: Path) -> None:
    """Checkpoints hold the branches, the weights that are saved are fused; both are the same after a kill."""
    parts = ["model.acnet=true", "model.activation=prelu", "model.pool=gem", "model.head=arcface"]
    places = [tmp_path / name for name in ("unbroken", "killed")]
    for place in places:
        place.mkdir()
    one_fold = [word for word in WORDS if word != "fold=all"]
    words = [command_in(place, *one_fold, *parts, OFTEN) for place in places]
    code, output = Start(start_server, words[0], places[0] / "log").end()
    assert code == 0, output
    at = AIMED["after the first checkpoint of stage 2"][0]
    code, output = Start(start_server, words[1], places[1] / "log", at).end()
    assert code == -9, output
    assert "going on at step" in go_on(start_server, words[1], places[1], result(places[0], folds=1), folds=1)


@pytest.mark.parametrize("name", AIMED)
def test_killed_at_an_aimed_moment(
    name: str, start_server: Any, command_in: Command, unbroken: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    at, there, gone = AIMED[name]
    words = command_in(tmp_path, *WORDS, OFTEN)
    code, output = Start(start_server, words, tmp_path / "log", at).end()
    assert code == -9, output
    assert all(any(tmp_path.glob(pattern)) for pattern in there), sorted(tmp_path.rglob("*"))
    assert not any(any(tmp_path.glob(pattern)) for pattern in gone), sorted(tmp_path.rglob("*"))
    again = go_on(start_server, words, tmp_path, unbroken[0])
    if any(pattern.endswith("step*.ckpt") for pattern in there) and "manifest" not in name:
        assert "going on at step" in again


def test_killed_while_a_checkpoint_is_half_written(
    start_server: Any, command_in: Command, unbroken: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    """Seen from outside: the hidden file is there, and still there after the kill."""
    for attempt in range(20):
        place = tmp_path / str(attempt)
        place.mkdir()
        words = command_in(place, *WORDS, OFTEN)
        start = Start(start_server, words, place / "log")
        folder = place / "runs" / "r" / "fold0" / "checkpoints"
        while start.process.is_alive() and len(list(folder.glob("step*.ckpt"))) < 2:
            pass
        while start.process.is_alive() and not any(folder.glob(".step*.tmp")):
            pass
        start.process.kill()
        start.end()
        if any(folder.glob(".step*.tmp")):
            assert "going on at step" in go_on(start_server, words, place, unbroken[0])
            return
    pytest.fail("never caught a checkpoint half-written")


def test_killed_again_and_again(
    start_server: Any, command_in: Command, unbroken: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    """Each start dies after two more checkpoints; nothing piles up, and the end is the same."""
    words, expected = command_in(tmp_path, *WORDS, OFTEN), unbroken[0]
    for attempt in range(3):
        at = Moment("os.rename", r"fold0/checkpoints/step\d+\.ckpt$", nth=3)
        code, output = Start(start_server, words, tmp_path / f"log{attempt}", at).end()
        if code == 0:  # the checkpoints of the steps that were left were fewer
            break
        assert code == -9, output
        assert len([*tmp_path.rglob("*.tmp")]) == 1, "what an earlier kill left half-written is removed"
    go_on(start_server, words, tmp_path, expected)
