"""What people bring, at random: folders whose tables and names are nearly right, and words of a command line. Each gets
a result or one line, and nothing is ever written beside runs, cache, folds and submissions."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from src import cli
from src.competition.folds import load_folds
from src.competition.submission import submission_table, write_submission
from src.competition.tables import load_competition
from src.config import build, defaults, keys
from src.errors import UserError
from src.guess.guess import guess
from src.verbs import VERBS
from tests.conftest import tree

FUZZ = {
    "derandomize": True,
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
}

DEFAULTS = defaults()  # once: it takes as long as the rest of an example

# ---- folders --------------------------------------------------------------------------------------------------------

PLAIN = [f"a{n}" for n in range(8)]
STEMS = [*PLAIN, "007", "x.y", "été", unicodedata.normalize("NFD", "été"), "B B", "{c}", "数"]
TEST = ["t1", "t2", "t3"]
HEADERS = [
    "id",
    "ID",
    "image",
    "image_id",
    "label",
    "target",
    "class",
    "Id ",
    "file name",
    "",
    "Unnamed: 0",
    "é",
    "{x}",
]
LABELS = [
    "cat",
    "dog",
    "0",
    "1",
    "-1",
    "0.5",
    "cat dog",
    " cat",
    "Cat",
    "",
    "nan",
    "a,b",
    'q"q',
    "é",
    "$x$",
    "1e3",
    "\\",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny pictures under names of every form; the tables are each example's own."""
    root = tmp_path_factory.mktemp("field") / "data"
    picture = cv2.imencode(".png", np.arange(48, dtype=np.uint8).reshape(4, 4, 3))[1].tobytes()
    for n, stem in enumerate(STEMS):
        suffix = (".png", ".PNG", ".jpg", ".Jpeg", ".jfif")[n % 5 if stem not in PLAIN else 0]
        (root / "train").mkdir(parents=True, exist_ok=True)
        (root / "train" / f"{stem}{suffix}").write_bytes(picture)
    (root / "test" / "deep").mkdir(parents=True)
    for stem in TEST:
        (root / "test" / f"{stem}.png").write_bytes(picture)
    return root


def named(stem: str, form: str) -> str:
    """An id as tables have it."""
    return {
        "stem": stem,
        "file": f"{stem}.png",
        "other": f"{stem}.jpg",
        "upper": f"{stem}.PNG",
        "path": f"train/{stem}.png",
        "back": f"train\\{stem}.png",
        "dot": f"./{stem}",
        "up": f"../train/{stem}.png",
        "composed": unicodedata.normalize("NFC", stem),
        "case": stem.upper(),
        "spaced": f" {stem} ",
    }[form]


FORMS = ["stem", "stem", "stem", "file", "other", "upper", "path", "back", "dot", "up", "composed", "case", "spaced"]


@st.composite
def tables(draw: st.DrawFn) -> dict[str, str]:
    """train.csv, sample_submission.csv and perhaps test.csv as text, most of them nearly right."""
    header = draw(
        st.sampled_from(
            [["id", "label"]] * 3
            + [["image", "target"], draw(st.lists(st.sampled_from(HEADERS), min_size=1, max_size=4))]
        )
    )
    separator = draw(st.sampled_from([",", ",", ",", ";", "\t", "|", ", ", " "]))
    ending = draw(st.sampled_from(["\n", "\n", "\r\n", "\r"]))
    mark = draw(st.sampled_from(["", "", "\ufeff"]))
    form, rest = draw(st.sampled_from(FORMS)), draw(st.sampled_from(["", "", "", separator, separator * 2]))
    labels = draw(st.lists(st.sampled_from(LABELS) | st.text(max_size=3), min_size=1, max_size=3))
    quote = draw(st.booleans())

    def table(stems: list[str], filled: bool) -> str:
        lines = [separator.join(header) + rest]
        for n, stem in enumerate(stems):
            cells = [
                named(stem, form),
                *(labels[(n + c) % len(labels)] if filled else "0" for c in range(len(header) - 1)),
            ]
            if quote or any(separator in cell or '"' in cell for cell in cells):
                cells = ['"' + cell.replace('"', '""') + '"' for cell in cells]
            lines.append(separator.join(cells[: max(1, len(header))]) + rest)
        return mark + ending.join(lines) + draw(st.sampled_from([ending, "", ending * 2]))

    stems = draw(st.sampled_from([PLAIN, PLAIN, PLAIN, STEMS, [*PLAIN, "a1"], [*PLAIN, "missing"], PLAIN[:1], []]))
    tests = draw(st.sampled_from([TEST, TEST, TEST[:1], [*TEST, "t1"], [*TEST, "t9"], ["a1", *TEST], []]))
    found = {"train.csv": table(stems, True), "sample_submission.csv": table(tests, False)}
    if draw(st.booleans()):
        found["test.csv"] = header[0] + ending + ending.join(named(stem, form) for stem in tests) + ending
    if draw(st.sampled_from([False] * 5 + [True])):
        found.pop("sample_submission.csv")
    return found


