"""Metrics of the most probable class, from counts of what is true and what is guessed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from src.competition.metrics.check import check
from src.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

MANY = 1000  # classes, above which the zeros of their counts are left out
OfCounts = Callable[[np.ndarray], float]


def confusion(target: np.ndarray, guess: np.ndarray, classes: int) -> np.ndarray:
    """(C, C) int64 counts; rows are the truth, columns the guess. Both inputs are (N,) int."""
    return np.bincount(target * classes + guess, minlength=classes * classes).reshape(classes, classes)


def of_predictions(of_counts: OfCounts) -> Callable[[np.ndarray, np.ndarray], float]:
    """The metric of target (N,) int and pred (N, C) probabilities behind one of counts."""

    def metric(target: np.ndarray, pred: np.ndarray) -> float:
        guess, classes = pred.argmax(axis=1), pred.shape[1]
        return of_counts((confusion if classes <= MANY else _sparse_confusion)(target, guess, classes))

    return metric


def _sparse_confusion(target: np.ndarray, guess: np.ndarray, classes: int) -> Any:
    """`confusion` without its zeros, of which 10,000 classes have 800 MB."""
    from scipy.sparse import coo_array

    return coo_array((np.ones(len(target), np.int64), (target, guess)), shape=(classes, classes)).tocsr()


def share_right(counts: np.ndarray) -> float:
    return float(counts.trace() / counts.sum())


def mean_recall(counts: np.ndarray) -> float:
    """Mean recall of the classes that occur in the target."""
    support = counts.sum(axis=1)
    there = support > 0
    return float((counts.diagonal()[there] / support[there]).mean())


def mean_precision(counts: np.ndarray) -> float:
    """Mean precision of the classes that are true or guessed somewhere; one that is never guessed has 0."""
    there = counts.sum(axis=0) + counts.sum(axis=1) > 0
    return float((counts.diagonal()[there] / np.maximum(counts.sum(axis=0)[there], 1)).mean())


def f_each(counts: np.ndarray, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """F-beta and support of the classes that are either true or guessed somewhere, as scikit-learn counts them."""
    support, guessed = counts.sum(axis=1), counts.sum(axis=0)
    there, square = support + guessed > 0, beta * beta
    return (1 + square) * counts.diagonal()[there] / (square * support + guessed)[there], support[there]


def f_macro(beta: float) -> OfCounts:
    return lambda counts: float(f_each(counts, beta)[0].mean())


def f_weighted(beta: float) -> OfCounts:
    """The mean over classes by their support."""

    def of_counts(counts: np.ndarray) -> float:
        f, support = f_each(counts, beta)
        return float((f * support).sum() / support.sum())

    return of_counts


def f_of_last(beta: float) -> OfCounts:
    """F-beta of the last of two classes; 0 if it is neither true nor guessed."""

    def of_counts(counts: np.ndarray) -> float:
        square = beta * beta
        below = square * counts[-1].sum() + counts[:, -1].sum()
        return float((1 + square) * counts[-1, -1] / below) if below else 0.0

    return of_counts


def matthews(counts: np.ndarray) -> float:
    """Matthews' correlation for any number of classes (Gorodkin 2004); 0 where one class is all there is."""
    wide = counts.astype(np.float64)
    rows, true, guessed = wide.sum(), wide.sum(axis=1), wide.sum(axis=0)
    below = (rows**2 - guessed @ guessed) * (rows**2 - true @ true)
    return float((wide.trace() * rows - true @ guessed) / np.sqrt(below)) if below > 0 else 0.0


def kappa(power: int) -> OfCounts:
    """Cohen's kappa with costs |i - j| ** power of the classes' numbers; power 0: 1 for each mistake."""

    def of_counts(counts: Any) -> float:
        counts = counts if isinstance(counts, np.ndarray) else counts.toarray()
        steps = np.arange(len(counts))
        cost = np.abs(steps[:, None] - steps[None, :]) ** power if power else 1 - np.eye(len(counts))
        by_chance = (cost * np.outer(counts.sum(axis=1), counts.sum(axis=0))).sum() / counts.sum()
        # Nothing to disagree about: one class is all that is true and all that is guessed.
        return float(1 - (cost * counts).sum() / by_chance) if by_chance else 1.0

    return of_counts


def accuracy_by_weight(weights: np.ndarray) -> Callable[[np.ndarray, np.ndarray], float]:
    """The share of the rows' weights, those of their true classes (C,), that is right."""

    def score(target: np.ndarray, pred: np.ndarray) -> float:
        own = weights[target]
        if own.sum() <= 0:
            raise UserError("competition.metric_weights: no row has a class with a weight above 0")
        return float((own * (pred.argmax(axis=1) == target)).sum() / own.sum())

    return score


def per_class(target: np.ndarray, pred: np.ndarray, classes: Sequence[str] | np.ndarray) -> pd.DataFrame:
    """One row per class: class, support, recall, precision, f1. A ratio without a denominator is NaN.

    target (N,) int, pred (N, C) probabilities, classes (C,) names.
    """
    import pandas as pd

    check(target, pred)
    guess, many = pred.argmax(axis=1), pred.shape[1]
    right, support, guessed = (np.bincount(at, minlength=many) for at in (target[target == guess], target, guess))
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
