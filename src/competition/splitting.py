"""Which row is held out in which fold: strata, groups, classes too rare for all folds, rows that stay together."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from src.competition.spreading import spread_labels
from src.errors import UserError, counted, first_few, nearest

if TYPE_CHECKING:
    from scipy.sparse import csr_array

KINDS = ("auto", "stratified", "group", "stratified_group")


def make_folds(
    labels: np.ndarray,
    groups: np.ndarray | None,
    n: int,
    seed: int,
    kind: str = "auto",
    classes: Sequence[str] | np.ndarray | None = None,
    several: csr_array | None = None,
) -> np.ndarray:
    """The fold of each row, (N,) int64 in 0 .. n-1, each number used. labels (N,) int, groups (N,) str or None.

    kind: stratified (each fold has its share of each class), group (rows of one group stay together, folds of about
    equal size), stratified_group (both, as far as the groups allow); auto takes stratified_group if there are groups.
    several: (N, L) of ones, the labels of each row, of which each fold has its share instead (`spread_labels`).
    Classes of fewer than n rows cannot be held out by every fold: their rows stay in training, fold -1, for every kind,
    but for those in a group with rows of other classes, which stays whole. `classes` (C,) only names the classes in
    messages. Raises UserError for what cannot be split.
    """
    if kind not in KINDS:
        raise UserError(f"folds.kind={kind!r}{nearest(kind, KINDS)} (choices: {', '.join(KINDS)})")
    if n < 2:
        raise UserError(f"folds.n={n}: cross-validation takes at least 2 folds")
    if kind == "auto":
        kind = "stratified" if groups is None else "stratified_group"
    grouped = None if kind == "stratified" else groups
    if kind != "stratified" and grouped is None:
        raise UserError(f"folds.kind={kind} needs groups; set competition.group_column= or folds.kind=stratified")
    folds = np.full(len(labels), -1, dtype=np.int64)
    if several is not None and kind != "group":
        units = np.arange(len(labels)) if grouped is None else _units(grouped, n)
        if len(labels) < n:
            raise UserError(f"{len(labels)} rows cannot fill folds.n={n}; set a smaller folds.n=")
        folds[:] = spread_labels(several, units, n, seed)
    else:
        # several labels have no rows that are rare: a stratum of few is not a class
        kept = np.arange(len(labels)) if several is not None else np.flatnonzero(_held_out(labels, grouped, n, classes))
        own, among = labels[kept], None if grouped is None else grouped[kept]
        if among is None:
            splits = _stratified(own, n, seed)
        else:
            splits = _grouped(own, among, n, seed, stratify=kind == "stratified_group")
        for number, rows in enumerate(splits):
            folds[kept[rows]] = number
        if among is not None:
            folds[kept] = _fill_empty(folds[kept], among, n)
    assert set(folds[folds >= 0].tolist()) == set(range(n)), "no fold is empty"
    return folds


def _held_out(
    labels: np.ndarray, groups: np.ndarray | None, n: int, classes: Sequence[str] | np.ndarray | None
) -> np.ndarray:
    """(N,) bool: all rows but those of classes that have fewer than n, and groups (N,) of such rows alone. Raises
    UserError if that leaves fewer than two classes of several, or none."""
    numbers, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    frequent = (counts >= n)[inverse.reshape(-1)]
    if groups is not None:
        codes = np.unique(groups, return_inverse=True)[1].reshape(-1)
        frequent = (np.bincount(codes, weights=frequent) > 0)[codes]
    few = np.flatnonzero(counts < n)
    if len(few) and len(np.unique(labels[frequent])) < min(2, len(numbers)):
        number, rows = int(numbers[few[0]]), int(counts[few[0]])
        name = str(classes[number]) if classes is not None else str(number)
        others = f" (and {len(few) - 1} more classes)" if len(few) > 1 else ""
        if rows > 1:
            cure = f"set folds.n={rows} or less, or merge rare classes in the training table"
        elif len(few) > 1:
            cure = "merge such classes in the training table, so that each has 2 rows or more, and set folds.n=2"
        else:
            cure = "add at least one row of it to the training table and set folds.n=2"
        raise UserError(f"class {name!r}{others} has {counted(rows, 'row')}, fewer than folds.n={n}; {cure}")
    return frequent


def _stratified(labels: np.ndarray, n: int, seed: int) -> list[np.ndarray]:
    from sklearn.model_selection import StratifiedKFold

    splitter = StratifiedKFold(n, shuffle=True, random_state=seed)
    return [val for _, val in splitter.split(np.zeros(len(labels)), labels)]


def _units(groups: np.ndarray, n: int) -> np.ndarray:
    """The number of each row's group, (N,) int64. UserError if there are fewer than n."""
    names, codes = np.unique(groups, return_inverse=True)
    if len(names) < n:
        raise UserError(
            f"{len(names)} groups ({first_few(names.tolist())}) cannot fill folds.n={n}; "
            "set a smaller folds.n= or another competition.group_column="
        )
    return codes.reshape(-1)


