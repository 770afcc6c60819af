"""Numbers and several targets per row through every verb: what works, and what says in one line why it does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import r2_score, recall_score

from src.cli import main
from src.competition.kinds import task_of
from src.predictions import load_predictions
from tests.fold.shades import KINDS, NUMBER, Place, make

pytestmark = pytest.mark.fold


@pytest.fixture(scope="module", params=["numbers", "targets"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    found = Place(tmp_path_factory.mktemp(request.param), KINDS[request.param])
    make(found.path / "data", found.kind)
    for run, seed in (("a", 0), ("b", 1)):
        assert found.start("train", "fold=all", f"run={run}", f"seed={seed}") == 0
    return found


def check(place: Place, run: str) -> None:
    """The files of any run: predictions of the kind, figures, a submission in the sample's form, a grade."""
    folder = place.path / "runs" / run / "fold0"
    part = load_predictions(folder / "oof.npz")
    assert part.kind == place.kind.name and part.target is not None
    task = task_of(part.kind, part.classes)
    table = pd.read_csv(place.path / "data" / "train.csv", dtype=str).set_index("id").loc[part.ids]
    y = task.encode(part.target)
    if task.numeric:
        assert part.classes.tolist() == place.kind.columns
        np.testing.assert_allclose(y, table.to_numpy().astype(float), rtol=1e-6)
    else:
        assert part.classes.tolist() == ["root=a", "root=b", "root=c", "mark=no", "mark=yes"]
        assert (part.pred >= 0).all()
        np.testing.assert_allclose(part.pred[:, :3].sum(1), 1, atol=1e-5)
        np.testing.assert_allclose(part.pred[:, 3:].sum(1), 1, atol=1e-5)
        assert [["abc"[root], ["no", "yes"][mark]] for root, mark in y.tolist()] == table.to_numpy().tolist()
    figures = {path.name for path in (folder / "figures").glob("*.png")}
    assert figures >= ({"predicted.png"} if task.numeric else {"confusion-root.png", "confusion-mark.png"})
    sample = pd.read_csv(place.path / "data" / "sample_submission.csv", dtype=str)
    submitted = pd.read_csv(place.path / "submissions" / f"{run}.csv", dtype=str)
    assert list(submitted.columns) == list(sample.columns) and list(submitted["id"]) == list(sample["id"])
    assert "test" in json.loads((place.path / "runs" / run / "cv.json").read_text())


def test_a_run_learns_and_is_graded(place: Place) -> None:
    check(place, "a")
    assert place.kind.reached(place.score("a")), place.scores("a")
    cv = json.loads((place.path / "runs" / "a" / "cv.json").read_text())
    assert place.kind.reached(cv["test"]), cv["test"]
    assert (place.path / "runs" / "a" / "fold0" / "figures" / "grad-cam.png").is_file()
    truth = pd.read_csv(place.path / "data" / "solution.csv").set_index("id")
    told = pd.read_csv(place.path / "submissions" / "a.csv").set_index("id").loc[truth.index]
    if place.kind.name == "number":
        assert cv["test"] == pytest.approx(r2_score(truth, told), abs=1e-4)
    else:
        recall = [recall_score(truth[c], told[c], average="macro") for c in truth]
        assert cv["test"] == pytest.approx(np.mean(recall), abs=1e-4)


def test_a_file_is_graded_by_itself(place: Place, capsys) -> None:
    files = [f"submission={place.path / 'submissions' / 'a.csv'}", f"solution={place.path / 'data' / 'solution.csv'}"]
    assert main(["score", *files, f"metric={place.kind.metric}", f"kind={place.kind.name}"]) == 0
    cv = json.loads((place.path / "runs" / "a" / "cv.json").read_text())
    assert f"{place.kind.metric} {cv['test']:.4f}" in capsys.readouterr().out
    assert main(["score", *files, "kind=numbr"]) == 2
    assert "kind=numbr: choose one of single, multi, number, targets; did you mean 'number'" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["soft", "climb", "convex"])
def test_ensembles(place: Place, method: str) -> None:
    assert place.start("ensemble", "runs=[a,b]", f"method={method}", f"run=e-{method}") == 0
    check(place, f"e-{method}")
    assert place.kind.reached(place.score(f"e-{method}"))


@pytest.mark.parametrize("method", ["vote", "geometric", "rank"])
def test_blends_of_one_label_are_refused(place: Place, method: str, capsys) -> None:
    assert place.start("ensemble", "runs=[a,b]", f"method={method}", "run=no") == 2
    assert f"ensemble.method={method}: not for this kind of target; choose soft, climb" in capsys.readouterr().err


