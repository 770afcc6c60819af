"""Metrics of each kind of target, by the names that people give them, and scores by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from src.competition.metrics.check import check, refuse_non_finite
from src.competition.metrics.curves import area_under_curve
from src.competition.metrics.labels import confusion, per_class
from src.competition.metrics.metric import Metric, Metrics
from src.competition.metrics.single import METRICS, accuracy, auc, balanced_accuracy, log_loss
from src.errors import UserError, nearest

__all__ = [
    "METRICS",
    "Metric",
    "Metrics",
    "accuracy",
    "area_under_curve",
    "auc",
    "balanced_accuracy",
    "confusion",
    "find_metric",
    "log_loss",
    "per_class",
    "refuse_non_finite",
    "score",
    "scores",
]


def find_metric(name: str, among: Mapping[str, Metric] | None = None) -> Metric:
    """The metric of that name `among` those of a task (None: of one label per row); UserError with the nearest name and
    the list if there is none."""
    among = METRICS if among is None else among
    if isinstance(among, Metrics):
        return among.find(name)
    if name not in among:
        raise UserError(f"no metric {name!r}{nearest(name, among)} (choices: {', '.join(among)})")
    return among[name]


def score(metric: str, target: np.ndarray, pred: np.ndarray) -> float:
    """One metric of target (N,) int and pred (N, C) probabilities, N >= 1.

    Raises UserError for an unknown metric or predictions that are not finite, ValueError for shapes that do not fit.
    """
    return next(iter(scores([metric], target, pred).values()))


def scores(
    wanted: Iterable[str | Metric],
    target: np.ndarray,
    pred: np.ndarray,
    among: Mapping[str, Metric] | None = None,
    strict: bool = True,
) -> dict[str, float]:
    """Several metrics, by name, of those of a task; see `score`. target (N,) int, or (N, …) of another kind of task.

    strict: whether rows of which a metric has no score (all of one class, say) are an error; else that score is NaN.
    """
    metrics = [metric if isinstance(metric, Metric) else find_metric(metric, among) for metric in wanted]
    check(target, pred)
    for metric in metrics:
        metric.check_classes(pred.shape[1])
    return {metric.name: (metric.function if strict else metric.score)(target, pred) for metric in metrics}
