"""Metrics on class probabilities, in NumPy: scikit-learn takes a second to import and accuracy is asked every epoch.

Each takes target (N,) int and pred (N, C) probabilities and agrees with scikit-learn (tests/unit/test_metrics.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from src.errors import UserError, nearest

if TYPE_CHECKING:
    import pandas as pd


Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Metric:
    name: str
    greater_is_better: bool
    function: Callable[[np.ndarray, np.ndarray], float]  # target (N,) int, pred (N, C) probabilities
    # The same from (C, C) counts of `confusion`, for metrics that only look at the most probable class.
    of_counts: Callable[[np.ndarray], float] | None = None

    @property
    def sign(self) -> int:
        """What a score is multiplied with to make greater better."""
        return 1 if self.greater_is_better else -1

    def best(self, scores: Mapping[Choice, float]) -> Choice:
        """The key with the best score; of equals, the first."""
        return max(scores, key=lambda key: self.sign * scores[key])


def confusion(target: np.ndarray, guess: np.ndarray, classes: int) -> np.ndarray:
    """(C, C) int64 counts; rows are the truth, columns the guess. Both inputs are (N,) int."""
    return np.bincount(target * classes + guess, minlength=classes * classes).reshape(classes, classes)


def accuracy(target: np.ndarray, pred: np.ndarray) -> float:
    return float((pred.argmax(axis=1) == target).mean())


def balanced_accuracy(target: np.ndarray, pred: np.ndarray) -> float:
    """Mean recall of the classes that occur in the target."""
    return _mean_recall(confusion(target, pred.argmax(axis=1), pred.shape[1]))


def _mean_recall(counts: np.ndarray) -> float:
    support = counts.sum(axis=1)
    there = support > 0
    return float((counts.diagonal()[there] / support[there]).mean())


def _f1(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F1 and support of the classes that are either true or guessed somewhere, as scikit-learn counts them."""
    support, guessed = counts.sum(axis=1), counts.sum(axis=0)
    there = support + guessed > 0
    return 2 * counts.diagonal()[there] / (support + guessed)[there], support[there]


def f1_macro(target: np.ndarray, pred: np.ndarray) -> float:
    return _f1_macro(confusion(target, pred.argmax(axis=1), pred.shape[1]))


def _f1_macro(counts: np.ndarray) -> float:
    return float(_f1(counts)[0].mean())


def f1_weighted(target: np.ndarray, pred: np.ndarray) -> float:
    return _f1_weighted(confusion(target, pred.argmax(axis=1), pred.shape[1]))


def _f1_weighted(counts: np.ndarray) -> float:
    f1, support = _f1(counts)
    return float((f1 * support).sum() / support.sum())


def log_loss(target: np.ndarray, pred: np.ndarray) -> float:
    """Rows are scaled to sum 1, then clipped to [1e-15, 1]: a confident mistake costs 34.5, not infinity."""
    own = pred[np.arange(len(target)), target].astype(np.float64)
    total = pred.sum(axis=1, dtype=np.float64)
    return float(-np.log(np.clip(own / np.maximum(total, 1e-15), 1e-15, 1.0)).mean())


def auc(target: np.ndarray, pred: np.ndarray) -> float:
    """Area under the ROC curve: of the last class if there are two, else one against the rest, mean over classes.

    Classes that do not occur in the target have no curve and are left out of the mean (scikit-learn raises).
    """
    numbers = [1] if pred.shape[1] == 2 else range(pred.shape[1])
    areas = [
        area_under_curve(target == number, pred[:, number])
        for number in numbers
        if 0 < (target == number).sum() < len(target)
    ]
    if not areas:
        raise UserError("metric auc: the rows are all of one class; use fewer folds (folds.n=) or another metric")
    return float(np.mean(areas))


def area_under_curve(positive: np.ndarray, value: np.ndarray) -> float:
    """Mann-Whitney U: the chance that a positive ranks above a negative, ties counting half."""
    _, inverse, counts = np.unique(value, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse.reshape(-1)]
    positives = int(positive.sum())
    above = rank[positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(positive) - positives)))


def qwk(target: np.ndarray, pred: np.ndarray) -> float:
    """Cohen's kappa of the most probable class with quadratic weights; the order of the classes is their rank."""
    return _kappa(confusion(target, pred.argmax(axis=1), pred.shape[1]))


