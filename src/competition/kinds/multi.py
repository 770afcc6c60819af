"""Several labels per row: columns that are true or not, each with a probability of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from src.competition.kinds.single import is_probability, probabilities, sort_classes
from src.competition.metrics import Metric
from src.competition.metrics.multi import METRICS, THRESHOLD, column_log_loss
from src.competition.sample import Sample, columns_of_sample, match_classes, wrong_probabilities
from src.errors import UserError, first_few

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SEPARATORS = ("|", ";", ",")  # of words in a cell; otherwise spaces
LEAST = 10  # rows of a stratum of its own


@dataclass(frozen=True)
class Multi:
    """names (C,) str: the labels, or the 0/1 columns of the table. y is (N, C) bool."""

    names: np.ndarray
    kind: ClassVar[str] = "multi"
    exclusive: ClassVar[bool] = False
    numeric: ClassVar[bool] = False
    groups: ClassVar[tuple[int, ...]] = ()
    metrics: ClassVar[Mapping[str, Metric]] = METRICS
    blends: ClassVar[tuple[str, ...]] = ("soft", "rank", "climb", "convex")
    needs_a_cell: ClassVar[bool] = False  # a row may have no label

    @staticmethod
    def target_columns(column: str | None, candidates: list[str], sample: Sample, path: Path) -> list[str]:
        """A column of words, or the sample's value columns. Raises UserError where neither is clear."""
        return columns_of_sample(column, candidates, sample, path, "which column holds the labels? Set")

    @classmethod
    def learn(
        cls, table: Mapping[str, np.ndarray], place: str, merge: bool, say: Callable[[str], None]
    ) -> tuple[Multi, np.ndarray]:
        """The task and y of one column of words, or of several 0/1 columns, in the file `place`."""
        if len(table) > 1:
            for column, cells in table.items():
                strange = sorted(set(cells.tolist()) - {"0", "1", "0.0", "1.0"})
                if strange:
                    raise UserError(f"{place}: column {column!r} holds {strange[0]!r}; labels in columns are 0 or 1")
            task = cls(np.array(list(table), dtype=np.str_))
        else:
            words = {word for cell in next(iter(table.values())).tolist() for word in split(cell)}
            if not words:
                raise UserError(f"{place}: column {next(iter(table))!r} holds no label in any row")
            task = cls(np.array(sort_classes(words), dtype=np.str_))
        return task, task.encode(task.cells_of(table))

    def cells_of(self, table: Mapping[str, np.ndarray]) -> np.ndarray:
        """A column of words, its words in the task's order once that is known, or the columns that hold 1."""
        if len(table) == 1:
            cells = next(iter(table.values()))
            return self.cells(self.encode(cells)) if len(self.names) else cells
        hot = np.stack([cells.astype(np.float64) >= THRESHOLD for cells in table.values()], axis=1)
        names = np.array(list(table), dtype=np.str_)
        return np.array([join(names[row]) for row in hot], dtype=np.str_)

    def encode(self, cells: np.ndarray) -> np.ndarray:
        """(N,) str of words -> (N, C) bool."""
        number = {name: position for position, name in enumerate(self.names.tolist())}
        y = np.zeros((len(cells), len(number)), bool)
        for row, cell in enumerate(cells.tolist()):
            try:
                y[row, [number[word] for word in split(cell)]] = True
            except KeyError as error:
                raise UserError(f"{error.args[0]!r} is no label ({first_few(self.names.tolist())})") from None
        return y

    def cells(self, y: np.ndarray) -> np.ndarray:
        return np.array([join(self.names[row]) for row in y], dtype=np.str_)

    def strata(self, y: np.ndarray) -> np.ndarray:
        """By the rarest label of each row, 0 for rows without one; labels of few rows stand together."""
        frequency = y.sum(axis=0)
        rarest = np.where(y, frequency, len(y) + 1).argmin(axis=1) + 1
        strata = np.where(y.any(axis=1), rarest, 0)
        few = np.bincount(strata, minlength=y.shape[1] + 1) < LEAST
        return np.where(few[strata], y.shape[1] + 1, strata).astype(np.int64)

    def labels(self, y: np.ndarray) -> csr_array:
        from scipy.sparse import csr_array

        return csr_array(y, dtype=np.int32)

    def prior(self, y: np.ndarray, metric: str = "") -> np.ndarray:
        """The share of the rows in which each column is true."""
        return y.mean(axis=0)

    def holds(self, y: np.ndarray, column: np.ndarray) -> np.ndarray:
        return y[np.arange(len(y)), column]

    def credit(self, y: np.ndarray, pred: np.ndarray) -> np.ndarray:
        """The mean over columns of the probability of what is true."""
        return np.where(y, pred, 1 - pred.astype(np.float64)).mean(axis=1)

    def loss(self, y: np.ndarray, pred: np.ndarray) -> float:
        return column_log_loss(y, pred)

    def shown(self, y: np.ndarray, pred: np.ndarray) -> np.ndarray:
        return pred.argmax(axis=1)

    def describe(self, y: np.ndarray) -> list[str]:
        counts = y.sum(axis=0).tolist()
        labels = ", ".join(f"{name} {count}" for name, count in zip(self.names, counts, strict=True))
        return [f"labels   {labels}; none {int((~y.any(axis=1)).sum())}"]

    def submit(self, pred: np.ndarray, sample: Sample) -> dict[str, np.ndarray]:
        """A probability per column, or which columns, or which words, are at least THRESHOLD sure."""
        if len(sample.value_columns) == 1 and len(self.names) > 1:
            words = [join(self.names[row]) for row in pred >= THRESHOLD]
            return {sample.value_columns[0]: np.array(words, dtype=object)}
        positions = match_classes(sample.value_columns, self.names.tolist())
        values = (pred >= THRESHOLD).astype(np.int64) if sample.kind == "labels" else pred
        return {column: values[:, at] for column, at in zip(sample.value_columns, positions, strict=True)}

    def wrong(self, values: list[object], sample: Sample) -> tuple[list[int], str]:
        if len(sample.value_columns) > 1 or len(self.names) == 1:
            return wrong_probabilities(values)
        known = set(self.names.tolist())
        rows = [row for row, cell in enumerate(values) if not set(split(str(cell))) <= known]
        return rows, "holds a word that is no label" if rows else ""

    def parse(self, table: Mapping[str, np.ndarray], place: str, ids: np.ndarray) -> np.ndarray:
        if len(table) == 1 and not all(is_probability(cell) for cell in next(iter(table.values())).tolist()):
            return self.encode(next(iter(table.values()))).astype(np.float64)
        pred = np.zeros((len(ids), len(self.names)))
        for column, at in zip(table, match_classes(list(table), self.names.tolist()), strict=True):
            pred[:, at] = probabilities(place, ids, column, table[column])
        return pred


def split(cell: str) -> list[str]:
    """The words of a cell: between the first of SEPARATORS that is in it, else between spaces."""
    separator = next((mark for mark in SEPARATORS if mark in cell), None)
    return [word.strip() for word in cell.split(separator) if word.strip()]


def join(names: Sequence[str] | np.ndarray) -> str:
    """The inverse of `split`: between spaces, or where a name holds one, between bars, also behind a single one."""
    if any(" " in name for name in names):
        return "|".join(names) + ("|" if len(names) == 1 else "")
    return " ".join(names)
