"""Metrics of several labels, of numbers and of several targets against scikit-learn, SciPy or a naive loop."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as sk

from src.competition.metrics import multi, numbers
from src.competition.metrics.targets import metrics_of
from src.errors import UserError

MULTI, NUMBERS, TARGETS = multi.METRICS, numbers.METRICS, metrics_of([3, 2, 4])


# ---- several labels -------------------------------------------------------------------------------------------------
def cells(seed: int, share: float, rows: int = 80, columns: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y, pred = (
        rng.random((rows, columns)) < share,
        rng.random((rows, columns)).round(2).clip(0.01, 0.99).astype(np.float32),
    )
    y[0], y[1] = True, False  # every column has both
    return y, pred


def naive_mapk(y: np.ndarray, pred: np.ndarray, k: int) -> float:
    """As in ml_metrics, which Kaggle's pages cite."""
    total = 0.0
    for truth, row in zip(y, pred, strict=True):
        actual, hits, score = set(np.flatnonzero(truth).tolist()), 0.0, 0.0
        for i, guess in enumerate(np.argsort(-row, kind="stable")[:k].tolist()):
            if guess in actual:
                hits += 1
                score += hits / (i + 1)
        total += score / min(len(actual), k) if actual else 0.0
    return total / len(y)


def columns(y: np.ndarray, pred: np.ndarray, of_one) -> list[float]:
    return [of_one(y[:, c], pred[:, c]) for c in range(y.shape[1])]


def pf1(y: np.ndarray, p: np.ndarray) -> float:
    precision, recall = p[y].sum() / p.sum(), p[y].sum() / y.sum()
    return 2 * precision * recall / (precision + recall)


def isic(y: np.ndarray, p: np.ndarray) -> float:
    scaled, limit = sk.roc_auc_score(~y, -p, max_fpr=0.2), 0.2
    return 0.5 * limit**2 + (limit - 0.5 * limit**2) / 0.5 * (scaled - 0.5)


def f(beta: float, average: str):
    return lambda y, p: sk.fbeta_score(y, p >= 0.5, beta=beta, average=average, zero_division=0)


OF_CELLS = {
    "accuracy": lambda y, p: sk.accuracy_score(y, p >= 0.5),
    "hamming": lambda y, p: sk.hamming_loss(y, p >= 0.5),
    "accuracy_cells": lambda y, p: 1 - sk.hamming_loss(y, p >= 0.5),
    "f1_macro": f(1, "macro"),
    "f1_micro": f(1, "micro"),
    "f1_samples": f(1, "samples"),
    "f2_samples": f(2, "samples"),
    "f0.5_micro": f(0.5, "micro"),
    "f2_macro": f(2, "macro"),
    "auc": lambda y, p: sk.roc_auc_score(y, p, average="macro"),
    "auc_micro": lambda y, p: sk.roc_auc_score(y, p, average="micro"),
    "auc_above_tpr0.8": lambda y, p: np.mean(columns(y, p, isic)),
    "partial_auc0.2": lambda y, p: np.mean([sk.roc_auc_score(y[:, c], p[:, c], max_fpr=0.2) for c in range(5)]),
    "ap_macro": lambda y, p: sk.average_precision_score(y, p, average="macro"),
    "ap_micro": lambda y, p: sk.average_precision_score(y, p, average="micro"),
    "ap_samples": lambda y, p: sk.average_precision_score(y[y.any(1)], p[y.any(1)], average="samples"),
    "log_loss": lambda y, p: np.mean([sk.log_loss(y[:, c], p[:, c].astype(float), labels=[0, 1]) for c in range(5)]),
    "weighted_log_loss": lambda y, p: OF_CELLS["log_loss"](y, p),  # of equal weights
    "brier": lambda y, p: np.mean(columns(y, p, sk.brier_score_loss)),
    "pf1": lambda y, p: np.mean(columns(y, p.astype(float), pf1)),
    "map3": lambda y, p: naive_mapk(y, p, 3),
}


@pytest.mark.parametrize("share", [0.5, 0.02])
@pytest.mark.parametrize("name", OF_CELLS)
def test_multi_against_the_reference(name: str, share: float) -> None:
    assert set(MULTI) <= set(OF_CELLS)
    for seed in range(4):
        y, pred = cells(seed, share)
        assert MULTI.find(name).function(y, pred) == pytest.approx(OF_CELLS[name](y, pred), abs=1e-6), seed