def one_line(error: UserError) -> None:
    assert str(error) and not {"\n", "\r"} & set(str(error)), str(error)


def whole_path(root: Path, place: Path) -> bool:
    """From the folder to a submission without training; whether it came to one."""
    found = {f.key: f.value for f in guess(root) if f.key}
    values: Mapping[str, Any] = {
        "competition": {**{k: v for k, v in found.items() if k not in DEFAULTS}, "root": str(root)}
    }
    config = build(values)
    competition = load_competition(config.competition, place / "cache", say=lambda line: None)
    file = place / "folds" / "f.csv"
    file.unlink(missing_ok=True)
    load_folds(file, competition, 2, 0)
    pred = np.full((len(competition.test), len(competition.task.names)), 0.5, np.float32)
    table = submission_table(competition.sample, competition.test.ids, pred, competition.task, competition.links)
    write_submission(place / "submissions" / "s.csv", table, competition.sample, competition.task, competition.links)
    return True


@settings(max_examples=2000, **FUZZ)
@given(texts=tables())
def test_folders(data: Path, tmp_path: Path, texts: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train.csv", "test.csv", "sample_submission.csv"):
        (data / name).unlink(missing_ok=True)
        if name in texts:
            (data / name).write_bytes(texts[name].encode("utf-8", "surrogatepass"))
    before = tree(data.parent)
    try:
        whole_path(data, tmp_path)
    except UserError as error:
        one_line(error)
    assert tree(data.parent) == before, "the user's folder is as it was"
    assert {path.name for path in tmp_path.iterdir()} <= {"cache", "folds", "submissions"}


# ---- words ----------------------------------------------------------------------------------------------------------

COMMON = [
    "1", "0", "-1", "1e3", "0.5", "true", "no", "null", "auto", "all", "a", "a,b", "[a,b]", "[1,2]", "[]", "{}", "nan",
    "inf", "1:30", "0x1f", "a=b", "../x", "/", "#", "é", "数", "(", ")", "[", "{",
]  # fmt: skip
ODD = [
    "", " ", "'", '"', "$x", "${paths.runs}", "${nowhere}", "${oc.env:HOME}", "a b", "{a: 1}", "choice(1,2)",
    "range(1,5)",
]  # fmt: skip
VALUES = st.sampled_from([*COMMON, *ODD, "9" * 400, "x" * 250, "\\", "a\\,b"]) | st.text(max_size=6)
KEYS = st.sampled_from(
    [*keys(), "competition", "preset", "model", "lr", "epoch", "method", "learner", "hydra.run.dir"]
) | st.text(max_size=8)
SIGNS = st.sampled_from(["", "", "", "", "+", "++", "~"])
WORD = st.one_of(
    st.builds("{}{}={}".format, SIGNS, KEYS, VALUES),
    st.builds("{}{}={}".format, SIGNS, KEYS, VALUES),
    st.text(max_size=8),
    st.sampled_from(["-m", "--multirun", "--cfg", "-x", "=", "==", "run", "fold=0"]),
)


def composed(words: Sequence[str], task: Any, began: float) -> int:
    """`cli.compose` without Hydra, whose own grammar is not ours to test."""
    typed = [word for word in words if "=" in word and word[0] not in "-~"]
    given_values = OmegaConf.to_container(cli.from_words(OmegaConf, typed), resolve=False)
    build(merged(DEFAULTS, given_values))
    return 0


@settings(max_examples=3000, **FUZZ)
@given(name=st.sampled_from([*sorted(VERBS), ""]), typed=st.lists(WORD, max_size=4))
def test_words(name: str, typed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a command line to its configuration; nothing is started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "compose", composed)
    monkeypatch.setattr(cli, "run", lambda *_: 0)
    monkeypatch.setattr(cli, "recipe_of", lambda verb: lambda *_, **__: 0)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as said:
        code = cli.main([*([name] if name else []), *typed])
    assert code in (0, 2)
    if code:
        line = said.getvalue()
        assert line.startswith("error: ") and line.endswith("\n") and len(line.splitlines()) == 1, line
    assert not list(tmp_path.iterdir())


def merged(base: dict[str, Any], given: Any) -> dict[str, Any]:
    found = dict(base)
    for key, value in given.items():
        there = found.get(key)
        found[key] = merged(there, value) if isinstance(value, dict) and isinstance(there, dict) else value
    return found
