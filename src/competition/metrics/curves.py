"""Metrics of one column, positive (N,) bool against value (N,): areas under curves, and the probabilistic F1."""

from __future__ import annotations

import numpy as np


def average_ranks(value: np.ndarray) -> np.ndarray:
    """(N,) float64 from 1, ties sharing their mean rank."""
    _, inverse, counts = np.unique(value, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse.reshape(-1)]


def area_under_curve(positive: np.ndarray, value: np.ndarray) -> float:
    """Mann-Whitney U: the chance that a positive ranks above a negative, ties counting half."""
    rank = average_ranks(value)
    positives = int(positive.sum())
    above = rank[positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(positive) - positives)))


def _steps(positive: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives (K,) at each distinct value as a threshold, from the largest."""
    order = np.argsort(-value, kind="stable")
    ranked, hit = value[order], positive[order].astype(np.int64)
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # the last row of each tie
    true = np.cumsum(hit)[last]
    return true, 1 + last - true


def partial_area(positive: np.ndarray, value: np.ndarray, limit: float) -> float:
    """The area under the ROC curve left of the false positive rate `limit`, from 0 to `limit`."""
    true, false = _steps(positive, value)
    tpr, fpr = np.append(0.0, true / true[-1]), np.append(0.0, false / false[-1])
    inside = fpr <= limit
    x = np.append(fpr[inside], limit)
    y = np.append(tpr[inside], np.interp(limit, fpr, tpr) if (fpr > limit).any() else tpr[-1])
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1])).sum() / 2)


def standardised(area: float, limit: float) -> float:
    """A partial area as McClish (1989) scales it: 0.5 by chance, 1 at best; scikit-learn's `max_fpr`."""
    least = limit**2 / 2
    return 0.5 * (1 + (area - least) / (limit - least))


def area_above(positive: np.ndarray, value: np.ndarray, least: float) -> float:
    """The area under the ROC curve above the true positive rate `least`, from 0 to 1 - least (ISIC 2024)."""
    return partial_area(~positive, -value, 1 - least)


def average_precision(positive: np.ndarray, value: np.ndarray) -> float:
    """Sum over thresholds of the precision times the gain in recall; rows of equal value come at once."""
    true, false = _steps(positive, value)
    return float((np.diff(true, prepend=0) * true / (true + false)).sum() / true[-1])


def probabilistic_f1(positive: np.ndarray, probability: np.ndarray, beta: float = 1.0) -> float:
    """F-beta of probabilities as counts (Yacouby & Axman 2020; RSNA 2022 breast cancer): a row adds its probability to
    the true or false positives. 0 without a positive row, or without any probability on them."""
    true = float(probability[positive].sum(dtype=np.float64))
    guessed, there = float(probability.sum(dtype=np.float64)), float(positive.sum())
    square = beta * beta
    return (1 + square) * true / (square * there + guessed) if true > 0 else 0.0
