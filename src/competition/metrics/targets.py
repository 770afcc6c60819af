"""Metrics of several targets per row, each with classes of its own: y (N, T) int, pred (N, ΣK), target by target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from src.competition.metrics.labels import f_macro, kappa, of_predictions
from src.competition.metrics.metric import Function, Metric, Metrics
from src.competition.metrics.single import accuracy, auc, balanced_accuracy, log_loss
from src.errors import UserError


def blocks(pred: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """The columns (N, K) of each target; sizes (T,): how many classes each has."""
    return np.split(pred, np.cumsum(sizes)[:-1], axis=1)


def mean_over(function: Function, sizes: Sequence[int], weights: np.ndarray | None = None) -> Function:
    """The mean over targets, by weights (T,), of a metric of one label (Bengali.AI: recall by 2, 1, 1)."""
    if weights is not None and weights.sum() <= 0:
        raise UserError("competition.metric_weights: no target has a weight above 0")

    def score(y: np.ndarray, pred: np.ndarray) -> float:
        found = [function(y[:, t], block) for t, block in enumerate(blocks(pred, sizes))]
        return float(np.average(found, weights=weights))

    return score


def all_right(sizes: Sequence[int]) -> Function:
    """The share of the rows that are right in every target."""

    def score(y: np.ndarray, pred: np.ndarray) -> float:
        guess = np.stack([block.argmax(axis=1) for block in blocks(pred, sizes)], axis=1)
        return float((guess == y).all(axis=1).mean())

    return score


def metrics_of(sizes: Sequence[int]) -> Metrics:
    """Those of targets with so many classes each, (T,)."""

    def over(name: str, greater: bool, function: Function, aliases: Sequence[str], of: str = "labels") -> list[Metric]:
        plain = Metric(
            name, greater, mean_over(function, sizes), of=of,  # type: ignore[arg-type]
            weigh=lambda weights: mean_over(function, sizes, weights), aliases=tuple(aliases),
        )  # fmt: skip
        asked = Metric(
            f"weighted_{name}", greater, plain.function, of=plain.of, weigh=plain.weigh, needs_weights=True,
            aliases=tuple(f"weighted {alias}" for alias in aliases),
        )  # fmt: skip
        return [plain, asked]

    recall = ("macro recall", "mean recall", "recall", "macro averaged recall", "hierarchical macro averaged recall",
              "balanced accuracy")  # fmt: skip
    return Metrics(
        (
            *over("accuracy", True, accuracy, ("mean accuracy",)),
            *over("recall_macro", True, balanced_accuracy, recall),
            *over("f1_macro", True, of_predictions(f_macro(1)), ("mean f1",)),
            *over("qwk", True, of_predictions(kappa(2)), ("mean qwk",)),
            *over("log_loss", False, log_loss, ("mean logloss", "column logloss", "mean column logloss"),
                  "probabilities"),
            *over("auc", True, auc, ("mean auc", "column auc", "mean column auc"), "ranks"),
            Metric("exact", True, all_right(sizes), aliases=("exact accuracy", "all right")),
        )
    )  # fmt: skip
