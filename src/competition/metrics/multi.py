"""Metrics of several labels per row: y (N, C) bool, pred (N, C) a probability for each column."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from src.competition.metrics import areas
from src.competition.metrics.curves import (
    area_under_curve,
    average_precision,
    probabilistic_f1,
)
from src.competition.metrics.metric import Family, Function, Metric, Metrics, count
from src.errors import UserError

THRESHOLD = 0.5  # from which a column counts as true, where labels are asked for
OVER = {"macro": 0, "samples": 1, "micro": None}  # columns, rows, all cells at once


def exact(y: np.ndarray, pred: np.ndarray) -> float:
    """The share of the rows that are right in every column, as scikit-learn's accuracy_score counts them."""
    return float(((pred >= THRESHOLD) == y).all(axis=1).mean())


def wrong_cells(y: np.ndarray, pred: np.ndarray) -> float:
    """Hamming loss: the share of the cells that are wrong."""
    return float(((pred >= THRESHOLD) != y).mean())


def f_from_counts(hits: np.ndarray, guessed: np.ndarray, there: np.ndarray, beta: float) -> np.ndarray:
    """F-beta; without a true or guessed one it is 0, as in scikit-learn."""
    square = beta * beta
    below = square * there + guessed
    return (1 + square) * hits / np.where(below > 0, below, 1)


def f_score(beta: float, over: int | None) -> Function:
    """F-beta at THRESHOLD, the mean over columns (`over` 0) or rows (1), or of all cells at once (None, micro)."""

    def score(y: np.ndarray, pred: np.ndarray) -> float:
        guess = pred >= THRESHOLD
        hits, guessed, there = ((cells.sum(axis=over)) for cells in (guess & y, guess, y))
        return float(np.mean(f_from_counts(hits, guessed, there, beta)))

    return score


def over_columns(name: str, of_one: Callable[[np.ndarray, np.ndarray], float], both: bool = True) -> Function:
    """The mean over columns of a metric of one; a column that is all false, or if `both` all true, is left out."""

    def score(y: np.ndarray, pred: np.ndarray) -> float:
        trues = y.sum(axis=0)
        there = np.flatnonzero((trues > 0) & (trues < len(y)) if both else trues > 0)
        if not len(there):
            raise UserError(
                f"metric {name}: no column has {'both true and false' if both else 'true'} rows; "
                "use fewer folds (folds.n=)"
            )
        return float(np.mean([of_one(y[:, c], pred[:, c]) for c in there]))

    return score


column_auc = over_columns("auc", area_under_curve)


def micro_auc(y: np.ndarray, pred: np.ndarray) -> float:
    """The area under the curve of all cells as one column."""
    if not 0 < y.sum() < y.size:
        raise UserError("metric auc_micro: the cells are all true or all false; use fewer folds (folds.n=)")
    return area_under_curve(y.reshape(-1), pred.reshape(-1))


def micro_precision(y: np.ndarray, pred: np.ndarray) -> float:
    """Average precision of all cells as one column."""
    if not y.any():
        raise UserError("metric ap_micro: no cell is true; use fewer folds (folds.n=)")
    return average_precision(y.reshape(-1), pred.reshape(-1))


def row_precision(y: np.ndarray, pred: np.ndarray) -> float:
    """The mean over the rows that have a label of the average precision of their columns."""
    rows = np.flatnonzero(y.any(axis=1))
    if not len(rows):
        raise UserError("metric ap_samples: no row has a label; use fewer folds (folds.n=)")
    return float(np.mean([average_precision(y[row], pred[row]) for row in rows]))


