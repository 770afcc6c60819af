"""Metrics of one label per row, in NumPy: scikit-learn takes a second to import and accuracy is asked every epoch.

Each takes target (N,) int and pred (N, C) probabilities and agrees with scikit-learn or the published definition
(tests/unit/test_metrics.py).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from src.competition.metrics import areas, labels
from src.competition.metrics.curves import (
    area_under_curve,
    average_precision,
    probabilistic_f1,
)
from src.competition.metrics.metric import Family, Function, Metric, Metrics, Undefined, count
from src.errors import UserError

accuracy = labels.of_predictions(labels.share_right)
balanced_accuracy = labels.of_predictions(labels.mean_recall)


# ---- probabilities --------------------------------------------------------------------------------------------------
def _surprise(target: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """(N,) -log of the probability of the true class. Rows are scaled to sum 1, then clipped to [1e-15, 1]: a confident
    mistake costs 34.5, not infinity."""
    own = pred[np.arange(len(target)), target].astype(np.float64)
    total = pred.sum(axis=1, dtype=np.float64)
    return -np.log(np.clip(own / np.maximum(total, 1e-15), 1e-15, 1.0))


def log_loss(target: np.ndarray, pred: np.ndarray) -> float:
    return float(_surprise(target, pred).mean())


def balanced_log_loss(target: np.ndarray, pred: np.ndarray) -> float:
    """The mean over the classes in the target of the log loss of their rows."""
    counts = np.bincount(target)
    there = counts > 0
    return float((np.bincount(target, _surprise(target, pred))[there] / counts[there]).mean())


def weighted_log_loss(weights: np.ndarray) -> Function:
    """The log loss with rows weighted by their true classes' weights (C,)."""

    def score(target: np.ndarray, pred: np.ndarray) -> float:
        own = weights[target]
        if own.sum() <= 0:
            raise UserError("competition.metric_weights: no row has a class with a weight above 0")
        return float((own * _surprise(target, pred)).sum() / own.sum())

    return score


def brier(target: np.ndarray, pred: np.ndarray) -> float:
    """The mean squared error of the probabilities: of the last of two classes, else summed over classes."""
    wide = pred.astype(np.float64)
    if pred.shape[1] == 2:
        return float(np.square(wide[:, 1] - target).mean())
    own = wide[np.arange(len(target)), target]
    return float((np.square(wide).sum(axis=1) - 2 * own + 1).mean())


def pf1(target: np.ndarray, pred: np.ndarray) -> float:
    """The probabilistic F1 of the last of two classes."""
    return probabilistic_f1(target == 1, pred[:, -1])


# ---- ranks ----------------------------------------------------------------------------------------------------------
def over_classes(
    name: str, of_one: Callable[[np.ndarray, np.ndarray], float], weighted: bool = False
) -> Callable[[np.ndarray, np.ndarray], float]:
    """A metric of a column: of the last class if there are two, else each class against the rest, mean over classes, or
    `weighted` by their rows. Classes that do not occur in the target are left out of the mean (scikit-learn raises)."""

    def score(target: np.ndarray, pred: np.ndarray) -> float:
        numbers = [1] if pred.shape[1] == 2 else range(pred.shape[1])
        rows = {number: int((target == number).sum()) for number in numbers}
        there = [number for number, count in rows.items() if 0 < count < len(target)]
        if not there:
            raise Undefined(
                f"metric {name}: the rows are all of one class; use fewer folds (folds.n=) or another metric"
            )
        found = [of_one(target == number, pred[:, number]) for number in there]
        return float(np.average(found, weights=[rows[number] for number in there] if weighted else None))

    return score


auc = over_classes("auc", area_under_curve)


def auc_pairs(target: np.ndarray, pred: np.ndarray) -> float:
    """Hand & Till (2001): the mean over pairs of classes that occur of the area between the two, from both sides."""
    if pred.shape[1] == 2:
        return auc(target, pred)
    there = np.unique(target).tolist()
    found = []
    for i, a in enumerate(there):
        for b in there[i + 1 :]:
            rows = (target == a) | (target == b)
            sides = [area_under_curve(target[rows] == c, pred[rows, c]) for c in (a, b)]
            found.append(np.mean(sides))
    if not found:
        raise Undefined("metric auc_pairs: the rows are all of one class; use fewer folds (folds.n=) or another metric")
    return float(np.mean(found))


def partial_auc(limit: float) -> Metric:
    return areas.partial_auc(over_classes, limit)


def auc_above(least: float) -> Metric:
    return areas.auc_above(over_classes, least)


