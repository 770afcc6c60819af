"""Ensembles and stacks end to end, from runs on disk to a graded submission, and runs that do not fit refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from src.cli import main
from src.competition.kinds import task_of
from src.competition.metrics import find_metric, score
from src.config import build, defaults, plain
from src.data.spec import Normalisation
from src.ensembling.blend import climb
from src.ensembling.pool import make_pool
from src.errors import UserError
from src.files import read_config, write_config, write_json
from src.fold.teacher import load_teacher
from src.predictions import Features, Predictions, load_predictions, save_features, save_predictions
from src.runs.folder import fold_folder
from src.runs.opening import groups_of, open_competition, open_folds
from src.runs.summary import summarise_run

pytestmark = pytest.mark.fold
CLASSES = np.array(["cat", "dog", "eel"])
FOLDS = 3
Ask = Callable[..., int]


def truth(name: str) -> int:
    return int(name[1:]) % 3


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A competition of 90 training and 30 test rows whose images are empty files: nobody opens them."""
    root = tmp_path / "task"
    ids = {"train": [f"i{n:03d}" for n in range(90)], "test": [f"t{n:03d}" for n in range(30)]}
    for part, names in ids.items():
        (root / part).mkdir(parents=True)
        for name in names:
            (root / part / f"{name}.png").touch()
    labelled = {part: [(name, CLASSES[truth(name)]) for name in names] for part, names in ids.items()}
    tables = (
        ("train.csv", labelled["train"]),
        ("solution.csv", labelled["test"]),
        ("sample_submission.csv", [(name, "cat") for name in reversed(ids["test"])]),
    )
    for file, rows in tables:
        with open(root / file, "w", newline="") as stream:
            csv.writer(stream).writerows([("id", "label"), *rows])
    return root


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    return [f"paths.{name}={tmp_path / name}" for name in ("runs", "folds", "submissions", "cache")]


@pytest.fixture
def runs(tmp_path: Path, task: Path, places: list[str]) -> Path:
    """Three finished runs, a the best, c hardly better than chance."""
    for run, noise in (("a", 1.2), ("b", 1.6), ("c", 5.0)):
        make_run(tmp_path, task, run, noise)
    return tmp_path / "runs"


def make_run(tmp_path: Path, task: Path, run: str, noise: float, folds: int = FOLDS) -> None:
    values = defaults()
    values["competition"].update(root=str(task), name="mini", solution="solution.csv")
    values["folds"]["n"] = FOLDS
    values["paths"] = {**values["paths"], **{n: str(tmp_path / n) for n in ("runs", "folds", "submissions", "cache")}}
    values.update(run=run, epochs=3.0)
    config = build(values)
    competition = open_competition(config)
    number = open_folds(config, competition)
    runs = tmp_path / "runs"
    # as an older version wrote it, that knew nothing of ensembles
    older = {k: v for k, v in plain(config).items() if k not in ("runs", "combined", "ensemble", "soup", "stack")}
    write_config(runs / run / "config.yaml", older)

    def pred(names: np.ndarray, k: int) -> np.ndarray:
        random = np.random.default_rng([*run.encode(), k])
        logits = 2 * np.eye(3)[[truth(name) for name in names]] + noise * random.normal(size=(len(names), 3))
        return (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)

    for k in range(folds):
        ids, test_ids = competition.train.ids[number == k], competition.test.ids
        target = competition.task.cells(competition.y[number == k])
        oof = Predictions(ids, pred(ids, k), competition.task.names, np.full(len(ids), k), target)
        test = Predictions(test_ids, pred(test_ids, 10 + k), competition.task.names, np.full(len(test_ids), k))
        folder = fold_folder(runs, run, k)
        save_predictions(folder / "oof.npz", oof)
        save_predictions(folder / "test.npz", test)
        write_json(
            folder / "manifest.json",
            {"score": score("accuracy", labels_of(oof), oof.pred), "kept": "raw", "seconds": {"total": 1.0}},
        )
    summarise_run(config, competition, run)


def labels_of(part: Predictions) -> np.ndarray:
    return task_of(part.kind, part.classes).encode(part.target)


def oof_of(runs: Path, run: str) -> dict[int, Predictions]:
    return {k: load_predictions(runs / run / f"fold{k}" / "oof.npz") for k in range(FOLDS)}