@pytest.mark.parametrize("learner", ["ridge", "logistic"])
def test_stacks(place: Place, learner: str, capsys) -> None:
    assert place.start("features", "run=a") == 0
    capsys.readouterr()
    found = place.start("stack", "runs=[a,b]", "features=[a]", f"learner={learner}", f"run=s-{learner}")
    if learner == "logistic" and place.kind.name == "number":
        says = "stack.learner=logistic: tells classes apart; for numbers choose ridge, lightgbm, mlp"
        assert found == 2 and says in capsys.readouterr().err
        return
    assert found == 0
    check(place, f"s-{learner}")
    assert place.kind.reached(place.score(f"s-{learner}")), place.scores(f"s-{learner}")


def test_a_stack_on_features_alone(place: Place) -> None:
    assert place.start("features", "run=a") == 0
    words = ["features=[a]", "learner=ridge", "run=f", "preset=scratch", "folds.n=2", "competition=folder"]
    task = [f"competition.root={place.path / 'data'}", "competition.name=shades"]
    kind = [f"competition.kind={place.kind.name}", f"competition.metric={place.kind.metric}"]
    assert place.start("stack", *words, *task, *kind) == 0
    assert place.kind.reached(place.score("f")), place.scores("f")


def test_soups_sizes_predictions_and_pruning(place: Place) -> None:
    assert place.start("soup", "runs=[a,b]", "run=soup") == 0
    check(place, "soup")
    assert place.start("sizes", "run=a", "sizes=[24,32]") == 0
    for run in ("a", "soup"):
        before = (place.path / "submissions" / f"{run}.csv").read_text()
        assert place.start("predict", f"run={run}") == 0
        assert (place.path / "submissions" / f"{run}.csv").read_text() == before
    assert place.start("prune", "run=a", "prune.ratio=0.3", "fold=0", "teacher=b") == 0
    check(place, "a-pruned")


@pytest.mark.parametrize("targets", ["patient", "precomputed"])
def test_students(place: Place, targets: str) -> None:
    assert place.start("ensemble", "runs=[a,b]", "method=soft", "run=teacher") == 0
    words = ["teacher=teacher", "fold=0", f"run=student-{targets}", f"distill.targets={targets}", "mix.mixup=0.2"]
    assert place.start("distill", *words) == 0
    check(place, f"student-{targets}")
    assert place.kind.reached(place.score(f"student-{targets}"))


def test_other_losses(place: Place) -> None:
    for loss in place.kind.losses:
        assert place.start("train", "fold=0", f"run={loss}", f"loss.name={loss}", "loss.smoothing=0") == 0
        check(place, loss)
        assert place.kind.reached(place.score(loss)), (loss, place.scores(loss))


def test_one_number_and_its_losses(tmp_path: Path) -> None:
    place = Place(tmp_path, NUMBER)
    make(tmp_path / "data", NUMBER)
    for loss in NUMBER.losses:
        assert place.start("train", "fold=0", f"run={loss}", f"loss.name={loss}") == 0
        check(place, loss)
        assert place.kind.reached(place.score(loss)), (loss, place.scores(loss))
    assert load_predictions(tmp_path / "runs" / "bce" / "fold0" / "oof.npz").pred.max() <= 60


def test_what_is_about_one_label_says_so(place: Place, capsys) -> None:
    kind = place.kind.name
    choices = {"number": "auto, mse, mae, huber, bce", "targets": "auto, cross_entropy, focal"}[kind]
    cases = [
        ("train", ["loss.name=ordinal"], f"loss.name=ordinal: not for competition.kind={kind}; choose {choices}"),
        ("train", ["competition.metric=gap"], "no metric 'gap'"),
        ("distill", ["teacher=a", "distill.unlabelled=true"], "distill.unlabelled=true: takes the one class"),
    ]
    if kind == "number":
        cases += [
            ("train", ["model.head=arcface"], "model.head=arcface: tells one class from the others"),
            ("train", ["loss.class_weights=balanced"], "numbers have no classes"),
        ]
    for verb, words, text in cases:
        assert place.start(verb, "fold=0", "run=no", *words) == 2
        error = capsys.readouterr().err
        assert text in error and error.count("\n") == 1, error


def test_looking_and_finding(place: Place, capsys) -> None:
    assert place.start("prepare") == 0
    printed = capsys.readouterr().out
    assert all(column in printed for column in place.kind.columns)
    assert place.start("lr_find", "run=lr") == 0
    words = ["tricks=[mixup,class_weights,bce]", "seeds=1", "folds=[0]", "epochs=1", "run=study"]
    assert place.start("ablate", *words) == 0
    printed = capsys.readouterr().out
    assert "| mixup |" in printed
    refused = {
        "number": "class_weights: refused: loss.class_weights",
        "targets": "bce: refused: loss.name=bce: not for",
    }
    assert refused[place.kind.name] in printed


def test_the_smoke_test_passes(place: Place) -> None:
    assert place.start("smoke", "workers=0") == 0
