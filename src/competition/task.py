"""What a target is: the one object that knows how cells of a table become numbers, and numbers a submission.

NumPy only, so that scoring, stacking and the table of runs stay free of torch. What a network ends in and which loss
teaches it is `training.objective`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from src.competition.metrics import Metric
    from src.competition.sample import Sample


class Task(Protocol):
    """A kind of target, learnt from the training table; one implementation a file in competition/kinds.

    y is (N,) int64 of a kind with one label per row, (N, C) of true columns or numbers, or (N, T) int64 of several
    targets; a prediction is (N, C) float32, its columns `names`.
    """

    @property
    def kind(self) -> str:
        """The name under which runs remember it."""

    @property
    def names(self) -> np.ndarray:
        """(C,) str: what the columns of a prediction mean."""

    @property
    def exclusive(self) -> bool:
        """Whether exactly one column is true of a row, so that predictions are shares which sum to 1."""

    @property
    def numeric(self) -> bool:
        """Whether predictions are values in the target's own units instead of probabilities."""

    @property
    def groups(self) -> tuple[int, ...]:
        """How many columns each group has of which exactly one is true, in their order; empty where there is none."""

    @property
    def needs_a_cell(self) -> bool:
        """Whether an empty cell is a mistake."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """By name, those that fit."""

    @property
    def blends(self) -> tuple[str, ...]:
        """How members may be blended: names of ensembling.blend.METHODS."""

    def cells_of(self, table: Mapping[str, np.ndarray]) -> np.ndarray:
        """(N,) str, a canonical cell per row, from the target columns of a table, each (N,) str."""

    def encode(self, cells: np.ndarray) -> np.ndarray:
        """Canonical cells (N,) str -> y. Raises UserError for what is not of this task."""

    def cells(self, y: np.ndarray) -> np.ndarray:
        """y -> (N,) str: for fold files, out-of-fold files and captions."""

    def strata(self, y: np.ndarray) -> np.ndarray:
        """(N,) int64, alike for rows that folds, subsets and inner splits should spread evenly."""

    def labels(self, y: np.ndarray) -> csr_array | None:
        """(N, L) of ones, of which each fold should have its share, where a row may have several; None: the strata."""

    def prior(self, y: np.ndarray, metric: str = "") -> np.ndarray:
        """(C,) float64: the prediction for an image that cannot be read, from the rows that were learnt from; the best
        one for the `metric` of that name, where it matters."""

    def holds(self, y: np.ndarray, column: np.ndarray) -> np.ndarray:
        """(N,) bool: whether column[i] (N,) int64 is true of row i."""

    def credit(self, y: np.ndarray, pred: np.ndarray) -> np.ndarray:
        """(N,) float64: the probability that a prediction gives to what is true; of numbers, 1 - their error."""

    def loss(self, y: np.ndarray, pred: np.ndarray) -> float:
        """A smooth loss, which decides between equal scores and weighs blocks of features."""

    def shown(self, y: np.ndarray, pred: np.ndarray) -> np.ndarray:
        """(N,) int64: the column of each prediction that a picture of it is about."""

    def describe(self, y: np.ndarray) -> list[str]:
        """What the targets are, in a few lines for `./run.sh prepare`."""

    def submit(self, pred: np.ndarray, sample: Sample) -> dict[str, np.ndarray]:
        """The sample's value columns, each (M,), from aligned predictions (M, C)."""

    def wrong(self, values: list[object], sample: Sample) -> tuple[list[int], str]:
        """Row numbers of a submitted column that may not be submitted, and what is wrong with the first of them."""

    def parse(self, table: Mapping[str, np.ndarray], place: str, ids: np.ndarray) -> np.ndarray:
        """Predictions (M, C) float64 from the value columns of a submission, each (M,) str; the inverse of `submit`.

        Raises UserError that names the file `place` and the id of the first cell that does not fit.
        """
