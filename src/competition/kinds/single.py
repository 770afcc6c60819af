"""One label per row: classes, of which a prediction is the probabilities."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import ClassVar

import numpy as np

from src.competition.metrics import METRICS, Metric, log_loss
from src.competition.sample import Sample, match_classes, positive_of, wrong_probabilities
from src.errors import UserError, counted, first_few, nearest
from src.ids import in_parts


@dataclass(frozen=True)
class Single:
    """names (C,) str, sorted; numerically if all are integers: "2" before "10". y is (N,) int64 into them."""

    names: np.ndarray
    kind: ClassVar[str] = "single"
    exclusive: ClassVar[bool] = True
    numeric: ClassVar[bool] = False
    metrics: ClassVar[Mapping[str, Metric]] = METRICS
    blends: ClassVar[tuple[str, ...]] = ("vote", "soft", "geometric", "rank", "climb", "convex")

    needs_a_cell: ClassVar[bool] = True  # in the training table

    @property
    def groups(self) -> tuple[int, ...]:
        return (len(self.names),)

    @staticmethod
    def target_columns(column: str | None, candidates: list[str], sample: Sample, path: Path) -> list[str]:
        """The one target column among the `candidates` of the training table `path`: configured, else the sample's
        other column, else the only one that is left. Raises UserError where that is not enough."""
        if column is None and len(sample.value_columns) == 1 and sample.value_columns[0] in candidates:
            return [sample.value_columns[0]]
        found = candidates if column is None else [column]
        if len(found) != 1:
            choices = f"one of: {', '.join(found)}" if found else "the labels' column; there is none besides the ids"
            raise UserError(f"{path}: which column is the target? Set competition.target_column= to {choices}")
        return found

    @classmethod
    def learn(
        cls, table: Mapping[str, np.ndarray], place: str, merge: bool, say: Callable[[str], None]
    ) -> tuple[Single, np.ndarray]:
        """The task and y of a training table's target column (N,) str, or of one 0/1 column per class, in `place`.

        Labels that differ only in case or spaces are reported through `say`, or merged if `merge`. Raises UserError for
        fewer than two classes.
        """
        if len(table) > 1:
            return cls._of_columns(table, place)
        ((column, cells),) = table.items()
        if alike := similar_labels(cells):
            say(_describe(alike, cells, f"{place}: column {column!r}", merge))
            if merge:
                cells = np.array([alike.get(name, name) for name in cells.tolist()], dtype=np.str_)
        names = np.array(sort_classes(chain.from_iterable(in_parts(cells))), dtype=np.str_)
        if len(names) < 2:
            raise UserError(
                f"{place}: column {column!r} holds only {str(names[0])!r}; it takes two classes to learn "
                "(see competition.target_column=)"
            )
        task = cls(names)
        return task, task.encode(cells)

    @classmethod
    def _of_columns(cls, table: Mapping[str, np.ndarray], place: str) -> tuple[Single, np.ndarray]:
        for column, cells in table.items():
            strange = sorted(set(cells.tolist()) - {"0", "1", "0.0", "1.0"})
            if strange:
                raise UserError(f"{place}: column {column!r} holds {strange[0]!r}; a column per class is 0 or 1")
        ones = np.stack([cells.astype(np.float64) for cells in table.values()], axis=1).sum(axis=1)
        if (ones != 1).any():
            row = int(np.flatnonzero(ones != 1)[0])
            raise UserError(
                f"{place}: {int(ones[row])} of the {len(table)} class columns are 1 in row {row + 1}; with one label "
                "per row it is exactly one (competition.kind=multi is for several)"
            )
        task = cls(np.array(sort_classes(table), dtype=np.str_))
        return task, task.encode(task.cells_of(table))

    def cells_of(self, table: Mapping[str, np.ndarray]) -> np.ndarray:
        """A column of labels as it is; of one column per class, the class of the largest number."""
        if len(table) == 1:
            return next(iter(table.values()))
        return np.array(list(table), dtype=np.str_)[np.stack([*table.values()], 1).astype(np.float64).argmax(axis=1)]

    def encode(self, cells: np.ndarray) -> np.ndarray:
        """(N,) str -> (N,) int64."""
        number = {name: position for position, name in enumerate(self.names.tolist())}
        try:
            parts = [np.array([number[cell] for cell in part], np.int64) for part in in_parts(cells)]
        except KeyError:
            strange = [cell for cell in dict.fromkeys(cells.tolist()) if cell not in number]
            raise UserError(
                f"{counted(len(strange), 'label is', 'labels are')} no class ({first_few(strange)})"
            ) from None
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def cells(self, y: np.ndarray) -> np.ndarray:
        return self.names[y]

    def strata(self, y: np.ndarray) -> np.ndarray:
        return y

    def labels(self, y: np.ndarray) -> None:
        return None

    def prior(self, y: np.ndarray, metric: str = "") -> np.ndarray:
        """The classes' shares."""
        return np.bincount(y, minlength=len(self.names)) / len(y)

    def holds(self, y: np.ndarray, column: np.ndarray) -> np.ndarray:
        return y == column

    def credit(self, y: np.ndarray, pred: np.ndarray) -> np.ndarray:
        return pred[np.arange(len(y)), y].astype(np.float64)

    def loss(self, y: np.ndarray, pred: np.ndarray) -> float:
        return log_loss(y, pred)

    def shown(self, y: np.ndarray, pred: np.ndarray) -> np.ndarray:
        return pred.argmax(axis=1)

    def describe(self, y: np.ndarray) -> list[str]:
        counts = np.bincount(y, minlength=len(self.names)).tolist()
        return ["classes  " + ", ".join(f"{name} {count}" for name, count in zip(self.names, counts, strict=True))]

    def submit(self, pred: np.ndarray, sample: Sample) -> dict[str, np.ndarray]:
        """The most probable class, or the best few as words; the probability of one of two classes, or of each."""
        wide = len(sample.value_columns) > 1
        if sample.kind == "labels" and not wide:
            return {sample.value_columns[0]: self.names[pred.argmax(axis=1)].astype(object)}
        if sample.kind == "ranked":
            best = np.argsort(-pred, axis=1, kind="stable")[:, : sample.guesses]
            return {sample.value_columns[0]: np.array([" ".join(names) for names in self.names[best]], dtype=object)}
        if sample.kind == "confident":
            surest = zip(self.names[pred.argmax(axis=1)].tolist(), pred.max(axis=1).tolist(), strict=True)
            return {sample.value_columns[0]: np.array([f"{name} {sure:.6f}" for name, sure in surest], dtype=object)}
        if sample.kind == "positive":
            return {sample.value_columns[0]: pred[:, positive_of(self.names, sample.positive)]}
        positions = match_classes(sample.value_columns, self.names.tolist())
        values = np.eye(len(self.names), dtype=np.int64)[pred.argmax(axis=1)] if sample.kind == "labels" else pred
        return {column: values[:, at] for column, at in zip(sample.value_columns, positions, strict=True)}

    def wrong(self, values: list[object], sample: Sample) -> tuple[list[int], str]:
        known = set(self.names.tolist())
        if sample.kind in ("ranked", "confident"):
            many = slice(0, 1 if sample.kind == "confident" else None)
            rows = [row for row, words in enumerate(values) if not set(str(words).split()[many]) <= known]
            return rows, "holds a word that is no class" if rows else ""
        if sample.kind != "labels" or len(sample.value_columns) > 1:
            return wrong_probabilities(values)
        rows = [number for number, label in enumerate(values) if str(label) not in known]
        return rows, f"not a class{nearest(str(values[rows[0]]), known)}" if rows else ""

    def parse(self, table: Mapping[str, np.ndarray], place: str, ids: np.ndarray) -> np.ndarray:
        names = self.names.tolist()
        if len(table) > 1:
            pred = np.zeros((len(ids), len(names)))
            for column, at in zip(table, match_classes(list(table), names), strict=True):
                pred[:, at] = probabilities(place, ids, column, table[column])
            return pred
        ((column, cells),) = table.items()
        strange = sorted(set(cells.tolist()) - set(names))
        if not strange:
            return np.eye(len(names))[self.encode(cells)]
        if len(names) == 2 and all(is_probability(cell) for cell in set(cells.tolist())):
            last = cells.astype(np.float64)
            return np.stack([1 - last, last], axis=1)
        if (ranked := self._ranked(cells)) is not None:
            return ranked
        first = str(ids[cells == strange[0]][0])
        raise UserError(
            f"{place}: {counted(len(strange), 'label is', 'labels are')} no class "
            f"({first_few(strange)}; the first at id {first!r}); "
            f"classes are {first_few(names, 10)}"
        )

    def _ranked(self, cells: np.ndarray) -> np.ndarray | None:
        """(M, C) from cells that hold the best few classes as words, or a class and how sure it is; None for others."""
        number = {name: position for position, name in enumerate(self.names.tolist())}
        pred = np.zeros((len(cells), len(number)))
        for row, cell in enumerate(cells.tolist()):
            words = cell.split()
            if len(words) == 2 and words[0] in number and words[1] not in number and is_probability(words[1]):
                pred[row, number[words[0]]] = float(words[1])
            elif all(word in number for word in words):
                pred[row, [number[word] for word in words]] = 1 / np.arange(1, len(words) + 1)
            else:
                return None
        return pred


