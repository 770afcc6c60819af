"""What is refused before a score is taken: shapes that do not fit, and predictions that are not finite."""

from __future__ import annotations

import numpy as np

from src.errors import UserError


def check(target: np.ndarray, pred: np.ndarray) -> None:
    """ValueError for shapes that do not fit, UserError for predictions that are not finite."""
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
            f"predictions of {count} of {len(pred)} rows hold NaN or infinity; training diverged: go on with "
            "precision=fp32, or train again with a lower optimizer.lr= as another run=NAME"
        )