@pytest.mark.parametrize("name", OF_CELLS)
def test_multi_of_one_row_and_of_columns_without_both_is_finite_or_a_line(name: str) -> None:
    y, pred = cells(0, 0.3)
    one_sided = y.copy()
    one_sided[:, 0], one_sided[:, 1] = False, True
    for truth, guess in ((y[:1], pred[:1]), (y[1:2], pred[1:2]), (one_sided, pred), (y, pred * 0), (~y & y, pred)):
        try:
            assert np.isfinite(MULTI.find(name).function(truth, guess))
        except UserError:
            assert MULTI.find(name).of != "labels"  # which says what to do; the others can always be counted


def test_weights_of_columns() -> None:
    y, pred = cells(1, 0.3)
    weights = np.array([2, 1, 1, 0, 0.5])
    each = columns(y, pred.astype(float), lambda t, p: sk.log_loss(t, p, labels=[0, 1]))
    assert MULTI["log_loss"].weighted(weights).function(y, pred) == pytest.approx(np.average(each, weights=weights))
    areas = columns(y, pred, sk.roc_auc_score)
    assert MULTI["auc"].weighted(weights).function(y, pred) == pytest.approx(np.average(areas, weights=weights))


@pytest.mark.parametrize(
    ("spoken", "name"),
    [
        ("Mean column-wise AUC", "auc"), ("micro F1 of words", "f1_micro"), ("F1 over rows", "f1_samples"),
        ("Mean F1-Score", "f1_samples"), ("macro f1", "f1_macro"), ("F2 micro", "f2_micro"), ("mean F2", "f2_samples"),
        ("mAP", "ap_macro"), ("Mean Average Precision over columns", "ap_macro"), ("map@7", "map7"),
        ("exact match ratio", "accuracy"), ("Mean column-wise log loss", "log_loss"), ("Hamming loss", "hamming"),
        ("weighted multi-label logarithmic loss", "weighted_log_loss"), ("F1", "f1_samples"),
        ("probabilistic F1 score", "pf1"), ("F1 over classes", "f1_macro"),
    ],
)  # fmt: skip
def test_names_of_metrics_of_several_labels(spoken: str, name: str) -> None:
    assert MULTI.find(spoken).name == name