def check_run(tmp_path: Path, task: Path, run: str) -> dict:
    """The artefacts of any run, without weights; returns cv.json."""
    folds = pd.read_csv(tmp_path / "folds" / "mini.csv").set_index("id")
    parts = oof_of(tmp_path / "runs", run)
    for k, part in parts.items():
        found = {path.name for path in (tmp_path / "runs" / run / f"fold{k}").iterdir()}
        assert found - {"stack.npz"} == {"oof.npz", "test.npz", "figures", "manifest.json"}
        assert (folds.loc[part.ids, "fold"] == k).all() and (part.fold == k).all()
        assert (part.target == folds.loc[part.ids, "target"]).all()
    assert sorted(np.concatenate([part.ids for part in parts.values()])) == sorted(folds.index)
    sample = pd.read_csv(task / "sample_submission.csv", dtype=str)
    submission = pd.read_csv(tmp_path / "submissions" / f"{run}.csv", dtype=str)
    assert list(submission.columns) == list(sample.columns) and list(submission["id"]) == list(sample["id"])
    mean = sum(load_predictions(tmp_path / "runs" / run / f"fold{k}" / "test.npz").pred.astype(float) for k in range(3))
    ids = load_predictions(tmp_path / "runs" / run / "fold0" / "test.npz").ids
    assert dict(zip(submission["id"], submission["label"], strict=True)) == dict(
        zip(ids, CLASSES[mean.argmax(1)], strict=True)
    )
    cv = json.loads((tmp_path / "runs" / run / "cv.json").read_text())
    labels = np.concatenate([labels_of(part) for part in parts.values()])
    assert cv["oof"] == pytest.approx(score("accuracy", labels, np.concatenate([p.pred for p in parts.values()])))
    assert cv["std"] == pytest.approx(statistics.stdev(cv["folds"].values()))
    assert cv["mean"] == pytest.approx(statistics.mean(cv["folds"].values()))
    right = np.mean([CLASSES[truth(name)] == label for name, label in submission[["id", "label"]].values])
    assert cv["test"] == pytest.approx(right)
    return cv


