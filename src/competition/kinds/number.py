"""Numbers: one or several values per row (regression), predicted in their own units."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from src.competition.metrics import Metric
from src.competition.metrics.numbers import METRICS
from src.competition.sample import Sample, columns_of_sample, match_classes
from src.errors import UserError, first_few

if TYPE_CHECKING:
    from scipy.sparse import csr_array

BINS = 10  # strata of a table that is large enough
LEAST = 10  # rows of a stratum


class Scaling(NamedTuple):
    """value = shift + scale · output: how the outputs of a network become values; a number per column."""

    shift: tuple[float, ...]
    scale: tuple[float, ...]


def scaling_of(y: np.ndarray, loss: str) -> Scaling:
    """Of the rows that are learnt from, y (N, C): their mean and standard deviation, or for `bce`, whose outputs are
    between 0 and 1, their smallest value and their range. A column that never varies has scale 1."""
    wide = y.astype(np.float64)
    shift, scale = (wide.min(axis=0), np.ptp(wide, axis=0)) if loss == "bce" else (wide.mean(axis=0), wide.std(axis=0))
    small = scale <= 1e-7 * np.abs(shift)
    return Scaling(tuple(shift.tolist()), tuple(np.where(small | (scale == 0), 1.0, scale).tolist()))


@dataclass(frozen=True)
class Number:
    """names (C,) str: the columns that hold the numbers. y is (N, C) float32, a prediction too, in the same units."""

    names: np.ndarray
    kind: ClassVar[str] = "number"
    exclusive: ClassVar[bool] = False
    numeric: ClassVar[bool] = True
    groups: ClassVar[tuple[int, ...]] = ()
    metrics: ClassVar[Mapping[str, Metric]] = METRICS
    blends: ClassVar[tuple[str, ...]] = ("soft", "climb", "convex")
    needs_a_cell: ClassVar[bool] = True

    @staticmethod
    def target_columns(column: str | None, candidates: list[str], sample: Sample, path: Path) -> list[str]:
        """The configured column, or the sample's value columns, or the only one that is left."""
        return columns_of_sample(column, candidates, sample, path, which_columns("number", sample))

    @classmethod
    def learn(
        cls, table: Mapping[str, np.ndarray], place: str, merge: bool, say: Callable[[str], None]
    ) -> tuple[Number, np.ndarray]:
        """The task and y of the columns of numbers in the file `place`. Raises UserError that names the row and column
        of what is no finite number, or if no column varies."""
        y = values_of(table, place)
        if (y == y[0]).all():
            columns = ", ".join(map(repr, table))
            raise UserError(f"{place}: column {columns} holds only {y[0, 0]:g}; there is nothing to learn")
        return cls(np.array(list(table), dtype=np.str_)), y

    def cells_of(self, table: Mapping[str, np.ndarray]) -> np.ndarray:
        """The numbers of each row, between spaces, in the task's order where the table has its columns."""
        ordered = (
            {name: table[name] for name in self.names.tolist()} if set(self.names.tolist()) == set(table) else table
        )
        return self.cells(values_of(ordered, "the table"))

    def encode(self, cells: np.ndarray) -> np.ndarray:
        """(N,) str of numbers between spaces -> (N, C) float32."""
        rows = [cell.split() for cell in cells.tolist()]
        strange = [cell for cell, row in zip(cells.tolist(), rows, strict=True) if len(row) != len(self.names)]
        if strange:
            raise UserError(f"{strange[0]!r} is not {len(self.names)} numbers")
        try:
            return np.array(rows, dtype=np.float64).reshape(len(rows), len(self.names)).astype(np.float32)
        except ValueError as error:
            raise UserError(f"target cells: {error}") from None

    def cells(self, y: np.ndarray) -> np.ndarray:
        words = np.asarray(y, np.float32).astype(np.str_)
        return words[:, 0] if y.shape[1] == 1 else np.array([" ".join(row) for row in words.tolist()], dtype=np.str_)

    def strata(self, y: np.ndarray) -> np.ndarray:
        """At most BINS equal parts of the rows in the order of the number, or where there are several, in that of their
        first principal component."""
        bins = max(1, min(BINS, len(y) // LEAST))
        order = np.argsort(first_component(y), kind="stable")
        strata = np.empty(len(y), np.int64)
        strata[order] = np.arange(len(y)) * bins // max(1, len(y))
        return strata

    def labels(self, y: np.ndarray) -> csr_array:
        """(N, bins) of ones: the stratum of each row, so that folds of whole groups take seconds as well."""
        from scipy.sparse import csr_array

        strata = self.strata(y)
        return csr_array((np.ones(len(y), np.int32), (np.arange(len(y)), strata)))

    def prior(self, y: np.ndarray, metric: str = "") -> np.ndarray:
        """The mean, or the median where `metric` is the absolute error."""
        wide = y.astype(np.float64)
        return np.median(wide, axis=0) if metric == "mae" else wide.mean(axis=0)

    def holds(self, y: np.ndarray, column: np.ndarray) -> np.ndarray:
        return np.ones(len(y), bool)  # a number has no columns that could be false

    def credit(self, y: np.ndarray, pred: np.ndarray) -> np.ndarray:
        """1 - the error, with its sign, in standard deviations of the column; the mean over columns."""
        return 1 - ((pred - y.astype(np.float64)) / spread_of(y)).mean(axis=1)

    def loss(self, y: np.ndarray, pred: np.ndarray) -> float:
        """The mean squared error in variances of the columns, so that none of them drowns another."""
        return float(np.square((pred - y.astype(np.float64)) / spread_of(y)).mean())

    def shown(self, y: np.ndarray, pred: np.ndarray) -> np.ndarray:
        """The column that is farthest off."""
        return np.abs((pred - y.astype(np.float64)) / spread_of(y)).argmax(axis=1)

    def describe(self, y: np.ndarray) -> list[str]:
        parts = zip(
            self.names.tolist(), np.quantile(y.astype(np.float64), [0, 0.25, 0.5, 0.75, 1], axis=0).T, strict=True
        )
        return [f"{name:<8} from {q[0]:g} to {q[4]:g}, half of the rows from {q[1]:g} to {q[3]:g}" for name, q in parts]

    def submit(self, pred: np.ndarray, sample: Sample) -> dict[str, np.ndarray]:
        return {column: pred[:, at] for column, at in zip(sample.value_columns, self._match(sample), strict=True)}

    def wrong(self, values: list[object], sample: Sample) -> tuple[list[int], str]:
        numbers = [number_of(str(value)) for value in values]
        rows = [row for row, number in enumerate(numbers) if number is None]
        return rows, "not a finite number" if rows else ""

    def parse(self, table: Mapping[str, np.ndarray], place: str, ids: np.ndarray) -> np.ndarray:
        pred = np.zeros((len(ids), len(self.names)))
        one = len(table) == len(self.names) == 1
        positions = [0] if one else match_classes(list(table), self.names.tolist())
        for (column, cells), at in zip(table.items(), positions, strict=True):
            for row, cell in enumerate(cells.tolist()):
                number = number_of(cell)
                if number is None:
                    raise UserError(f"{place}: column {column!r} of id {str(ids[row])!r} is {cell!r}, no finite number")
                pred[row, at] = number
        return pred

    def _match(self, sample: Sample) -> list[int]:
        if len(sample.value_columns) == len(self.names) == 1:
            return [0]
        return match_classes(sample.value_columns, self.names.tolist())


def which_columns(kind: str, sample: Sample) -> str:
    """The question where the training table has not all of the sample's columns."""
    return (
        f"which column is the target of competition.kind={kind}? It lacks some of the sample's "
        f"({first_few(list(sample.value_columns))}); set"
    )


def number_of(cell: str) -> float | None:
    """A finite number of float32's range, or None."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if abs(number) <= float(np.finfo(np.float32).max) else None


def values_of(table: Mapping[str, np.ndarray], place: str) -> np.ndarray:
    """Columns of cells, each (N,) str, as (N, C) float32; UserError that names the row and column of a cell that is
    empty or no finite number."""
    columns = []
    for column, cells in table.items():
        try:
            numbers = cells.astype(np.float64)
        except ValueError:
            numbers = np.array([np.nan if (n := number_of(cell)) is None else n for cell in cells.tolist()])
        wrong = np.flatnonzero(~(np.abs(numbers) <= np.finfo(np.float32).max))
        if len(wrong):
            cell = str(cells[wrong[0]])
            raise UserError(
                f"{place}: row {wrong[0] + 1} below the header: column {column!r} is {cell!r}, no finite number "
                f"({len(wrong)} such rows); fill them in or remove them"
            )
        columns.append(numbers.astype(np.float32))
    return np.stack(columns, axis=1)


def spread_of(y: np.ndarray) -> np.ndarray:
    """(C,) float64 standard deviation of each column, 1 where it never varies."""
    spread = y.std(axis=0, dtype=np.float64)
    return np.where(spread > 0, spread, 1.0)


def first_component(y: np.ndarray) -> np.ndarray:
    """(N,) float64: the column itself, or the first principal component of the standardised columns (N, C)."""
    wide = y.astype(np.float64)
    if y.shape[1] == 1 or not len(y):
        return wide[:, 0]
    unit = (wide - wide.mean(axis=0)) / spread_of(y)
    vector = np.linalg.eigh(unit.T @ unit)[1][:, -1]
    return unit @ (vector * np.sign(vector[np.abs(vector).argmax()]))
