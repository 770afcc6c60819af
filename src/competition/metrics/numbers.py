"""Metrics of numbers: y (N, C) float and pred (N, C) in the same units, of one column or several."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from src.competition.metrics.curves import average_ranks
from src.competition.metrics.labels import confusion, kappa
from src.competition.metrics.metric import Function, Metric, Metrics
from src.errors import UserError


def _error(y: np.ndarray, pred: np.ndarray) -> np.ndarray:
    return pred.astype(np.float64) - y.astype(np.float64)


def mae(y: np.ndarray, pred: np.ndarray) -> float:
    """The mean absolute error over rows and columns."""
    return float(np.abs(_error(y, pred)).mean())


def median_error(y: np.ndarray, pred: np.ndarray) -> float:
    """The median absolute error of each column, mean over columns."""
    return float(np.median(np.abs(_error(y, pred)), axis=0).mean())


def mse(y: np.ndarray, pred: np.ndarray) -> float:
    """The mean squared error over rows and columns."""
    return float(np.square(_error(y, pred)).mean())


def rmse(y: np.ndarray, pred: np.ndarray) -> float:
    """The root of the mean squared error over rows and columns; see `mcrmse` for the mean of the columns' roots."""
    return float(np.sqrt(mse(y, pred)))


def mcrmse(y: np.ndarray, pred: np.ndarray) -> float:
    """The root of the mean squared error of each column, mean over columns."""
    return float(np.sqrt(np.square(_error(y, pred)).mean(axis=0)).mean())


def weighted(of_columns: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[np.ndarray], Function]:
    """The mean of a metric of the columns, (C,), by their weights (C,)."""

    def weigh(weights: np.ndarray) -> Function:
        if weights.sum() <= 0:
            raise UserError("competition.metric_weights: no column has a weight above 0")
        return lambda y, pred: float(np.average(of_columns(y, pred), weights=weights))

    return weigh


def rmsle(y: np.ndarray, pred: np.ndarray) -> float:
    """The root of the mean squared difference of log(1 + value), over rows and columns. Predictions below 0 count as 0.
    Raises UserError for targets below 0."""
    if (y < 0).any():
        raise UserError("metric rmsle: there are targets below 0, whose logarithm is no number; choose another metric")
    wide = np.log1p(np.maximum(pred.astype(np.float64), 0)) - np.log1p(y.astype(np.float64))
    return float(np.sqrt(np.square(wide).mean()))


def r2(y: np.ndarray, pred: np.ndarray) -> float:
    """1 - squared error / variance of each column, mean over columns; a column that never varies is 1 where it is
    predicted exactly, else 0, as in scikit-learn."""
    wide = y.astype(np.float64)
    error, spread = np.square(_error(y, pred)).sum(axis=0), np.square(wide - wide.mean(axis=0)).sum(axis=0)
    constant = np.where(error == 0, 1.0, 0.0)
    return float(np.where(spread > 0, 1 - error / np.where(spread > 0, spread, 1), constant).mean())


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two columns (N,); 0 where one of them never varies."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def pearson(y: np.ndarray, pred: np.ndarray) -> float:
    """Pearson's correlation of each column, mean over columns; 0 where one never varies (SciPy: no number)."""
    wide, guess = y.astype(np.float64), pred.astype(np.float64)
    return float(np.mean([_correlation(wide[:, c], guess[:, c]) for c in range(y.shape[1])]))


def spearman(y: np.ndarray, pred: np.ndarray) -> float:
    """Pearson's correlation of the ranks of each column, mean over columns; ties share their mean rank."""
    columns = range(y.shape[1])
    return float(np.mean([_correlation(average_ranks(y[:, c]), average_ranks(pred[:, c])) for c in columns]))


def mape(y: np.ndarray, pred: np.ndarray) -> float:
    """The mean of |error| / |target| as a share, not in percent; |target| counts as at least 2.2e-16, as in
    scikit-learn."""
    least = np.finfo(np.float64).eps
    return float((np.abs(_error(y, pred)) / np.maximum(np.abs(y.astype(np.float64)), least)).mean())


def smape(y: np.ndarray, pred: np.ndarray) -> float:
    """The mean of 2 |error| / (|target| + |prediction|), from 0 to 2; 0 where both are 0."""
    below = np.abs(y.astype(np.float64)) + np.abs(pred.astype(np.float64))
    return float((2 * np.abs(_error(y, pred)) / np.where(below > 0, below, 1)).mean())


def grades(y: np.ndarray, pred: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Whole numbers from 0 of targets and predictions, each rounded (halves up) and predictions put into the targets'
    range, and how many there are."""
    true, guess = (np.floor(cells.astype(np.float64) + 0.5).astype(np.int64) for cells in (y, pred))
    low, high = int(true.min()), int(true.max())
    if high - low > 1000:
        raise UserError(f"metric qwk: targets from {low} to {high} are no grades; choose another metric")
    return true - low, np.clip(guess, low, high) - low, high - low + 1


def qwk(y: np.ndarray, pred: np.ndarray) -> float:
    """Cohen's kappa with quadratic weights of the rounded numbers, mean over columns."""
    found = []
    for c in range(y.shape[1]):
        true, guess, levels = grades(y[:, c], pred[:, c])
        found.append(kappa(2)(confusion(true, guess, levels)))
    return float(np.mean(found))


METRICS = Metrics(
    (
        Metric("mae", False, mae, of="numbers", aliases=("l 1", "mean mae"),
               weigh=weighted(lambda y, p: np.abs(_error(y, p)).mean(axis=0))),
        Metric("rmse", False, rmse, of="numbers", aliases=("root mse",)),
        Metric("r2", True, r2, of="numbers"),
        Metric("medae", False, median_error, of="numbers"),
        Metric("mse", False, mse, of="numbers", aliases=("l 2", "squared error"),
               weigh=weighted(lambda y, p: np.square(_error(y, p)).mean(axis=0))),
        Metric("mcrmse", False, mcrmse, of="numbers", aliases=("mean column rmse", "column rmse"),
               weigh=weighted(lambda y, p: np.sqrt(np.square(_error(y, p)).mean(axis=0)))),
        Metric("rmsle", False, rmsle, of="numbers"),
        Metric("pearson", True, pearson, of="numbers", aliases=("correlation",)),
        Metric("spearman", True, spearman, of="ranks", aliases=("mean spearman", "mean column spearman",
               "rank correlation")),
        Metric("mape", False, mape, of="numbers"),
        Metric("smape", False, smape, of="numbers"),
        Metric("qwk", True, qwk, of="labels"),
    ),
)  # fmt: skip
