"""Finished runs as members of an ensemble: their predictions in one order of rows, refused where they do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.competition.kinds import task_of
from src.competition.task import Task
from src.errors import UserError, first_few, nearest
from src.ids import differ
from src.predictions import Predictions, align, concatenate, load_predictions
from src.runs.folder import Runs, finished_folds, fold_folder, run_names


@dataclass(frozen=True)
class Members:
    """R runs on the N rows of the folds in use, fold by fold, and M test rows, both in the first run's order."""

    names: tuple[str, ...]
    ids: np.ndarray  # (N,) str
    y: np.ndarray  # targets, as the task encodes them
    fold: np.ndarray  # (N,) int64
    task: Task
    oof: np.ndarray  # (R, N, C) float32
    test_ids: np.ndarray  # (M,) str

    @property
    def folds(self) -> list[int]:
        return np.unique(self.fold).tolist()


def load_members(runs: Runs | Path, names: Sequence[str], fold: int | None = None) -> Members:
    """Out-of-fold predictions of the runs `names` under `runs`, aligned by id.

    Without `fold`, all finished folds count, and all runs must have finished the same. Raises UserError that names
    the run if it is not there, lacks a fold, or has other ids, folds, classes or targets than the first.
    """
    _check_names(runs, names)
    folds = _common_folds(runs, names, fold)
    first = _load(runs, names[0], folds)
    oof = np.empty((len(names), *first.pred.shape), np.float32)  # filled in place: a stack would need twice the memory
    oof[0] = first.pred
    for r, name in enumerate(names[1:], start=1):
        other = _load(runs, name, folds)
        _compare(names[0], first, name, other)
        oof[r] = align(other, first.ids).pred
    test = load_predictions(fold_folder(runs, names[0], folds[0]) / "test.npz")
    task = task_of(first.kind, first.classes)
    assert first.target is not None
    return Members(tuple(names), first.ids, task.encode(first.target), first.fold, task, oof, test.ids)


def load_test(runs: Runs | Path, members: Members, k: int) -> np.ndarray:
    """Test predictions of the members' fold-k models, (R, M, C) float32, rows in the order of `members.test_ids`."""
    test = np.empty((len(members.names), len(members.test_ids), len(members.task.names)), np.float32)
    for r, name in enumerate(members.names):
        part = load_predictions(fold_folder(runs, name, k) / "test.npz")
        _same_classes(members.names[0], members.task.names, name, part.classes)
        if text := differ(members.test_ids, part.ids, "ids missing"):
            raise UserError(
                f"runs: {name!r} fold {k} has other test rows than {members.names[0]!r}: {text}; "
                f"train it again on the present test rows"
            )
        test[r] = align(part, members.test_ids).pred
    return test


def _check_names(runs: Runs | Path, names: Sequence[str]) -> None:
    there = run_names(runs)
    if not names:
        raise UserError(f"runs=[]: name the runs to combine, runs=[a,b] ({', '.join(there) or f'none in {runs} yet'})")
    for name in names:
        if name not in there:
            raise UserError(
                f"runs: no such run {name!r} in {runs}{nearest(name, there)} ({', '.join(there) or 'none yet'})"
            )
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise UserError(f"runs: {repeated[0]!r} is named more than once; name each run once")


def _common_folds(runs: Runs | Path, names: Sequence[str], fold: int | None) -> list[int]:
    done = {name: finished_folds(runs, name) for name in names}
    wanted = sorted(set().union(*done.values())) if fold is None else [fold]
    common = sorted(set(wanted).intersection(*done.values()))
    for name in names:
        lacking = sorted(set(wanted) - set(done[name]))
        if lacking or not wanted:
            count = f"fold {lacking[0]}" if len(lacking) == 1 else f"folds {', '.join(map(str, lacking))}"
            if fold is not None or not common:
                cure = f"train it first: fold={lacking[0] if lacking else 'all'} with its own settings"
            else:
                cure = f"train it, or name a fold that all have finished, fold={common[0]}"
            raise UserError(f"runs: {name!r} has not finished {count if lacking else 'any fold'}; {cure}")
    return wanted


def _load(runs: Runs | Path, name: str, folds: Sequence[int]) -> Predictions:
    parts = []
    for k in folds:
        path = fold_folder(runs, name, k) / "oof.npz"
        part = load_predictions(path)
        if part.target is None or not (part.fold == k).all():
            raise UserError(f"{path}: holds no out-of-fold predictions of fold {k}; train the fold again")
        parts.append(part)
    try:
        return concatenate(parts)
    except AssertionError as error:  # an id in two folds: the run's folds were changed half-way
        raise UserError(f"runs: {name!r}: {error} of its folds {first_few(folds, 9)}; train it again") from None


def _compare(first: str, one: Predictions, name: str, other: Predictions) -> None:
    """UserError if `other` is not about the rows, folds, classes and targets of `one`."""
    _same_classes(first, one.classes, name, other.classes)
    if text := differ(one.ids, other.ids, "ids missing"):
        raise UserError(f"runs: {name!r} has other rows than {first!r}: {text}; combine runs of the same folds file")
    aligned = align(other, one.ids)
    assert one.target is not None and aligned.target is not None
    for what, mine, its in (("fold", one.fold, aligned.fold), ("target", one.target, aligned.target)):
        moved = np.flatnonzero(mine != its)
        if len(moved):
            examples = [f"{one.ids[row]}: {mine[row]} against {its[row]}" for row in moved[:4].tolist()]
            raise UserError(
                f"runs: {name!r} has another {what} than {first!r} in {len(moved)} of {len(mine)} rows "
                f"({first_few(examples)}); combine runs of the same folds file"
            )


def _same_classes(first: str, one: np.ndarray, name: str, other: np.ndarray) -> None:
    if not np.array_equal(one, other):
        text = differ(one, other) or "in another order"
        raise UserError(f"runs: {name!r} has other classes than {first!r}: {text}; combine runs of one competition")
