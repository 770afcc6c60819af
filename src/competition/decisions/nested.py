"""Fitting a decision on out-of-fold rows, and deciding each row by a fit that has not seen it."""

from __future__ import annotations

import numpy as np

from src.competition.decisions.decision import Decision
from src.competition.decisions.fits import Fit, fits_for
from src.competition.metrics import Metric
from src.competition.task import Task
from src.errors import UserError

CELLS = 1_000_000  # of predictions that a search looks at; above, rows are drawn
PARTS = 3  # by which what is fitted is compared with the plain rule
FAILS = (UserError, ValueError, ZeroDivisionError)  # what a metric raises on rows that it cannot score


def fit(
    metric: Metric,
    task: Task,
    y: np.ndarray,
    pred: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
    new: str | None = None,
) -> Decision | None:
    """What makes the metric best on out-of-fold predictions (N, C), or None where the plain rule is at least as good.

    Of what there is for the metric, from one number for all to one for each class, the best is taken as PARTS of the
    rows, whole groups (N,), score when fitted on the others; the plain rule competes. It is then fitted on all rows.
    new: the class of rows that show nobody known.
    """
    fits = fits_for(metric, task, new)
    if not fits or len(y) < 2 * PARTS:
        return None
    rng = np.random.default_rng((seed, len(y)))
    rows = np.arange(len(y))
    if pred.size > CELLS:
        rows = np.sort(rng.permutation(len(y))[: max(2 * PARTS, CELLS // pred.shape[1])])
    y, pred, groups = y[rows], pred[rows], None if groups is None else groups[rows]
    parts = parts_of(task.strata(y), groups, rng)
    try:
        plain = metric.sign * metric.function(y, pred)
    except FAILS:
        return None
    best, chosen = plain, None
    for each in fits:
        try:
            reached = metric.sign * metric.function(y, _crossed(each, y, pred, parts))
        except FAILS:
            continue
        if reached > best + 1e-12:
            best, chosen = reached, each
    if chosen is None:
        return None
    try:
        return chosen(y, pred)
    except FAILS:
        return None


def parts_of(strata: np.ndarray, groups: np.ndarray | None, rng: np.random.Generator, parts: int = PARTS) -> np.ndarray:
    """(N,) int from 0: parts with the strata's shares, or of whole groups (N,)."""
    unit = np.arange(len(strata)) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    order = rng.permutation(int(unit.max()) + 1)
    if groups is not None:
        return order[unit] % parts
    found = np.empty(len(strata), np.int64)
    found[np.lexsort((order, strata))] = np.arange(len(strata)) % parts
    return found


def _crossed(each: Fit, y: np.ndarray, pred: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Predictions of each part as decided by a fit on the others."""
    out = np.empty(pred.shape, np.float32)
    for part in np.unique(parts).tolist():
        inside = parts == part
        out[inside] = each(y[~inside], pred[~inside]).apply(pred[inside])
    return out


def nested(
    metric: Metric,
    task: Task,
    y: np.ndarray,
    pred: np.ndarray,
    parts: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
    new: str | None = None,
) -> tuple[np.ndarray, Decision | None]:
    """pred (N, C) with the rows of each of the parts (N,), folds or halves, decided by what was fitted on the others,
    for an honest score; and what is fitted on all of them, for rows that come."""

    def fitted(rows: np.ndarray) -> Decision | None:
        own = None if groups is None else groups[rows]
        return fit(metric, task, y[rows], pred[rows], groups=own, seed=seed, new=new)

    out = pred.astype(np.float32)
    if not fits_for(metric, task, new):
        return out, None
    for part in np.unique(parts).tolist():
        inside = parts == part
        if not inside.all() and (decision := fitted(~inside)) is not None:
            out[inside] = decision.apply(pred[inside])
    return out, fitted(np.ones(len(y), bool))
