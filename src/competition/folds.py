"""Cross-validation folds: made once, kept in a csv file that is checked against the data each time it is used."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TextIO

import numpy as np

from src.competition.csv_file import read_columns, read_header, refuse_repeats, replace_file
from src.competition.splitting import make_folds, merge_groups
from src.competition.tables import Competition
from src.errors import UserError, counted, first_few, nearest
from src.ids import find_rows, in_parts, only_in
from src.log import say
from src.seeds import Stream, generator

WHOLE = re.compile(r"(\d{1,6}|-1)(\.0+)?", re.ASCII)
# What the columns of fold files are called, in any case; the ids' also as in the training table.
NAMES = {"id": ("image_id", "image"), "fold": ("fold", "kfold", "folds", "k_fold", "cv")}


@dataclass(frozen=True)
class Fold:
    """Row numbers into the training table, ascending (int64): what is learnt from and what is held out."""

    train: np.ndarray
    val: np.ndarray


def load_folds(
    path: Path, competition: Competition, n: int, seed: int, kind: str = "auto", duplicates: np.ndarray | None = None
) -> np.ndarray:
    """The fold of each training row, (N,) int64, in the order of the competition's rows; -1: held out by none.

    Reads `path` (csv: id, target, fold) if it exists, whoever made it, and makes it otherwise; seed and kind only
    matter then. In a file of the user's own the columns may be called as in NAMES, and the target may be missing.
    Raises UserError if the file was made for other ids or targets, with another number of folds, if it has an empty
    fold, or if a group straddles folds.
    duplicates: (N,) int64, equal for rows that are copies of each other; they are kept in one fold like a group.
    """
    groups, task = competition.train.groups, competition.task
    if duplicates is not None and len(np.unique(duplicates)) < len(duplicates):
        if kind == "stratified":
            raise UserError("folds.kind=stratified splits duplicates; set folds.kind=auto with folds.group_duplicates")
        groups = merge_groups(groups, duplicates)
    cure = elsewhere(path, competition.root)
    if not path.exists():
        y = competition.y
        folds = make_folds(task.strata(y), groups, n, seed, kind, task.names, task.labels(y))
        if (folds < 0).any():
            rare = sorted(set(task.cells(y[folds < 0]).tolist()))
            say(
                f"{path}: {counted(len(rare), 'class has', 'classes have')} fewer rows than folds.n={n} "
                f"({first_few(rare)}); {counted(int((folds < 0).sum()), 'row stays', 'rows stay')} in training, fold -1"
            )
        replace_file(path, lambda file: _write(file, competition, folds))
    # Also what was just written is read back: two processes may have raced, and there is one way to be right.
    columns = _columns(path, competition.id_column, cure)
    refuse_repeats(columns["id"], path)
    rows = _match(path, columns, competition, cure)
    folds = _numbers(path, columns["fold"], n, cure)[rows]
    if competition.train.groups is not None:
        _require_whole_groups(path, folds, competition.train.groups, cure)
    if duplicates is not None:
        _require_whole_duplicates(path, folds, duplicates, competition.train.ids, cure)
    return folds


def elsewhere(path: Path, root: Path) -> str:
    """How to have other folds made than those of the file `path`, which may be the user's own and is left alone; never
    in the competition's folder."""
    folder = Path("folds") if path.resolve().is_relative_to(root.resolve()) else path.parent
    free = next(place for i in count(2) if not (place := folder / f"{path.stem}-{i}.csv").exists())
    return f"set folds.file={free} to have new folds made there"


def _write(file: TextIO, competition: Competition, folds: np.ndarray) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["id", "target", "fold"])
    columns = (competition.train.ids, competition.task.cells(competition.y), folds)
    for part in zip(*map(in_parts, columns), strict=True):
        writer.writerows(zip(*part, strict=True))


def _columns(path: Path, id_column: str, cure: str) -> dict[str, np.ndarray]:
    """id, fold and, if it is there, target of a fold file, each (N,) str."""
    header = read_header(path, "folds.file")
    found = {"target": "target"} if "target" in header else {}
    for key, names in (("id", ("id", id_column, *NAMES["id"])), ("fold", NAMES["fold"])):
        there = [name for word in names for name in header if word and name.lower() == word.lower()]
        if not there:
            raise UserError(
                f"{path}: no column {key!r}{nearest(key, header)} (columns: {', '.join(header)}); call the column of "
                f"the {'ids' if key == 'id' else 'fold numbers'} {key} in it, or {cure}"
            )
        found[key] = there[0]
    columns = read_columns(path, list(found.values()), "folds.file", required=[found["id"]])
    return {key: columns[name] for key, name in found.items()}