def test_an_ensemble_is_one_more_run(runs: Path, tmp_path: Path, task: Path, places: list[str], capsys) -> None:
    capsys.readouterr()
    assert main(["ensemble", f"paths.runs={runs}", "runs=[a,b,c]", "method=climb", "run=e"]) == 0
    printed = capsys.readouterr().out
    cv = check_run(tmp_path, task, "e")
    table = json.loads((runs / "e" / "members.json").read_text())
    assert table["nested"] == pytest.approx(cv["oof"]) and [row["run"] for row in table["members"]] == ["a", "b", "c"]
    assert sum(row["weight"] for row in table["members"]) == pytest.approx(1)
    assert (runs / "e" / "figures" / "correlation.png").stat().st_size > 1000
    assert f"nested {table['nested']:.4f}   plain {table['plain']:.4f}" in printed and "best single member a" in printed
    wrong = np.stack(
        [
            np.concatenate(
                [1 - part.pred[np.arange(len(part.ids)), labels_of(part)] for part in oof_of(runs, run).values()]
            )
            for run in "abc"
        ]
    )
    alike = np.corrcoef(wrong)
    for r, row in enumerate(table["members"]):
        assert row["correlation"] == pytest.approx((alike[r].sum() - 1) / 2, abs=1e-6)
        numbers = f"{row['score']:.4f}  {row['weight']:>6.3f}"
        loss = re.escape(f"{row['loss_without']:+.4f}")
        assert re.search(rf"^{row['run']} +{numbers} .*{loss}$", printed, re.MULTILINE)

    # weights of fold k were fitted on the other folds and weigh the members' fold-k test predictions
    parts = {run: oof_of(runs, run) for run in "abce"}
    for k in range(FOLDS):
        rest = [j for j in range(FOLDS) if j != k]
        oof = np.stack([np.concatenate([parts[run][j].pred for j in rest]) for run in "abc"])
        truths = np.concatenate([labels_of(parts["a"][j]) for j in rest])
        weights = climb(make_pool(find_metric("accuracy"), oof, truths))
        manifest = json.loads((runs / "e" / f"fold{k}" / "manifest.json").read_text())
        assert manifest["weights"] == pytest.approx(dict(zip("abc", weights, strict=True)))
        for file in ("oof", "test"):
            mine = [load_predictions(runs / run / f"fold{k}" / f"{file}.npz").pred for run in "abc"]
            expected = np.tensordot(weights, mine, axes=1)
            np.testing.assert_allclose(
                load_predictions(runs / "e" / f"fold{k}" / f"{file}.npz").pred, expected, atol=1e-6
            )

    # the other verbs take it for a run, and another ensemble for a member
    assert main(["runs", f"paths.runs={runs}"]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"^e +accuracy .*runs=\['a', 'b', 'c'\]", listed, re.M) and "epochs=3.0" in listed
    assert not re.search(r"^e .*epochs", listed, re.M), "an ensemble has no epochs"
    solution = [f"submission={tmp_path / 'submissions' / 'e.csv'}", f"solution={task / 'solution.csv'}"]
    assert main(["score", *solution]) == 0
    assert f"{cv['test']:.4f}" in capsys.readouterr().out
    assert main(["ensemble", f"paths.runs={runs}", "runs=[e,b]", "method=soft", "run=ee"]) == 0
    check_run(tmp_path, task, "ee")
    of_two = json.loads((runs / "ee" / "members.json").read_text())
    own = {row["run"]: row["score"] for row in of_two["members"]}
    for row in of_two["members"]:  # without it the other is alone
        assert row["loss_without"] == pytest.approx(of_two["nested"] - own["b" if row["run"] == "e" else "e"])
    np.testing.assert_allclose(
        oof_of(runs, "ee")[1].pred, (oof_of(runs, "e")[1].pred + oof_of(runs, "b")[1].pred) / 2, atol=1e-6
    )
    capsys.readouterr()
    assert main(["predict", f"paths.runs={runs}", "run=e"]) == 2
    assert "run=e: its member 'a'" in (said := capsys.readouterr().err) and "weights.safetensors is missing" in said

    # as an older version wrote it: the same again is the same
    file = runs / "e" / "config.yaml"
    now = read_config(file)
    older = {key: value for key, value in now.items() if key not in ("combined", "soup", "stack")}
    older["ensemble"] = {"rounds": 50, "bags": 1}
    write_config(file, {**older, "method": "climb", "learner": None, "features": []})
    assert main(["ensemble", f"paths.runs={runs}", "runs=[a,b,c]", "ensemble.method=climb", "run=e"]) == 0
    assert main(["ensemble", f"paths.runs={runs}", "runs=[a,b,c]", "method=vote", "run=e"]) == 2
    assert "ensemble.method: climb -> vote" in capsys.readouterr().err
    write_config(file, now)

    # the same again is the same; something else under its name is refused; it is no member of itself
    before = (runs / "e" / "fold1" / "oof.npz").read_bytes()
    assert main(["ensemble", f"paths.runs={runs}", "runs=[a,b,c]", "run=e"]) == 0
    assert (runs / "e" / "fold1" / "oof.npz").read_bytes() == before
    capsys.readouterr()
    for words, text in (
        (["runs=[a,b,c]", "method=soft", "run=e"], "made with another configuration (ensemble.method: climb -> soft)"),
        (["runs=[a,b]", "run=e"], "made with another configuration (runs: ['a', 'b', 'c'] -> ['a', 'b'])"),
        (["runs=[a,b,c]", "run=e", "fold=0"], "has fold 1 too"),
        (["runs=[a,e]", "run=e"], "run=e: is one of its own runs=[a,e]"),
        (["runs=[a,b]", "run=a"], "run=a: is one of its own"),
        (["runs=[b,c]", "run=a"], "made with another configuration"),
    ):
        assert main(["ensemble", f"paths.runs={runs}", *words]) == 2
        assert text in capsys.readouterr().err
    assert main(["stack", f"paths.runs={runs}", "runs=[a,b,c]", "run=e"]) == 2
    assert "combined: ensemble -> stack" in capsys.readouterr().err
    assert (runs / "e" / "fold1" / "oof.npz").read_bytes() == before


@pytest.mark.parametrize("method", ["vote", "geometric", "rank", "convex"])
def test_every_method_writes_a_run(method: str, runs: Path, tmp_path: Path, task: Path) -> None:
    assert main(["ensemble", f"paths.runs={runs}", "runs=[a,b,c]", f"method={method}", "run=e"]) == 0
    assert check_run(tmp_path, task, "e")["oof"] > 0.6


def test_one_fold(runs: Path, tmp_path: Path) -> None:
    """The folds of another run are not finished: fold=0 alone is blended, by an inner split."""
    make_run(tmp_path, tmp_path / "task", "d", 1.5, folds=1)
    assert main(["ensemble", f"paths.runs={runs}", "runs=[a,d]", "run=e"]) == 2
    assert main(["ensemble", f"paths.runs={runs}", "runs=[a,d]", "run=e", "fold=0"]) == 0
    assert [path.parent.name for path in (runs / "e").glob("fold*/manifest.json")] == ["fold0"]
    assert main(["stack", f"paths.runs={runs}", "runs=[a,d]", "run=s", "fold=0", "learner=ridge"]) == 0
    cv = json.loads((runs / "s" / "cv.json").read_text())
    assert cv["folds"].keys() == {"0"} and cv["std"] == 0.0
    assert len(pd.read_csv(tmp_path / "submissions" / "s.csv")) == 30