def sort_classes(names: Iterable[str]) -> list[str]:
    """Class names in their order: as numbers if all are integers, else as text."""
    unique = sorted(set(names))
    if all(re.fullmatch(r"[+-]?[0-9]+", name) for name in unique):
        unique.sort(key=int)
    return unique


def similar_labels(targets: np.ndarray) -> dict[str, str]:
    """Labels of (N,) str that differ only in case or spaces -> the most frequent spelling (of equals, the first).

    Holds every spelling of each such group, the most frequent one included; empty if there are none.
    """
    counts = Counter(chain.from_iterable(in_parts(targets)))
    groups: dict[str, list[str]] = {}
    for name in sorted(counts):
        groups.setdefault(" ".join(name.casefold().split()), []).append(name)
    alike = [group for group in groups.values() if len(group) > 1]
    return {name: max(group, key=counts.__getitem__) for group in alike for name in group}


def _describe(alike: Mapping[str, str], targets: np.ndarray, place: str, merged: bool) -> str:
    counts = Counter(chain.from_iterable(in_parts(targets)))
    spellings: dict[str, list[str]] = {}
    for name, usual in alike.items():
        spellings.setdefault(usual, []).append(f"{name!r} ({counted(counts[name], 'row')})")
    groups = first_few([" and ".join(names) for names in spellings.values()])
    what = "merged" if merged else "kept apart; competition.merge_labels=true merges them to the most frequent spelling"
    return f"{place}: labels differ only in case or spaces: {groups}: {what}"


def is_probability(cell: str) -> bool:
    try:
        return 0 <= float(cell) <= 1
    except ValueError:
        return False


def probabilities(place: str, ids: np.ndarray, column: str, cells: np.ndarray) -> np.ndarray:
    """Cells (M,) str as (M,) float64. Raises UserError that names the first id whose cell is no probability."""
    for cell in np.unique(cells).tolist():
        if not is_probability(cell):
            first = str(ids[cells == cell][0])
            raise UserError(
                f"{place}: column {column!r} of id {first!r} is {cell!r}; probabilities are between 0 and 1"
            )
    return cells.astype(np.float64)
