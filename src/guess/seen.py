"""What the rules on targets look at: columns, the sample, and what the name of the metric tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from src.competition.metrics import multi, numbers, single
from src.competition.metrics.metric import Metric, Metrics
from src.errors import UserError


@dataclass(frozen=True)
class Seen:
    """What the rules look at. train: columns of the training table, each (N,) str; test: names of the test table's
    columns, None without one; sample: the sample's value columns, each (M,) str; names: of targets with a row each;
    spent: columns that name rows or pictures; metric: as the user calls it, or None."""

    train: Mapping[str, np.ndarray]
    test: Sequence[str] | None
    sample: Mapping[str, np.ndarray]
    names: tuple[str, ...]
    spent: tuple[str, ...]
    metric: str | None


def called(metric: str | None, among: Metrics) -> Metric | None:
    """The metric of that name, if it is one of a kind of target; the user's own is none."""
    try:
        return among.find(metric) if metric is not None else None
    except UserError:
        return None


def regression(metric: str | None) -> bool:
    """Whether only numbers are scored by it."""
    return called(metric, numbers.METRICS) is not None and called(metric, single.METRICS) is None


def graded(metric: str | None) -> bool:
    """Whether the order of classes counts."""
    found = called(metric, single.METRICS)
    return found is not None and found.name in ("qwk", "kappa_linear")


def ranks(metric: str | None) -> bool:
    """Whether the metric takes probabilities or an order, not labels."""
    found = called(metric, single.METRICS) or called(metric, multi.METRICS)
    return found is not None and found.of != "labels"


def best_few(metric: str | None) -> int:
    """How many of the best classes the metric looks at; 1 for most."""
    found = called(metric, single.METRICS)
    return found.top or 1 if found is not None else 1


def is_gap(metric: str | None) -> bool:
    found = called(metric, single.METRICS)
    return found is not None and found.name == "gap"
