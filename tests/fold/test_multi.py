"""Several labels per row through every verb: what works, and what says in one line why it does not."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from src.cli import main
from src.predictions import load_predictions
from tests.conftest import TINY, write

LABELS = np.array(["red", "green", "blue"])


def make(root: Path, columns: bool) -> Path:
    """80 training and 16 test pictures of noise whose channels are lit where the labels say so; some have no label."""
    rng = np.random.default_rng(0)
    tables: dict[str, list[list[str]]] = {"train": [], "test": []}
    for part, count in (("train", 80), ("test", 16)):
        (root / part).mkdir(parents=True)
        for row in range(count):
            y = rng.random(3) < [0.5, 0.4, 0.3]
            image = rng.integers(0, 60, (24, 24, 3)) + 150 * y[::-1]  # OpenCV writes blue first
            cv2.imwrite(str(root / part / f"{part}{row:02d}.png"), image.astype(np.uint8))
            cells = [str(int(cell)) for cell in y] if columns else [" ".join(LABELS[y])]
            tables[part].append([f"{part}{row:02d}", *cells])
    header = ["id", *LABELS] if columns else ["id", "labels"]
    write(root / "train.csv", header, tables["train"])
    write(root / "solution.csv", header, tables["test"])
    blank = ["0"] * 3 if columns else ["red"]
    write(root / "sample_submission.csv", header, [[row[0], *blank] for row in reversed(tables["test"])])
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words in a cell, and two runs."""
    return trained(tmp_path_factory.mktemp("words"), columns=False, runs="ab")


@pytest.fixture(scope="module")
def of_columns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A column of the tables per label, and a run: once they are read, all is as it is with words."""
    return trained(tmp_path_factory.mktemp("columns"), columns=True, runs="a")


def trained(place: Path, columns: bool, runs: str) -> Path:
    make(place / "data", columns)
    for seed, run in enumerate(runs):
        assert start(place, "train", "fold=all", "competition=folder", f"run={run}", f"seed={seed}") == 0
    return place


def start(place: Path, verb: str, *words: str) -> int:
    places = [f"paths.{name}={place / name}" for name in ("runs", "cache", "folds", "submissions", "input")]
    if verb not in ("train", "smoke", "prepare", "lr_find", "ablate"):
        return main([verb, *places, *words])
    task = [f"competition.root={place / 'data'}", "competition.name=lights", "competition.solution=solution.csv"]
    plan = ["preset=scratch", "folds.n=2", "size=24", "epochs=14", "batch_size=16", "stages=[{}]", "optimizer.lr=0.3"]
    own = [*task, *plan, "optimizer.name=sgd", "competition.kind=multi", "tta=none", *TINY]
    given = {word.partition("=")[0] for word in words}  # a key may be given once
    return main([verb, *places, *(word for word in own if word.partition("=")[0] not in given), *words])


def scores(place: Path, run: str) -> dict[str, float]:
    return json.loads((place / "runs" / run / "cv.json").read_text())["scores"]


def check(place: Path, run: str) -> None:
    """The files of any run: predictions that are no shares of 1, a submission in the sample's form."""
    part = load_predictions(place / "runs" / run / "fold0" / "oof.npz")
    assert part.kind == "multi" and part.classes.tolist() in ([*LABELS], sorted(LABELS)) and part.target is not None
    assert (part.pred >= 0).all() and (part.pred <= 1).all()
    assert (place / "runs" / run / "fold0" / "figures" / "columns.png").is_file()
    sample = pd.read_csv(place / "data" / "sample_submission.csv", dtype=str)
    table = pd.read_csv(place / "submissions" / f"{run}.csv", dtype=str, keep_default_na=False)
    assert list(table.columns) == list(sample.columns) and list(table["id"]) == list(sample["id"])
    assert "test" in json.loads((place / "runs" / run / "cv.json").read_text())


@pytest.mark.parametrize("form", ["place", "of_columns"])
def test_a_run_learns_and_is_graded(form: str, request: pytest.FixtureRequest) -> None:
    place: Path = request.getfixturevalue(form)
    check(place, "a")
    found = scores(place, "a")
    assert found["f1_macro"] > 0.75 and found["log_loss"] < 0.55
    folds = pd.read_csv(place / "folds" / "lights.csv", keep_default_na=False)
    assert (folds["target"] == "").any(), "a row without a label"
    sums = load_predictions(place / "runs" / "a" / "fold0" / "oof.npz").pred.sum(1)
    assert sums.max() > 1.2 and sums.min() < 0.8
    cv = json.loads((place / "runs" / "a" / "cv.json").read_text())
    assert cv["test"] > 0.4, "exact match of all three"