def _grouped(labels: np.ndarray, groups: np.ndarray, n: int, seed: int, stratify: bool) -> list[np.ndarray]:
    codes = _units(groups, n)
    # The seed renumbers the groups instead of `shuffle=True`, with which StratifiedGroupKFold loses the stratification
    # in older releases. RandomState, because its stream is frozen: a seed makes the same file with every NumPy.
    shuffled = np.random.RandomState(seed).permutation(int(codes.max()) + 1)[codes]
    if not stratify:
        folds = _lightest_fold(np.bincount(shuffled), n)[shuffled]
        return [np.flatnonzero(folds == number) for number in range(n)]

    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(n)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # whose rows go with their groups
        return [val for _, val in splitter.split(np.zeros(len(labels)), labels, shuffled)]


def _lightest_fold(sizes: np.ndarray, n: int) -> np.ndarray:
    """The fold of each group, (G,) int64: largest group first, each into the fold with the fewest rows so far.

    This is GroupKFold, whose sort is not stable: groups of equal size would go elsewhere on another processor.
    """
    folds, rows = np.zeros(len(sizes), dtype=np.int64), np.zeros(n, dtype=np.int64)
    for group in np.argsort(-sizes, kind="stable"):
        folds[group] = rows.argmin()
        rows[folds[group]] += sizes[group]
    return folds


def _fill_empty(folds: np.ndarray, groups: np.ndarray, n: int) -> np.ndarray:
    """The folds (N,) with a group in each: StratifiedGroupKFold leaves some empty where there are hardly more groups
    than folds. The smallest group of the fold with most groups moves to an empty one."""
    codes = np.unique(groups, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(codes)
    of_group = np.zeros(len(sizes), np.int64)
    of_group[codes] = folds
    for empty in np.setdiff1d(np.arange(n), of_group):
        fullest = np.bincount(of_group, minlength=n).argmax()
        inside = np.flatnonzero(of_group == fullest)
        of_group[inside[sizes[inside].argmin()]] = empty
    return of_group[codes]


def merge_groups(groups: np.ndarray | None, links: np.ndarray) -> np.ndarray:
    """Rows are together if either `groups` (N,) str or `links` (N,) int has them together, or a chain of such rows.

    Returns (N,) str: of each merged group the smallest of its names in `groups`, or its number without them.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, linked = np.unique(links, return_inverse=True)
    if groups is None:
        return linked.reshape(-1).astype(np.str_)
    names, named = np.unique(groups, return_inverse=True)
    ends = (named.reshape(-1), len(names) + linked.reshape(-1))  # a graph of groups and links, each row an edge
    size = int(ends[1].max()) + 1
    graph = coo_array((np.ones(len(groups), np.int8), ends), shape=(size, size))
    part = connected_components(graph, directed=False)[1][: len(names)]
    _, smallest, inverse = np.unique(part, return_index=True, return_inverse=True)
    return names[smallest[inverse.reshape(-1)]][ends[0]]
