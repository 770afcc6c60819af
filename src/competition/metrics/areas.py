"""Partial areas under the ROC curve as metrics, for the kinds of target to spread over classes or columns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from src.competition.metrics.curves import area_above, partial_area, standardised
from src.competition.metrics.metric import Function, Metric
from src.errors import UserError

# (name, metric of one column) -> metric of all classes or columns
Over = Callable[[str, Callable[[np.ndarray, np.ndarray], float]], Function]


def partial_auc(over: Over, limit: float) -> Metric:
    """Up to the false positive rate `limit`, standardised."""
    if not 0 < limit < 1:
        raise UserError(f"no metric partial_auc{limit:g}: the largest false positive rate is above 0, below 1")
    name = f"partial_auc{limit:g}"
    return Metric(name, True, over(name, lambda y, p: standardised(partial_area(y, p, limit), limit)), of="ranks")


def auc_above(over: Over, least: float) -> Metric:
    """Above the true positive rate `least`, raw: 0 to 1 - least (ISIC 2024: 0.8)."""
    if not 0 <= least < 1:
        raise UserError(f"no metric auc_above_tpr{least:g}: the least true positive rate is from 0, below 1")
    name = f"auc_above_tpr{least:g}"
    own = ("pauc", "partial auc", "pauc above tpr 0.8", "partial auc above 80% tpr", "pauc 80 tpr")
    aliases = own if least == 0.8 else ()
    return Metric(name, True, over(name, lambda y, p: area_above(y, p, least)), of="ranks", aliases=aliases)
