"""Nested scoring: whatever is fitted on out-of-fold rows is scored on rows that it was not fitted on.

A member's out-of-fold predictions are honest, but weights or a second model fitted on them have seen their labels: on
random labels a stacker with many features scores far above chance on the rows that it was fitted on. So for each fold
k the fit takes the other folds' rows and is applied to fold k. Fold k's labels have then not reached fold k's
predictions through the fit. They have through one narrow door, as is standard practice: the members' models that
predicted the other folds did train on fold k's rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from src.errors import UserError

INNER = 5  # parts of a single fold
Fitted = TypeVar("Fitted")


@dataclass(frozen=True)
class Split:
    """Row numbers (int64) to fit on and to score, all of the latter of one fold."""

    fold: int
    fit: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class Nested(Generic[Fitted]):
    pred: np.ndarray  # (N, C) float32: each row's from what was fitted without it
    fitted: dict[int, Fitted]  # by fold: what its test rows are predicted with


def splits(
    folds: np.ndarray, strata: np.ndarray, seed: int, groups: np.ndarray | None = None, wanted: Sequence[int] = ()
) -> list[Split]:
    """Leave one fold out, for each fold of `wanted` (default: all). folds (N,) int64, strata (N,) int64.

    Where there is but one fold, its rows are split into INNER parts with the strata's shares, rows of one group (N,)
    in one part. Raises UserError if they are too few for that. Rows of fold -1, which no fold holds out, are always
    fitted on and never scored.
    """
    always, there = np.flatnonzero(folds < 0), np.unique(folds[folds >= 0]).tolist()
    if len(there) > 1:
        return [Split(k, np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in wanted or there]

    rows = np.flatnonzero(folds >= 0)
    strata, groups = strata[rows], None if groups is None else groups[rows]
    if np.bincount(strata, minlength=1).max() < INNER:  # identities with few rows each: nothing to spread
        strata = np.zeros_like(strata)
    if len(rows) < INNER or (groups is not None and len(np.unique(groups)) < INNER):
        raise UserError(
            f"fold {there[0]} alone has {len(strata)} rows, too few to fit on {INNER - 1} parts and score the fifth; "
            "finish more folds"
        )
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # its parts then lack that class
        if groups is None:
            parts = StratifiedKFold(INNER, shuffle=True, random_state=seed).split(rows, strata)
        else:
            parts = StratifiedGroupKFold(INNER, shuffle=True, random_state=seed).split(rows, strata, groups)
        return [Split(there[0], np.sort(np.append(rows[fit], always)), rows[score]) for fit, score in parts]


def nested(
    parts: Sequence[Split],
    fit: Callable[[int, np.ndarray], Fitted],
    predict: Callable[[Fitted, int, np.ndarray], np.ndarray],
    rows: int,
    classes: int,
    threads: int = 1,
) -> Nested[Fitted]:
    """Fit each part on its rows and predict the others. `fit` gets (fold, row numbers), `predict` (fitted, fold,
    row numbers) and returns (n, C).

    Rows of no part are NaN. Fold k's test rows are predicted with the fit that has not seen fold k; where one fold is
    split into parts, with one more fit on all of its rows, as its parts' fits are no better than each other.
    threads: fits at a time.
    """
    pred = np.full((rows, classes), np.nan, np.float32)
    fitted: dict[int, Fitted] = {}
    with ThreadPoolExecutor(threads) as pool:  # numpy lets go of Python's lock in what takes long
        fits = list(pool.map(lambda part: fit(part.fold, part.fit), parts))
    for part, found in zip(parts, fits, strict=True):
        fitted[part.fold] = found
        pred[part.score] = predict(found, part.fold, part.score)
    if len(parts) > len(fitted):
        for k in fitted:
            every = [np.append(part.fit, part.score) for part in parts if part.fold == k]
            fitted[k] = fit(k, np.unique(np.concatenate(every)))
    return Nested(pred, fitted)