def _surprise(y: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """(N, C) -log of the probability of what is true, clipped to [1e-15, 1]."""
    return -np.log(np.clip(np.where(y, pred, 1 - pred.astype(np.float64)), 1e-15, 1.0))


def column_log_loss(y: np.ndarray, pred: np.ndarray) -> float:
    """The mean over rows and columns."""
    return float(_surprise(y, pred).mean())


def weighted_log_loss(weights: np.ndarray) -> Function:
    """The mean over rows of the mean over columns by their weights (C,) (RSNA 2019: 2 for "any", else 1)."""
    if weights.sum() <= 0:
        raise UserError("competition.metric_weights: no column has a weight above 0")
    return lambda y, pred: float(np.average(_surprise(y, pred).mean(axis=0), weights=weights))


def weighted_auc(weights: np.ndarray) -> Function:
    """The mean over columns by their weights (C,); a column that is all true or all false is left out."""

    def score(y: np.ndarray, pred: np.ndarray) -> float:
        there = np.flatnonzero((y.any(axis=0)) & ~y.all(axis=0) & (weights > 0))
        if not len(there):
            raise UserError("metric weighted_auc: no column has both true and false rows; use fewer folds (folds.n=)")
        return float(np.average([area_under_curve(y[:, c], pred[:, c]) for c in there], weights=weights[there]))

    return score


def brier(y: np.ndarray, pred: np.ndarray) -> float:
    """The mean over rows and columns of the squared error of the probabilities."""
    return float(np.square(pred.astype(np.float64) - y).mean())


def map_at(number: float) -> Metric:
    """The mean over rows of the precision at each true one among the k most probable columns, over min(k, how many are
    true); 0 for a row without a label. Of equal probabilities the first column ranks higher."""
    k = count("map", number)

    def score(y: np.ndarray, pred: np.ndarray) -> float:
        order = np.argsort(-pred, axis=1, kind="stable")[:, :k]
        hit = np.take_along_axis(y, order, axis=1)
        precision = np.cumsum(hit, axis=1) / np.arange(1, hit.shape[1] + 1)
        return float(((hit * precision).sum(axis=1) / np.clip(y.sum(axis=1), 1, k)).mean())

    return Metric(f"map{k}", True, score, of="ranks", top=k)


def partial_auc(limit: float) -> Metric:
    return areas.partial_auc(over_columns, limit)


def auc_above(least: float) -> Metric:
    return areas.auc_above(over_columns, least)


def f(beta: float, over: str) -> Metric:
    """F-beta over `macro`, `samples` or `micro`; a bare "F1" is that of rows, as Kaggle's mean F1 is."""
    if not 0 < beta < 100:
        raise UserError(f"no metric f{beta:g}_{over}: beta is above 0")
    plain = f"f{beta:g}"
    aliases = {
        "macro": (f"{plain} column", f"mean column {plain}", f"{plain} class", f"mean class {plain}"),
        "samples": (plain, f"mean {plain}", f"mean row {plain}", f"{plain} mean row", f"average {plain}"),
        "micro": (f"mean micro {plain}",),
    }
    return Metric(f"{plain}_{over}", True, f_score(beta, OVER[over]), aliases=aliases[over])


METRICS = Metrics(
    (
        Metric("accuracy", True, exact, aliases=("exact",)),
        Metric("hamming", False, wrong_cells, aliases=("hamming loss", "hamming distance")),
        Metric("accuracy_cells", True, lambda y, p: 1 - wrong_cells(y, p), aliases=(
            "mean accuracy", "column accuracy", "mean column accuracy", "binary accuracy")),
        f(1, "macro"),
        f(1, "samples"),
        f(1, "micro"),
        Metric("auc", True, column_auc, of="ranks", weigh=weighted_auc, aliases=(
            "mean column auc", "column auc", "mean auc", "macro auc", "average column auc", "class auc")),
        Metric("auc_micro", True, micro_auc, of="ranks"),
        auc_above(0.8),
        Metric("ap_macro", True, over_columns("ap_macro", average_precision, both=False), of="ranks", aliases=(
            "map", "ap", "macro map", "column map", "mean column ap", "class map", "mean ap")),
        Metric("ap_samples", True, row_precision, of="ranks", aliases=("row map", "ranking ap", "lrap", "mean row ap")),
        Metric("ap_micro", True, micro_precision, of="ranks", aliases=("gap", "micro map")),
        Metric("log_loss", False, column_log_loss, of="probabilities", weigh=weighted_log_loss, aliases=(
            "mean column logloss", "column logloss", "binary logloss", "mean logloss", "bce", "multi label logloss",
            "average column logloss")),
        Metric("weighted_log_loss", False, column_log_loss, of="probabilities", weigh=weighted_log_loss,
               needs_weights=True, aliases=("weighted multi label logloss", "weighted column logloss")),
        Metric("brier", False, brier, of="probabilities"),
        Metric("pf1", True, over_columns("pf1", probabilistic_f1, both=False), of="probabilities"),
    ),
    (
        Family(("f macro", "f class", "f column", "f column mean", "f mean macro"), lambda b: f(b, "macro"),
               "f<beta>_macro"),
        Family(("f", "f row", "f mean", "f mean row"), lambda beta: f(beta, "samples"), "f<beta>_samples"),
        Family(("f micro",), lambda beta: f(beta, "micro"), "f<beta>_micro"),
        Family(("map", "mean map", "map row"), map_at, "map<k>"),
        Family(("auc above tpr", "pauc above tpr", "auc above partial tpr", "pauc tpr"), auc_above,
               "auc_above_tpr<least>"),
        Family(("auc partial", "pauc", "pauc fpr", "auc fpr partial", "auc fpr max",
                "auc fpr max partial"), partial_auc, "partial_auc<fpr>"),
    ),
)  # fmt: skip
