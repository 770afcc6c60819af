"""Each metric against scikit-learn or a naive loop."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics

from src.competition.metrics import METRICS, Metric, confusion, per_class, score, scores
from src.errors import UserError


def problem(seed: int, rows: int = 200, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Targets that hold every class and probabilities that know something about them, with ties."""
    random = np.random.default_rng(seed)
    target = np.concatenate([np.arange(classes), random.integers(0, classes, rows - classes)])
    logits = random.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[target]
    pred = np.exp(logits).round(1) + 0.1
    return target, pred / pred.sum(axis=1, keepdims=True)


def naive_map(target: np.ndarray, pred: np.ndarray, k: int) -> float:
    total = 0.0
    for truth, row in zip(target, pred, strict=True):
        ranked = sorted(range(len(row)), key=lambda number: (-row[number], number))
        if truth in ranked[:k]:
            total += 1 / (ranked.index(truth) + 1)
    return total / len(target)


def naive_log_loss(target: np.ndarray, pred: np.ndarray) -> float:
    return float(np.mean([-np.log(max(row[truth] / sum(row), 1e-15)) for truth, row in zip(target, pred, strict=True)]))


REFERENCES = {
    "accuracy": lambda t, p: sklearn.metrics.accuracy_score(t, p.argmax(1)),
    "balanced_accuracy": lambda t, p: sklearn.metrics.balanced_accuracy_score(t, p.argmax(1)),
    "f1_macro": lambda t, p: sklearn.metrics.f1_score(t, p.argmax(1), average="macro"),
    "f1_weighted": lambda t, p: sklearn.metrics.f1_score(t, p.argmax(1), average="weighted"),
    "log_loss": lambda t, p: sklearn.metrics.log_loss(t, p, labels=range(p.shape[1])),
    "auc": lambda t, p: (
        sklearn.metrics.roc_auc_score(t, p[:, 1])
        if p.shape[1] == 2
        else sklearn.metrics.roc_auc_score(t, p, multi_class="ovr", average="macro")
    ),
    "qwk": lambda t, p: sklearn.metrics.cohen_kappa_score(
        t, p.argmax(1), weights="quadratic", labels=range(p.shape[1])
    ),
    "map3": lambda t, p: naive_map(t, p, 3),
    "map5": lambda t, p: naive_map(t, p, 5),
}


def test_every_metric_has_a_reference() -> None:
    assert set(REFERENCES) == set(METRICS) and METRICS


@pytest.mark.parametrize("classes", [2, 5, 8])
@pytest.mark.parametrize("name", METRICS)
def test_against_the_reference(name: str, classes: int) -> None:
    for seed in range(5):
        target, pred = problem(seed, classes=classes)
        assert score(name, target, pred) == pytest.approx(REFERENCES[name](target, pred), abs=1e-12)


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "log_loss", "qwk"])
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_a_class_that_never_occurs(name: str) -> None:
    target, pred = problem(0)
    target[target == 3] = 2
    assert score(name, target, pred) == pytest.approx(REFERENCES[name](target, pred), abs=1e-12)


@pytest.mark.parametrize("metric", [metric for metric in METRICS.values() if metric.of_counts], ids=lambda m: m.name)
def test_a_metric_of_the_most_probable_class_from_counts(metric: Metric) -> None:
    target, pred = problem(2)
    assert metric.of_counts is not None
    assert metric.of_counts(confusion(target, pred.argmax(1), 5)) == metric.function(target, pred)


def test_auc_leaves_absent_classes_out() -> None:
    target, pred = problem(0)
    rows = target != 3
    there = [sklearn.metrics.roc_auc_score(target[rows] == k, pred[rows, k]) for k in (0, 1, 2, 4)]
    assert score("auc", target[rows], pred[rows]) == pytest.approx(np.mean(there))
    with pytest.raises(UserError, match="auc: the rows are all of one class"):
        score("auc", np.zeros(3, dtype=np.int64), np.full((3, 2), 0.5))


@pytest.mark.parametrize("name", METRICS)
def test_better_is_better(name: str) -> None:
    """Perfect predictions beat noisy ones in the direction that `greater_is_better` claims."""
    target, noisy = problem(0)
    perfect, worse = score(name, target, np.eye(5)[target]), score(name, target, noisy)
    assert perfect > worse if METRICS[name].greater_is_better else perfect < worse
    assert perfect == pytest.approx(1.0 if METRICS[name].greater_is_better else 0.0)


@pytest.mark.parametrize("name", METRICS)
def test_float32_and_row_order_do_not_matter(name: str) -> None:
    target, pred = problem(1)
    order = np.random.default_rng(0).permutation(len(target))
    expected = score(name, target, pred)
    assert score(name, target[order], pred[order]) == pytest.approx(expected)
    # Ties of the float64 values may break in float32, which moves ranks a little.
    assert score(name, target, pred.astype(np.float32)) == pytest.approx(expected, abs=0.02)


def test_extremes() -> None:
    wrong = np.array([[0.0, 1.0]])
    assert score("log_loss", np.array([0]), wrong) == pytest.approx(-np.log(1e-15))
    assert score("log_loss", np.array([0]), wrong) == pytest.approx(naive_log_loss(np.array([0]), wrong))
    assert score("qwk", np.array([1, 1]), np.array([[0, 1.0], [0, 1.0]])) == 1.0
    assert score("map5", np.array([1]), np.array([[0.6, 0.4]])) == 0.5, "fewer classes than k"


def test_unknown_metric_and_bad_predictions() -> None:
    target, pred = problem(0)
    with pytest.raises(UserError, match=r"no metric 'acuracy'; did you mean 'accuracy'\? \(choices: accuracy, "):
        score("acuracy", target, pred)
    pred[7, 2] = np.nan
    with pytest.raises(UserError, match="1 of 200 rows hold NaN"):
        scores(["accuracy", "auc"], target, pred)
    for bad_target, bad_pred in (
        (target[:-1], pred),
        (target, pred[:, 0]),
        (target + 1, pred),
        (target.astype(float), pred),
        (target[:0], pred[:0]),
    ):
        with pytest.raises(ValueError, match="target"):
            score("accuracy", bad_target, bad_pred)


def test_scores_is_score_by_name() -> None:
    target, pred = problem(0)
    assert scores(METRICS, target, pred) == {name: score(name, target, pred) for name in METRICS}
    assert all(isinstance(metric, Metric) and metric.name == name for name, metric in METRICS.items())


def test_per_class_against_scikit_learn() -> None:
    target, pred = problem(0)
    table = per_class(target, pred, ["a", "b", "c", "d", "e"])
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(target, pred.argmax(1))
    assert table["class"].tolist() == ["a", "b", "c", "d", "e"]
    for column, expected in (("precision", precision), ("recall", recall), ("f1", f1), ("support", support)):
        np.testing.assert_allclose(table[column], expected)


def test_per_class_without_rows_is_nan_not_zero() -> None:
    table = per_class(np.array([0, 0]), np.array([[1.0, 0, 0], [0, 1.0, 0]]), ["a", "b", "c"])
    assert table["recall"].tolist()[0] == 0.5 and np.isnan(table["recall"][1]) and np.isnan(table["precision"][2])


@pytest.mark.process
def test_no_metric_imports_scikit_learn() -> None:
    code = (
        "import sys, numpy as np; from src.competition.metrics import METRICS, scores;"
        "scores(METRICS, np.array([0, 1, 2]), np.eye(3)); assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
