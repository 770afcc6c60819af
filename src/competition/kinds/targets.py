"""Several targets per row, each with classes of its own, of which exactly one is true."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from src.competition.kinds.number import which_columns
from src.competition.kinds.single import _describe, probabilities, similar_labels, sort_classes
from src.competition.metrics import Metric
from src.competition.metrics.targets import metrics_of
from src.competition.sample import Sample, columns_of_sample, match_classes, wrong_probabilities
from src.errors import UserError, first_few, nearest

if TYPE_CHECKING:
    from scipy.sparse import csr_array

LEAST = 10  # rows of a stratum of its own
SEPARATOR = "|"  # of the labels in a canonical cell


@dataclass(frozen=True)
class Targets:
    """names (C,) str: "target=class", target by target. y is (N, T) int64, the class of each target by its number."""

    names: np.ndarray
    kind: ClassVar[str] = "targets"
    exclusive: ClassVar[bool] = False  # one column of each target is true
    numeric: ClassVar[bool] = False
    blends: ClassVar[tuple[str, ...]] = ("soft", "climb", "convex")
    needs_a_cell: ClassVar[bool] = True

    @cached_property
    def classes(self) -> dict[str, np.ndarray]:
        """The classes (K,) str of each target, in the order of the columns."""
        found: dict[str, list[str]] = {}
        for name in self.names.tolist():
            target, _, label = name.partition("=")
            found.setdefault(target, []).append(label)
        return {target: np.array(labels, dtype=np.str_) for target, labels in found.items()}

    @property
    def groups(self) -> tuple[int, ...]:
        """How many columns each target has."""
        return tuple(len(labels) for labels in self.classes.values())

    @cached_property
    def starts(self) -> np.ndarray:
        """(T,) int64: the first column of each target."""
        return np.cumsum([0, *self.groups[:-1]])

    @cached_property
    def metrics(self) -> Mapping[str, Metric]:
        """Each the mean over targets of that of one label."""
        return metrics_of(self.groups)

    def parts(self, pred: np.ndarray) -> list[np.ndarray]:
        """The columns (N, K) of each target."""
        return np.split(pred, self.starts[1:], axis=1)

    @staticmethod
    def target_columns(column: str | None, candidates: list[str], sample: Sample, path: Path) -> list[str]:
        """The configured column, or the sample's value columns, or the only one that is left."""
        return columns_of_sample(column, candidates, sample, path, which_columns("targets", sample))

    @classmethod
    def learn(
        cls, table: Mapping[str, np.ndarray], place: str, merge: bool, say: Callable[[str], None]
    ) -> tuple[Targets, np.ndarray]:
        """The task and y of the columns of labels in the file `place`; spellings as in `Single.learn`."""
        kept, names = {}, []
        for target, column in table.items():
            if "=" in target:
                raise UserError(f"{place}: column {target!r}: the name of a target cannot hold '='; rename the column")
            cells = column
            if alike := similar_labels(cells):
                say(_describe(alike, cells, f"{place}: column {target!r}", merge))
                if merge:
                    cells = np.array([alike.get(name, name) for name in cells.tolist()], dtype=np.str_)
            kept[target] = cells
            names += [f"{target}={label}" for label in sort_classes(cells.tolist())]
        task = cls(np.array(names, dtype=np.str_))
        if max(task.groups) < 2:
            raise UserError(f"{place}: columns {first_few(list(table))} hold one label each; there is nothing to learn")
        return task, task.encode(task.cells_of(kept))

    def cells_of(self, table: Mapping[str, np.ndarray]) -> np.ndarray:
        """The labels of each row, in the task's order where the table has its targets."""
        order = list(self.classes) if set(self.classes) == set(table) else list(table)
        return np.array([_join(row) for row in zip(*(table[t].tolist() for t in order), strict=True)], dtype=np.str_)

    def encode(self, cells: np.ndarray) -> np.ndarray:
        """(N,) str -> (N, T) int64."""
        numbers = [{label: at for at, label in enumerate(labels.tolist())} for labels in self.classes.values()]
        y = np.empty((len(cells), len(numbers)), np.int64)
        for row, cell in enumerate(cells.tolist()):
            labels = _split(cell)
            if len(labels) != len(numbers):
                raise UserError(f"{cell!r} is not a label for each of {', '.join(self.classes)}")
            for t, (label, number) in enumerate(zip(labels, numbers, strict=True)):
                if label not in number:
                    target = list(self.classes)[t]
                    raise UserError(f"{label!r} is no class of {target} ({first_few(list(number))})")
                y[row, t] = number[label]
        return y

    def cells(self, y: np.ndarray) -> np.ndarray:
        columns = [labels[y[:, t]].tolist() for t, labels in enumerate(self.classes.values())]
        return np.array([_join(row) for row in zip(*columns, strict=True)], dtype=np.str_)

    def strata(self, y: np.ndarray) -> np.ndarray:
        """By the combination of classes; where it has fewer than LEAST rows, by the rarest class of the row; where that
        has so few as well, together."""
        _, joint = np.unique(y, axis=0, return_inverse=True)
        joint = joint.reshape(-1)
        columns = y + self.starts
        frequency = np.bincount(columns.reshape(-1), minlength=len(self.names))
        rarest = columns[np.arange(len(y)), frequency[columns].argmin(axis=1)]
        combinations = int(joint.max()) + 1 if len(y) else 0
        few = np.bincount(joint, minlength=combinations)[joint] < LEAST
        strata = np.where(few, combinations + rarest, joint)
        lonely = np.bincount(strata, minlength=1)[strata] < LEAST
        strata = np.where(lonely, combinations + len(self.names), strata)
        return np.unique(strata, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def labels(self, y: np.ndarray) -> csr_array:
        """(N, C) of ones: the class of each target."""
        from scipy.sparse import csr_array

        targets, ones = y.shape[1], np.ones(y.size, np.int32)
        ends = np.arange(0, y.size + 1, targets)
        return csr_array((ones, (y + self.starts).reshape(-1), ends), shape=(len(y), len(self.names)))

    def prior(self, y: np.ndarray, metric: str = "") -> np.ndarray:
        """The shares of each target's classes."""
        return np.bincount((y + self.starts).reshape(-1), minlength=len(self.names)) / len(y)

    def holds(self, y: np.ndarray, column: np.ndarray) -> np.ndarray:
        target = np.searchsorted(self.starts, column, side="right") - 1
        return y[np.arange(len(y)), target] + self.starts[target] == column

    def credit(self, y: np.ndarray, pred: np.ndarray) -> np.ndarray:
        """The mean over targets of the probability of the true class."""
        return np.take_along_axis(pred, y + self.starts, axis=1).astype(np.float64).mean(axis=1)

    def loss(self, y: np.ndarray, pred: np.ndarray) -> float:
        return self.metrics["log_loss"].function(y, pred)

    def shown(self, y: np.ndarray, pred: np.ndarray) -> np.ndarray:
        """The guessed class of a target that is wrong, the surest one, or of the surest target of all."""
        guess = np.stack([part.argmax(axis=1) for part in self.parts(pred)], axis=1) + self.starts
        sure = np.take_along_axis(pred, guess, axis=1) + (guess != y + self.starts)
        return guess[np.arange(len(y)), sure.argmax(axis=1)]

    def describe(self, y: np.ndarray) -> list[str]:
        lines = []
        for t, (target, labels) in enumerate(self.classes.items()):
            counts = np.bincount(y[:, t], minlength=len(labels)).tolist()
            parts = [f"{label} {count}" for label, count in zip(labels.tolist(), counts, strict=True)]
            lines.append(f"{target:<8} {len(labels)} classes: {first_few(parts, 20)}")
        return lines

    def submit(self, pred: np.ndarray, sample: Sample) -> dict[str, np.ndarray]:
        """The most probable class of each target, or a probability per class. Raises UserError if the sample's columns
        are neither."""
        if self._asks_labels(sample.value_columns):
            best = {
                target: labels[part.argmax(axis=1)].astype(object)
                for (target, labels), part in zip(self.classes.items(), self.parts(pred), strict=True)
            }
            return {column: best[column] for column in sample.value_columns}
        positions = self._columns(sample.value_columns)
        return {column: pred[:, at] for column, at in zip(sample.value_columns, positions, strict=True)}

    def wrong(self, values: list[object], sample: Sample) -> tuple[list[int], str]:
        if not self._asks_labels(sample.value_columns):
            return wrong_probabilities(values)
        known = {label for labels in self.classes.values() for label in labels.tolist()}
        rows = [row for row, label in enumerate(values) if str(label) not in known]
        return rows, f"not a class{nearest(str(values[rows[0]]), known)}" if rows else ""

    def parse(self, table: Mapping[str, np.ndarray], place: str, ids: np.ndarray) -> np.ndarray:
        pred = np.zeros((len(ids), len(self.names)))
        if not self._asks_labels(tuple(table)):
            for column, at in zip(table, self._columns(tuple(table)), strict=True):
                pred[:, at] = probabilities(place, ids, column, table[column])
            return pred
        for (target, labels), start in zip(self.classes.items(), self.starts.tolist(), strict=True):
            number = {label: at for at, label in enumerate(labels.tolist())}
            for row, label in enumerate(table[target].tolist()):
                if label not in number:
                    raise UserError(
                        f"{place}: column {target!r} of id {str(ids[row])!r} is {label!r}, no class of it "
                        f"({first_few(labels.tolist())})"
                    )
                pred[row, start + number[label]] = 1
        return pred

    def _asks_labels(self, columns: tuple[str, ...]) -> bool:
        return set(columns) == set(self.classes)

    def _columns(self, columns: tuple[str, ...]) -> list[int]:
        joined = self.names.tolist()
        if len(columns) != len(joined):
            raise UserError(
                f"value columns are {first_few(list(columns))}, targets are {', '.join(self.classes)}; it takes one "
                "for each target, or for each of its classes (see competition.target_column= and competition.kind=)"
            )
        for mark in ("=", "_", "-", "."):
            names = [mark.join(name.split("=", 1)) for name in joined]
            if set(names) == set(columns):
                return match_classes(columns, names)
        return match_classes(columns, joined)


def _join(labels: tuple[str, ...]) -> str:
    return SEPARATOR.join(label.replace("%", "%25").replace(SEPARATOR, "%7C") for label in labels)


def _split(cell: str) -> list[str]:
    return [label.replace("%7C", SEPARATOR).replace("%25", "%") for label in cell.split(SEPARATOR)]