def rank_of_truth(target: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """(N,) int from 1: the rank of the true class in its row. Of equal probabilities the first class ranks higher."""
    own = pred[np.arange(len(target)), target][:, None]
    # Counting what ranks higher needs no sort: 100,000 x 100 take a tenth of the time.
    rank = 1 + (pred > own).sum(axis=1)
    tied, before = np.nonzero(pred == own)
    return rank + np.bincount(tied[before < target[tied]], minlength=len(target))


def map_at(number: float) -> Metric:
    """The mean of 1 / rank of the true class, 0 below rank k."""
    k = count("map", number)

    def mean_average_precision(target: np.ndarray, pred: np.ndarray) -> float:
        rank = rank_of_truth(target, pred)
        return float(np.where(rank <= k, 1 / rank, 0.0).mean())

    return Metric(f"map{k}", True, mean_average_precision, of="ranks", top=k)


def top_accuracy(number: float) -> Metric:
    """The share of the rows whose true class is among the k most probable."""
    k = count("top_accuracy", number)
    return Metric(f"top{k}_accuracy", True, lambda y, p: float((rank_of_truth(y, p) <= k).mean()), of="ranks", top=k)


def top_error(number: float) -> Metric:
    k = count("top_error", number)
    return Metric(f"top{k}_error", False, lambda y, p: float((rank_of_truth(y, p) > k).mean()), of="ranks", top=k)


def gap(target: np.ndarray, pred: np.ndarray) -> float:
    """Global (micro) average precision at 1 (Google Landmarks): the guesses of all rows in the order of their
    confidence, mean over rows of the precision down to each right one. Guesses of one confidence come at once."""
    right = pred.argmax(axis=1) == target
    return average_precision(right, pred.max(axis=1)) * float(right.mean()) if right.any() else 0.0


# ---- all of them ----------------------------------------------------------------------------------------------------
def of_label(
    name: str, of_counts: labels.OfCounts, *aliases: str, greater: bool = True, classes: int | None = None
) -> Metric:
    return Metric(name, greater, labels.of_predictions(of_counts), of_counts, classes=classes, aliases=aliases)


def f(beta: float, over: str) -> Metric:
    """F-beta: `macro`, the mean over classes; `weighted`, by their rows; `micro`, of all rows, which is accuracy where
    each has one label; `binary`, of the last of two classes."""
    if not 0 < beta < 100:
        raise UserError(f"no metric f{beta:g}_{over}: beta is above 0")
    make = {"macro": labels.f_macro, "weighted": labels.f_weighted, "binary": labels.f_of_last}
    of_counts = labels.share_right if over == "micro" else make[over](beta)
    name = f"f{beta:g}_{over}"
    plain = f"f{beta:g}"
    aliases = {
        "macro": (f"mean {plain}", f"mean macro {plain}", f"mean class {plain}", f"class {plain}"),
        "weighted": (),
        "micro": (f"mean micro {plain}",),
        "binary": (plain,),
    }
    return of_label(name, of_counts, *aliases[over], classes=2 if over == "binary" else None)


METRICS = Metrics(
    (
        Metric(
            "accuracy", True, accuracy, labels.share_right,
            weigh=labels.accuracy_by_weight, aliases=("acc", "top 1 accuracy", "exact", "multiclass accuracy"),
        ),
        Metric(
            "balanced_accuracy", True, balanced_accuracy, labels.mean_recall,
            aliases=("macro recall", "recall", "mean recall", "unweighted average recall", "uar", "mean class accuracy",
                     "average class accuracy", "mean per class accuracy", "macro accuracy"),
        ),
        f(1, "macro"),
        f(1, "weighted"),
        f(1, "micro"),
        f(1, "binary"),
        of_label("precision_macro", labels.mean_precision, "precision", "mean precision"),
        of_label("mcc", labels.matthews),
        of_label("kappa", labels.kappa(0), "unweighted kappa"),
        of_label("kappa_linear", labels.kappa(1), "linear weighted kappa"),
        of_label("qwk", labels.kappa(2), "quadratic"),
        of_label("error", lambda counts: 1 - labels.share_right(counts), "error rate", "top 1 error",
                 "classification error", "misclassification rate", greater=False),
        Metric("log_loss", False, log_loss, of="probabilities", weigh=weighted_log_loss,
               aliases=("multiclass logloss", "multi class logloss", "mean logloss", "binary logloss", "nll")),
        Metric("balanced_log_loss", False, balanced_log_loss, of="probabilities"),
        Metric("weighted_log_loss", False, log_loss, of="probabilities", weigh=weighted_log_loss, needs_weights=True,
               aliases=("weighted multiclass logloss", "weighted multi class logloss")),
        Metric("weighted_accuracy", True, accuracy, weigh=labels.accuracy_by_weight, needs_weights=True),
        Metric("brier", False, brier, of="probabilities"),
        Metric("pf1", True, pf1, of="probabilities", classes=2, aliases=("probabilistic f", "pf")),
        Metric("auc", True, auc, of="ranks", aliases=(
            "macro auc", "mean column auc", "column auc", "mean auc", "auc ovr", "average column auc", "class auc")),
        Metric("auc_weighted", True, over_classes("auc_weighted", area_under_curve, weighted=True), of="ranks"),
        Metric("auc_pairs", True, auc_pairs, of="ranks", aliases=("auc ovo", "hand till")),
        auc_above(0.8),
        Metric("average_precision", True, over_classes("average_precision", average_precision), of="ranks", aliases=(
            "mean average precision", "macro average precision", "column map", "mean column ap", "mean ap")),
        Metric("gap", True, gap, of="ranks", aliases=("micro map",)),
        map_at(3),
        map_at(5),
    ),
    (
        Family(("map", "mean map", "mrr", "map cutoff"), map_at, "map<k>"),
        Family(("top accuracy", "accuracy", "hit", "hits", "hit rate", "recall"), top_accuracy, "top<k>_accuracy"),
        Family(("top error", "error"), top_error, "top<k>_error"),
        Family(("f macro", "mean f", "f mean macro"), lambda beta: f(beta, "macro"), "f<beta>_macro"),
        Family(("f weighted",), lambda beta: f(beta, "weighted"), "f<beta>_weighted"),
        Family(("f micro",), lambda beta: f(beta, "micro"), "f<beta>_micro"),
        Family(("f", "f binary"), lambda beta: f(beta, "binary"), "f<beta>_binary"),
        Family(("auc above tpr", "pauc above tpr", "auc above partial tpr", "pauc tpr"), auc_above,
               "auc_above_tpr<least>"),
        Family(("auc partial", "pauc", "pauc fpr", "auc fpr partial", "auc fpr max",
                "auc fpr max partial"), partial_auc, "partial_auc<fpr>"),
    ),
)  # fmt: skip