@pytest.mark.parametrize("method", ["soft", "climb", "convex", "rank"])
def test_ensembles(place: Path, method: str) -> None:
    assert start(place, "ensemble", "runs=[a,b]", f"method={method}", f"run=e-{method}") == 0
    check(place, f"e-{method}")
    if method != "rank":
        worst = max(scores(place, run)["log_loss"] for run in "ab")
        assert scores(place, f"e-{method}")["log_loss"] <= worst + 0.02


@pytest.mark.parametrize("method", ["vote", "geometric"])
def test_blends_of_one_label_are_refused(place: Path, method: str, capsys) -> None:
    assert start(place, "ensemble", "runs=[a,b]", f"method={method}", "run=no") == 2
    assert f"ensemble.method={method}: not for this kind of target; choose soft, rank" in capsys.readouterr().err
    assert not (place / "runs" / "no").exists()


@pytest.mark.parametrize("learner", ["logistic", "ridge"])
def test_stacks(place: Path, learner: str) -> None:
    assert start(place, "features", "run=a") == 0
    assert start(place, "stack", "runs=[a,b]", "features=[a]", f"learner={learner}", f"run=s-{learner}") == 0
    check(place, f"s-{learner}")
    assert scores(place, f"s-{learner}")["f1_macro"] > 0.7


def test_soups_sizes_predictions_and_pruning(place: Path) -> None:
    assert start(place, "soup", "runs=[a,b]", "run=soup") == 0
    check(place, "soup")
    assert start(place, "sizes", "run=a", "sizes=[24,32]") == 0
    before = (place / "submissions" / "a.csv").read_text()
    assert start(place, "predict", "run=a") == 0
    assert (place / "submissions" / "a.csv").read_text() == before


@pytest.mark.parametrize("targets", ["patient", "precomputed"])
def test_students(place: Path, targets: str) -> None:
    assert start(place, "ensemble", "runs=[a,b]", "method=soft", "run=teacher") == 0
    words = ["teacher=teacher", "fold=0", f"run=student-{targets}", f"distill.targets={targets}", "mix.mixup=0.2"]
    assert start(place, "distill", *words) == 0
    check(place, f"student-{targets}")
    assert scores(place, f"student-{targets}")["f1_macro"] > 0.7


def test_the_run_of_a_column_per_label_is_a_member_and_predicts_again(of_columns: Path) -> None:
    place = of_columns
    assert start(place, "ensemble", "runs=[a]", "method=climb", "run=e") == 0
    check(place, "e")
    before = (place / "submissions" / "a.csv").read_text()
    assert start(place, "predict", "run=a") == 0
    assert (place / "submissions" / "a.csv").read_text() == before


def test_what_is_about_one_label_says_so(place: Path, capsys) -> None:
    for words, text in (
        (["distill.unlabelled=true"], "distill.unlabelled=true: takes the one class that a teacher is sure of"),
        (["model.head=arcface"], "model.head=arcface: tells one class from the others"),
    ):
        assert start(place, "distill", "teacher=a", "fold=0", "run=no", *words) == 2
        assert text in capsys.readouterr().err
    assert start(place, "train", "competition=folder", "run=no", "competition.metric=qwk") == 2
    assert "no metric 'qwk'" in capsys.readouterr().err
    assert start(place, "train", "competition=folder", "run=no", "loss.name=ordinal") == 2
    assert "loss.name=ordinal: not for competition.kind=multi; choose auto, bce" in capsys.readouterr().err


def test_looking_and_finding(place: Path, capsys) -> None:
    assert start(place, "prepare", "competition=folder") == 0
    assert "green" in capsys.readouterr().out
    assert start(place, "lr_find", "competition=folder", "run=lr") == 0
    words = ["tricks=[focal,no_smoothing,class_weights]", "seeds=1", "folds=[0]", "epochs=1", "run=study"]
    assert start(place, "ablate", "competition=folder", *words) == 0
    printed = capsys.readouterr().out
    assert "| focal |" in printed and "refused" not in printed


def test_the_smoke_test_passes(of_columns: Path) -> None:
    assert start(of_columns, "smoke", "competition=folder", "workers=0") == 0
