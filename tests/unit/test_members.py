"""Runs as members: rows aligned by id, and whatever does not fit refused with the run and the rows named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from src.errors import UserError
from src.files import write_config, write_json
from src.predictions import Predictions, load_predictions, save_predictions
from src.runs.folder import fold_folder
from src.runs.members import load_members, load_test

CLASSES = np.array(["cat", "dog", "eel"])
IDS = np.array([f"i{number:02d}" for number in range(30)])
TEST_IDS = np.array([f"t{number}" for number in range(7)])


def row(run: str, name: str, fold: int = 0) -> np.ndarray:
    """Numbers that follow from the run and the id, so that a row that moved is seen."""
    return np.random.default_rng([*run.encode(), *name.encode(), fold]).dirichlet(np.ones(3)).astype(np.float32)


def write_run(runs: Path, run: str, folds: int = 3, seed: int = 0) -> None:
    """A finished run whose rows are in an order of its own."""
    random = np.random.default_rng(seed)
    write_config(runs / run / "config.yaml", {"run": run})
    for k in range(folds):
        ids = random.permutation(IDS[k::3])
        target = CLASSES[[int(name[1:]) // 3 % 3 for name in ids]]
        folder = fold_folder(runs, run, k)
        pred = np.array([row(run, name) for name in ids])
        save_predictions(folder / "oof.npz", Predictions(ids, pred, CLASSES, np.full(len(ids), k), target))
        ids = random.permutation(TEST_IDS)
        pred = np.array([row(run, name, k) for name in ids])
        save_predictions(folder / "test.npz", Predictions(ids, pred, CLASSES, np.full(len(ids), k)))
        write_json(folder / "manifest.json", {"fold": k})


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed, run in enumerate(("a", "b", "c")):
        write_run(tmp_path, run, seed=seed)
    return tmp_path


def change(runs: Path, file: str, **values: object) -> None:
    """Replace arrays of a predictions file of run b."""
    path = runs / "b" / file
    save_predictions(path, Predictions(**{**vars(load_predictions(path)), **values}))  # type: ignore[arg-type]


def test_rows_are_aligned_by_id(runs: Path) -> None:
    members = load_members(runs, ["b", "a", "c"])
    assert members.oof.shape == (3, 30, 3) and members.oof.dtype == np.float32 and members.folds == [0, 1, 2]
    assert sorted(members.ids) == IDS.tolist()
    for place, name in enumerate(members.ids.tolist()):
        number = int(name[1:])
        assert members.fold[place] == number % 3 and members.y[place] == number // 3 % 3
        np.testing.assert_array_equal(members.oof[:, place], [row(run, name) for run in "bac"])
    for k in range(3):
        test = load_test(runs, members, k)
        assert test.shape == (3, 7, 3) and test.dtype == np.float32
        for place, name in enumerate(members.test_ids.tolist()):
            np.testing.assert_array_equal(test[:, place], [row(run, name, k) for run in "bac"])


def test_an_unfinished_fold_is_refused_unless_another_is_named(runs: Path) -> None:
    (runs / "b" / "fold1" / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"runs: 'b' has not finished fold 1; .*fold=0"):
        load_members(runs, ["a", "b"])
    with pytest.raises(UserError, match="runs: 'b' has not finished fold 1; train it"):
        load_members(runs, ["a", "b"], fold=1)
    assert load_members(runs, ["a", "b"], fold=2).folds == [2]
    assert load_members(runs, ["a", "c"]).folds == [0, 1, 2]
    shutil.rmtree(runs / "c" / "fold0")
    with pytest.raises(UserError, match="runs: 'b' has not finished fold 1"):
        load_members(runs, ["b", "c"])
    for k in range(3):
        shutil.rmtree(runs / "b" / f"fold{k}")
    with pytest.raises(UserError, match="runs: 'b' has not finished any fold"):
        load_members(runs, ["b"])


def test_names(runs: Path) -> None:
    with pytest.raises(UserError, match=r"runs=\[\]: name the runs to combine.*a, b, c"):
        load_members(runs, [])
    with pytest.raises(UserError, match=r"runs: no such run 'd' in .* \(a, b, c\)"):
        load_members(runs, ["a", "d"])
    with pytest.raises(UserError, match="'a' is named more than once"):
        load_members(runs, ["a", "b", "a"])


def test_other_ids(runs: Path) -> None:
    ids = load_predictions(runs / "b" / "fold0" / "oof.npz").ids.copy()
    gone, ids[3] = str(ids[3]), "i99"
    change(runs, "fold0/oof.npz", ids=ids)
    with pytest.raises(
        UserError, match=rf"runs: 'b' has other rows than 'a': 1 ids missing \({gone}\), 1 unknown \(i99"
    ):
        load_members(runs, ["a", "b"])


def test_other_folds(runs: Path) -> None:
    one, two = (load_predictions(runs / "b" / f"fold{k}" / "oof.npz") for k in (0, 1))
    change(runs, "fold0/oof.npz", ids=two.ids, target=two.target)
    change(runs, "fold1/oof.npz", ids=one.ids, target=one.target)
    with pytest.raises(UserError, match=r"runs: 'b' has another fold than 'a' in 20 of 30 rows \(i\d\d: \d against \d"):
        load_members(runs, ["a", "b"])
    change(runs, "fold1/oof.npz", fold=np.full(10, 2))
    with pytest.raises(UserError, match=r"b/fold1/oof\.npz: holds no out-of-fold predictions of fold 1"):
        load_members(runs, ["a", "b"])
    change(runs, "fold1/oof.npz", fold=np.full(10, 1), ids=two.ids)
    with pytest.raises(UserError, match="runs: 'b': an id occurs twice"):
        load_members(runs, ["a", "b"])


def test_other_targets(runs: Path) -> None:
    target = load_predictions(runs / "b" / "fold2" / "oof.npz").target
    assert target is not None
    change(
        runs,
        "fold2/oof.npz",
        target=np.where(np.arange(10) < 2, np.roll(CLASSES, 1)[[0, 0, 1, 2, 0, 1, 2, 0, 1, 2]], target),
    )
    with pytest.raises(UserError, match=r"runs: 'b' has another target than 'a' in \d of 30 rows \(i\d\d: \w+ against"):
        load_members(runs, ["a", "b"])


def test_other_classes(runs: Path) -> None:
    change(runs, "fold0/oof.npz", classes=np.array(["cat", "dog", "fox"]))
    for k in (1, 2):
        change(runs, f"fold{k}/oof.npz", classes=np.array(["cat", "dog", "fox"]))
    with pytest.raises(UserError, match=r"'b' has other classes than 'a': 1 missing \(eel\), 1 unknown \(fox\)"):
        load_members(runs, ["a", "b"])
    for k in range(3):
        change(runs, f"fold{k}/oof.npz", classes=CLASSES[::-1])
    with pytest.raises(UserError, match="other classes than 'a': in another order"):
        load_members(runs, ["a", "b"])


def test_other_test_rows(runs: Path) -> None:
    members = load_members(runs, ["a", "b"])
    ids = load_predictions(runs / "b" / "fold1" / "test.npz").ids.copy()
    ids[ids == "t3"] = "t8"
    change(runs, "fold1/test.npz", ids=ids)
    assert load_test(runs, members, 0).shape == (2, 7, 3)
    with pytest.raises(
        UserError, match=r"'b' fold 1 has other test rows than 'a': 1 ids missing \(t3\), 1 unknown \(t8"
    ):
        load_test(runs, members, 1)