def test_a_stack_of_runs_and_features(runs: Path, tmp_path: Path, task: Path, capsys) -> None:
    ids = np.array([*(f"i{n:03d}" for n in range(90)), *(f"t{n:03d}" for n in range(30))])
    random = np.random.default_rng(0)
    x = np.eye(3)[[truth(name) for name in ids]] + 0.6 * random.normal(size=(120, 3))
    save_features(tmp_path / "x.npz", Features(ids, x))
    for k in range(FOLDS):
        save_features(
            runs / "own" / f"fold{k}" / "features.npz",
            Features(ids[::-1], x[::-1] * 10**k, k, load_predictions(runs / "a" / f"fold{k}" / "oof.npz").ids),
        )
    capsys.readouterr()
    words = [f"paths.runs={runs}", f"features=[{tmp_path / 'x.npz'},own]", "learner=ridge", "run=s"]
    assert main(["stack", *words, "runs=[b,c]"]) == 0
    printed = capsys.readouterr().out
    cv = check_run(tmp_path, task, "s")
    best = max(json.loads((runs / run / "cv.json").read_text())["oof"] for run in "bc")
    assert cv["oof"] > best and f"nested {cv['oof']:.4f}" in printed and "kept ridge alpha=" in printed
    assert "own x " in printed
    assert main(["ensemble", f"paths.runs={runs}", "runs=[s,a]", "run=e"]) == 0
    check_run(tmp_path, task, "e")

    # features alone: the competition is named on the command line
    there = ["competition=folder", f"competition.root={task}", "competition.name=mini", "folds.n=3"]
    places = [f"paths.{name}={tmp_path / name}" for name in ("runs", "folds", "submissions")]
    words = ["stack", *there, *places, "competition.solution=solution.csv", f"features=[{tmp_path / 'x.npz'}]"]
    assert main([*words, "run=f"]) == 0
    assert check_run(tmp_path, task, "f")["oof"] > 0.7
    assert main([*words, "run=f1", "fold=1"]) == 0
    one = load_predictions(runs / "f1" / "fold1" / "oof.npz")
    np.testing.assert_array_equal(one.pred, oof_of(runs, "f")[1].pred)

    capsys.readouterr()
    shutil.rmtree(runs / "own" / "fold2")
    shutil.copytree(runs / "own" / "fold1", runs / "twin" / "fold2")
    for words, text in (
        ([], "stack: nothing to learn from"),
        (["features=[own]"], "features: 'own' has no file of fold 2, only of [0, 1]"),
        (["features=[owl]"], "features: owl: no such file"),
        (["features=[twin]"], "features.npz: holds features of fold 1"),
        (["features=[own]", "method=soft"], "method: there is no such key of stack; it is one of ensemble and soup"),
    ):
        assert main(["stack", *there, *places, *words]) == 2
        assert text in capsys.readouterr().err


def test_what_does_not_fit_is_refused_in_one_line(runs: Path, tmp_path: Path, task: Path, capsys) -> None:
    def refused(*words: str) -> str:
        capsys.readouterr()
        assert main(["ensemble", f"paths.runs={runs}", *words, "run=e"]) == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ") and message.count("\n") == 1 and not (runs / "e").exists()
        return message

    assert "no such run" in refused("runs=[nobody]") and "a, b, c" in refused()
    assert "no such run 'd'" in refused("runs=[a,d]")
    assert "it is one of stack, in full stack.learner" in refused("runs=[a,b]", "learner=ridge")
    assert "did you mean 'climb'?" in refused("runs=[a,b]", "method=climp")
    assert "ensemble.method=greedy: choose one of vote, soft" in refused("runs=[a,b]", "method=greedy")
    assert "runs='a': expected a list" in refused("runs=a")

    oof = oof_of(runs, "b")[1]
    ids = oof.ids.copy()
    ids[0] = "i999"
    for changed, text in (
        (Predictions(ids, oof.pred, oof.classes, oof.fold, oof.target), "'b' has other rows than 'a': 1 ids missing"),
        (Predictions(oof.ids, oof.pred, oof.classes, oof.fold, np.roll(oof.target, 1)), "'b' has another target than"),
        (Predictions(oof.ids, oof.pred, np.array(["cat", "dog", "elk"]), oof.fold, oof.target), "other classes"),
    ):
        save_predictions(runs / "b" / "fold1" / "oof.npz", changed)
        assert text in refused("runs=[a,b]")
    save_predictions(runs / "b" / "fold1" / "oof.npz", oof)
    test = load_predictions(runs / "b" / "fold2" / "test.npz")
    few = Predictions(test.ids[1:], test.pred[1:], test.classes, test.fold[1:])
    save_predictions(runs / "b" / "fold2" / "test.npz", few)
    assert "'b' fold 2 has other test rows than 'a': 1 ids missing (t029)" in refused("runs=[a,b]")
    save_predictions(runs / "b" / "fold2" / "test.npz", test)

    (runs / "b" / "fold1" / "manifest.json").unlink()
    assert "'b' has not finished fold 1" in refused("runs=[a,b]")

    # the data have changed under the runs
    (task / "test" / "t999.png").touch()
    with open(task / "sample_submission.csv", "a") as file:
        file.write("t999,cat\n")
    assert "'a' has other test rows than" in refused("runs=[a,c]")