def _kappa(counts: np.ndarray) -> float:
    steps = np.arange(len(counts))
    cost = (steps[:, None] - steps[None, :]) ** 2
    by_chance = (cost * np.outer(counts.sum(axis=1), counts.sum(axis=0))).sum() / counts.sum()
    # Nothing to disagree about: one class is all that is true and all that is guessed.
    return float(1 - (cost * counts).sum() / by_chance) if by_chance else 1.0


def _map_at(k: int) -> Callable[[np.ndarray, np.ndarray], float]:
    def mean_average_precision(target: np.ndarray, pred: np.ndarray) -> float:
        """Mean of 1 / rank of the true class, 0 below rank k. Of equal probabilities the first class ranks higher."""
        own = pred[np.arange(len(target)), target][:, None]
        # Counting what ranks higher needs no sort: 100,000 x 100 take a tenth of the time.
        rank = 1 + (pred > own).sum(axis=1)
        tied, before = np.nonzero(pred == own)
        rank += np.bincount(tied[before < target[tied]], minlength=len(target))
        return float(np.where(rank <= k, 1 / rank, 0.0).mean())

    return mean_average_precision


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", True, accuracy, lambda counts: float(counts.trace() / counts.sum())),
        Metric("balanced_accuracy", True, balanced_accuracy, _mean_recall),
        Metric("f1_macro", True, f1_macro, _f1_macro),
        Metric("f1_weighted", True, f1_weighted, _f1_weighted),
        Metric("log_loss", False, log_loss),
        Metric("auc", True, auc),
        Metric("qwk", True, qwk, _kappa),
        Metric("map3", True, _map_at(3)),
        Metric("map5", True, _map_at(5)),
    )
}


def find_metric(name: str, among: Mapping[str, Metric] | None = None) -> Metric:
    """The metric of that name `among` those of a task (None: of one label per row); UserError with the nearest name and
    the list if there is none."""
    among = METRICS if among is None else among
    if name not in among:
        raise UserError(f"no metric {name!r}{nearest(name, among)} (choices: {', '.join(among)})")
    return among[name]


def score(metric: str, target: np.ndarray, pred: np.ndarray) -> float:
    """One metric of target (N,) int and pred (N, C) probabilities, N >= 1.

    Raises UserError for an unknown metric or predictions that are not finite, ValueError for shapes that do not fit.
    """
    return scores([metric], target, pred)[metric]


def scores(
    names: Iterable[str], target: np.ndarray, pred: np.ndarray, among: Mapping[str, Metric] | None = None
) -> dict[str, float]:
    """Several metrics, by name, of those of a task; see `score`. target (N,) int, or (N, C) of another kind of task."""
    metrics = [find_metric(name, among) for name in names]
    _check(target, pred)
    return {metric.name: metric.function(target, pred) for metric in metrics}


def _check(target: np.ndarray, pred: np.ndarray) -> None:
    if pred.ndim != 2 or target.ndim > 2 or len(target) != len(pred) or not len(target):
        raise ValueError(
            f"target (N,) or (N, …) and pred (N, C) with N >= 1 expected, not {target.shape} and {pred.shape}"
        )
    if target.ndim == 1 and (
        not np.issubdtype(target.dtype, np.integer) or target.min() < 0 or target.max() >= pred.shape[1]
    ):
        raise ValueError(f"target must hold class numbers from 0 to {pred.shape[1] - 1}")
    refuse_non_finite(pred)


def refuse_non_finite(pred: np.ndarray, among: np.ndarray | None = None) -> None:
    """UserError if rows of pred (N, C) hold NaN or infinity. among: (N,) bool, the rows that are looked at; None: all.

    argmax and sort would take a NaN for a very good value, and the score would look like any other.
    """
    broken = (~np.isfinite(pred)).any(axis=1)
    count = int(broken.sum() if among is None else (broken & among).sum())
    if count:
        raise UserError(
            f"predictions of {count} of {len(pred)} rows hold NaN or infinity; training diverged: "
            "lower optimizer.lr= or set precision=fp32"
        )


def per_class(target: np.ndarray, pred: np.ndarray, classes: Sequence[str] | np.ndarray) -> pd.DataFrame:
    """One row per class: class, support, recall, precision, f1. A ratio without a denominator is NaN.

    target (N,) int, pred (N, C) probabilities, classes (C,) names.
    """
    import pandas as pd

    _check(target, pred)
    counts = confusion(target, pred.argmax(axis=1), pred.shape[1])
    right, support, guessed = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return pd.DataFrame(
            {
                "class": [str(name) for name in classes],
                "support": support,
                "recall": right / support,
                "precision": right / guessed,
                "f1": 2 * right / (support + guessed),
            }
        )