def _match(path: Path, columns: dict[str, np.ndarray], competition: Competition, cure: str) -> np.ndarray:
    """For each training row its row in the file, (N,) int64; UserError saying what changed."""
    new, gone = only_in(competition.train.ids, columns["id"]), only_in(columns["id"], competition.train.ids)
    changes = []
    if new:
        changes.append(f"{counted(len(new), 'id is', 'ids are')} new ({first_few(new)})")
    if gone:
        changes.append(f"{counted(len(gone), 'is', 'are')} gone ({first_few(gone)})")
    if not changes:
        rows = find_rows(columns["id"], competition.train.ids)
        if "target" not in columns:  # a file of the user's own
            return rows
        before, now = columns["target"][rows], competition.task.cells(competition.y)
        moved = np.flatnonzero(before != now).tolist()
        if not moved:
            return rows
        examples = [f"{competition.train.ids[item]}: {before[item]} -> {now[item]}" for item in moved[:4]]
        changes.append(f"{counted(len(moved), 'target')} changed ({first_few(examples)})")
    raise UserError(f"{path} was made for other data: {', '.join(changes)}; restore those, or {cure}")


def _numbers(path: Path, cells: np.ndarray, n: int, cure: str) -> np.ndarray:
    """The fold column as (N,) int64 that uses each of 0 .. n-1; -1 for rows that are never held out.

    Numbers that count from 1 become those that count from 0; 2.0 is 2, as pandas writes it.
    """
    names, inverse = np.unique(cells, return_inverse=True)
    wrong = [name for name in names.tolist() if not WHOLE.fullmatch(name)]
    if wrong:
        raise UserError(
            f"{path}: fold {wrong[0]!r} is not a number from 0 to {n - 1}, or -1 for rows that are never held out; "
            f"correct it, or {cure}"
        )
    numbers = np.array([int(float(name)) for name in names.tolist()], dtype=np.int64)
    used = np.unique(numbers[numbers >= 0])
    if len(used) < 2:
        raise UserError(
            f"{path} has {'no fold' if not len(used) else f'only fold {used[0]}'}, and it takes two that are held out "
            f"in turn; number more of its rows, or {cure}"
        )
    if used[0] == 1 and np.array_equal(used, np.arange(1, used[-1] + 1)):
        say(f"{path}: its folds count from 1; they are 0 to {used[-1] - 1} here")
        numbers[numbers >= 0] -= 1
    empty = sorted(set(range(int(numbers.max()))) - set(numbers.tolist()))
    if empty:
        raise UserError(f"{path}: fold {empty[0]} has no rows; number its folds from 0 without a gap, or {cure}")
    if len(used) != n:
        raise UserError(f"{path} has {len(used)} folds, but folds.n={n}; set folds.n={len(used)}, or {cure}")
    return numbers[inverse.reshape(-1)]


def _require_whole_groups(path: Path, folds: np.ndarray, groups: np.ndarray, cure: str) -> None:
    pairs = np.unique(np.rec.fromarrays([np.unique(groups, return_inverse=True)[1].reshape(-1), folds]))
    names = np.unique(groups)
    codes, counts = np.unique(pairs["f0"], return_counts=True)
    torn = codes[counts > 1]
    if len(torn):
        first = str(names[torn[0]])
        sides = ", ".join(str(fold) for fold in np.unique(folds[groups == first]).tolist())
        raise UserError(
            f"{path}: {counted(len(torn), 'group is', 'groups are')} split, e.g. {first!r} is in folds "
            f"{sides}; {cure}, which keep groups together"
        )


def _require_whole_duplicates(
    path: Path, folds: np.ndarray, duplicates: np.ndarray, ids: np.ndarray, cure: str
) -> None:
    order = np.argsort(duplicates, kind="stable")
    torn = (np.diff(duplicates[order]) == 0) & (np.diff(folds[order]) != 0)
    if torn.any():
        one, other = order[np.flatnonzero(torn)[0] :][:2]
        sets = len(np.unique(duplicates[order[1:][torn]]))
        raise UserError(
            f"{path}: {counted(sets, 'set of duplicate images is', 'sets of duplicate images are')} "
            f"split, e.g. {ids[one]} is in fold {folds[one]} and its copy {ids[other]} in fold {folds[other]}; "
            f"{cure}, which keep duplicates together, or folds.group_duplicates=false"
        )


def fold_rows(folds: np.ndarray, k: int) -> Fold:
    """Rows of fold k, held out, and all others, learnt from. UserError naming the range if there is no fold k."""
    last = int(folds.max())
    if not 0 <= k <= last:
        raise UserError(f"fold={k}: folds go from 0 to {last}")
    return Fold(train=np.flatnonzero(folds != k), val=np.flatnonzero(folds == k))


def halves_of(strata: np.ndarray, groups: np.ndarray | None, seed: int) -> np.ndarray:
    """(V,) bool: half of the held-out rows, with the strata's shares, or whole groups (V,) where there are some."""
    unit = np.arange(len(strata)) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    order = generator(seed, Stream.HALVES).permutation(int(unit.max()) + 1)
    if groups is not None:
        return order[unit] % 2 == 0
    ranked = np.lexsort((order, strata))  # each stratum in random order, one after the other
    halves = np.empty(len(strata), bool)
    halves[ranked] = np.arange(len(strata)) % 2 == 0
    return halves