def test_features_of_a_run_with_other_folds_are_refused(runs: Path, tmp_path: Path, capsys) -> None:
    """Each network of the other run has seen labels of rows that this one's fold holds out."""
    ids = np.array([*(f"i{n:03d}" for n in range(90)), *(f"t{n:03d}" for n in range(30))])
    for k in range(FOLDS):
        held_out = load_predictions(runs / "a" / f"fold{(k + 1) % FOLDS}" / "oof.npz").ids
        features = Features(ids, np.zeros((120, 2)), k, held_out)
        save_features(runs / "other" / f"fold{k}" / "features.npz", features)
    capsys.readouterr()
    assert main(["stack", f"paths.runs={runs}", "runs=[a,b]", "features=[other]", "run=s"]) == 2
    assert "trained on 30 rows that fold 0 holds out here" in capsys.readouterr().err
    assert not (runs / "s").exists()


def test_runs_that_were_scored_with_another_table_are_refused(runs: Path, task: Path, capsys) -> None:
    table = (task / "train.csv").read_text()
    first = table.splitlines()[1]
    name, label = first.split(",")
    other = next(other for other in CLASSES if other != label)
    (task / "train.csv").write_text(table.replace(first, f"{name},{other}"))
    capsys.readouterr()
    assert main(["ensemble", f"paths.runs={runs}", "runs=[a,b]", "run=e"]) == 2
    assert f"1 targets in {task} are not those that 'a' was scored with ({name}: {label} -> {other})" in (
        capsys.readouterr().err
    )


def test_copies_stay_together_within_one_fold(runs: Path, tmp_path: Path, task: Path) -> None:
    """With one fold its rows are split into parts; a copy in another part would tell the label."""
    config = build(read_config(runs / "a" / "config.yaml"))
    competition = open_competition(config)
    rows = competition.train.images
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for row in (3, 7):
        cv2.imwrite(str(task / rows[row].decode()), noise)
    assert groups_of(config, competition, np.arange(len(competition.train))) is None
    grouped = dataclasses.replace(config, folds=dataclasses.replace(config.folds, group_duplicates=True))
    groups = groups_of(grouped, competition, np.arange(len(competition.train)))
    assert groups is not None and groups[3] == groups[7] != groups[4]


def test_an_ensemble_that_was_fitted_on_the_fold_teaches_nobody(runs: Path, tmp_path: Path, task: Path, capsys) -> None:
    """One fold alone: its weights know the rows that the student holds out; equal weights know nothing."""
    words = [f"paths.runs={runs}", "runs=[a,b,c]", "fold=1"]
    assert main(["ensemble", *words, "method=climb", "run=fitted"]) == 0
    assert main(["ensemble", *words, "method=soft", "run=equal"]) == 0
    competition = open_competition(build(read_config(runs / "a" / "config.yaml")))
    held_out = load_predictions(runs / "a" / "fold1" / "oof.npz").ids
    inputs = Normalisation((0.5,) * 3, (0.5,) * 3)
    with pytest.raises(UserError, match="teacher=fitted: its weights were fitted on the rows that fold 1 holds out"):
        load_teacher(runs, "fitted", 1, inputs=inputs, task=competition.task, held_out=held_out)
    with pytest.raises(UserError, match="teacher=a"):  # goes on to the members, which have no weights here
        load_teacher(runs, "equal", 1, inputs=inputs, task=competition.task, held_out=held_out)