# ---- numbers --------------------------------------------------------------------------------------------------------
def values(seed: int, columns: int, rows: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.gamma(2, 2, (rows, columns)).round(1)
    return y, (0.7 * y + rng.normal(0, 1, y.shape)).round(1)  # ties, and some below 0


def smape(y: np.ndarray, p: np.ndarray) -> float:
    found = [2 * abs(a - b) / (abs(a) + abs(b)) if abs(a) + abs(b) else 0 for a, b in zip(y.flat, p.flat, strict=True)]
    return float(np.mean(found))


def half_up(cells: np.ndarray) -> np.ndarray:
    return np.floor(cells + 0.5).astype(int)


def qwk(y: np.ndarray, p: np.ndarray) -> float:
    true, levels = half_up(y), np.arange(half_up(y).min(), half_up(y).max() + 1)
    guess = np.clip(half_up(p), levels[0], levels[-1])
    return sk.cohen_kappa_score(true, guess, weights="quadratic", labels=levels)


OF_NUMBERS = {
    "mae": sk.mean_absolute_error,
    "medae": sk.median_absolute_error,
    "mse": sk.mean_squared_error,
    "rmse": lambda y, p: np.sqrt(sk.mean_squared_error(y, p)),
    "mcrmse": sk.root_mean_squared_error,
    "rmsle": lambda y, p: np.sqrt(sk.mean_squared_log_error(y, np.maximum(p, 0))),
    "r2": sk.r2_score,
    "pearson": lambda y, p: np.mean(columns(y, p, lambda a, b: scipy.stats.pearsonr(a, b)[0])),
    "spearman": lambda y, p: np.mean(columns(y, p, lambda a, b: scipy.stats.spearmanr(a, b)[0])),
    "mape": sk.mean_absolute_percentage_error,
    "smape": smape,
    "qwk": lambda y, p: np.mean(columns(y, p, qwk)),
}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", OF_NUMBERS)
def test_numbers_against_the_reference(name: str, count: int) -> None:
    assert set(NUMBERS) == set(OF_NUMBERS)
    for seed in range(4):
        y, pred = values(seed, count)
        expected = OF_NUMBERS[name](y, pred)
        assert NUMBERS[name].function(y, pred) == pytest.approx(expected), seed
        narrow = NUMBERS[name].function(y.astype(np.float32), pred.astype(np.float32))
        assert narrow == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_numbers_that_never_vary_and_one_row(name: str) -> None:
    y, pred = values(0, 2)
    constant = np.full_like(y, 3.0)
    for truth, guess in ((y, constant), (constant, pred), (constant, constant), (y[:1], pred[:1]), (y * 0, y * 0)):
        assert np.isfinite(NUMBERS[name].function(truth, guess))
    assert NUMBERS["r2"].function(constant, constant) == 1 and NUMBERS["r2"].function(constant, pred) == 0
    assert NUMBERS["spearman"].function(y, constant) == 0, "SciPy: no number"


def test_what_numbers_cannot_be_scored_by() -> None:
    y, pred = values(0, 1)
    with pytest.raises(UserError, match="rmsle: there are targets below 0"):
        NUMBERS["rmsle"].function(y - 100, pred)
    with pytest.raises(UserError, match="qwk: targets from 0 to 90000 are no grades"):
        NUMBERS["qwk"].function(np.array([[0.0], [90000.0]]), pred[:2])


@pytest.mark.parametrize(
    ("spoken", "name"),
    [
        ("RMSE", "rmse"), ("Root Mean Squared Error", "rmse"), ("MCRMSE", "mcrmse"), ("R^2", "r2"), ("R-squared", "r2"),
        ("mean column-wise root mean squared error", "mcrmse"), ("Mean Absolute Error", "mae"), ("RMSLE", "rmsle"),
        ("root mean squared logarithmic error", "rmsle"), ("Spearman's rank correlation", "spearman"),
        ("Pearson correlation coefficient", "pearson"), ("SMAPE", "smape"), ("quadratic weighted kappa", "qwk"),
        ("mean column-wise Spearman's correlation coefficient", "spearman"), ("R2", "r2"), ("r2_score", "r2"),
    ],
)  # fmt: skip
def test_names_of_metrics_of_numbers(spoken: str, name: str) -> None:
    assert NUMBERS.find(spoken).name == name


# ---- several targets ------------------------------------------------------------------------------------------------
def targets(seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    y = np.stack([np.append(np.arange(k), rng.integers(0, k, 60 - k)) for k in (3, 2, 4)], axis=1)
    return y, [rng.dirichlet(np.ones(k), 60) for k in (3, 2, 4)]


OF_TARGET = {
    "accuracy": lambda t, p: sk.accuracy_score(t, p.argmax(1)),
    "recall_macro": lambda t, p: sk.recall_score(t, p.argmax(1), average="macro"),
    "f1_macro": lambda t, p: sk.f1_score(t, p.argmax(1), average="macro"),
    "qwk": lambda t, p: sk.cohen_kappa_score(t, p.argmax(1), weights="quadratic"),
    "log_loss": sk.log_loss,
    "auc": lambda t, p: sk.roc_auc_score(t, p if p.shape[1] > 2 else p[:, 1], multi_class="ovr"),
}


@pytest.mark.parametrize("name", OF_TARGET)
def test_targets_against_the_reference(name: str) -> None:
    assert {one.removeprefix("weighted_") for one in TARGETS} == {*OF_TARGET, "exact"}
    for seed in range(3):
        y, blocks = targets(seed)
        each = [OF_TARGET[name](y[:, t], block) for t, block in enumerate(blocks)]
        pred = np.concatenate(blocks, axis=1)
        assert TARGETS[name].function(y, pred) == pytest.approx(np.mean(each))
        weighted = TARGETS[name].weighted(np.array([2.0, 1.0, 1.0]))
        assert weighted.name == f"weighted_{name}"
        assert weighted.function(y, pred) == pytest.approx(np.average(each, weights=[2, 1, 1])), "as Bengali.AI"


def test_rows_that_are_right_in_every_target() -> None:
    y, blocks = targets(0)
    right = np.all([block.argmax(1) == y[:, t] for t, block in enumerate(blocks)], axis=0)
    assert TARGETS["exact"].function(y, np.concatenate(blocks, axis=1)) == right.mean()


def test_a_metric_of_targets_that_asks_for_weights() -> None:
    assert TARGETS.find("Weighted macro recall").needs_weights
    assert TARGETS.find("hierarchical macro-averaged recall").name == "recall_macro"
    with pytest.raises(UserError, match="no target has a weight above 0"):
        TARGETS["accuracy"].weighted(np.zeros(3))
