"""Each metric against scikit-learn or a naive loop."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import sklearn.metrics

from src.competition.metrics import (
    METRICS,
    Metric,
    Metrics,
    confusion,
    find_metric,
    multi,
    numbers,
    per_class,
    score,
    scores,
)
from src.competition.metrics.targets import metrics_of
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


def one_hot(target: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes)[target]


def over_classes(
    target: np.ndarray, pred: np.ndarray, of_one: Callable[[np.ndarray, np.ndarray], float]
) -> list[float]:
    return [of_one(target == k, pred[:, k]) for k in ([1] if pred.shape[1] == 2 else range(pred.shape[1]))]


def naive_gap(target: np.ndarray, pred: np.ndarray) -> float:
    """The definition of the Google Landmark competitions, with guesses of one confidence taken together."""
    right, sure, total = pred.argmax(1) == target, pred.max(1), 0.0
    for row in np.flatnonzero(right):
        total += right[sure >= sure[row]].mean()
    return total / len(target)


def isic(solution: np.ndarray, submission: np.ndarray, min_tpr: float = 0.8) -> float:
    """As in ISIC 2024's metric notebook."""
    v_gt, v_pred, max_fpr = np.abs(solution.astype(int) - 1), -submission, abs(1 - min_tpr)
    scaled = sklearn.metrics.roc_auc_score(v_gt, v_pred, max_fpr=max_fpr)
    return 0.5 * max_fpr**2 + (max_fpr - 0.5 * max_fpr**2) / (1.0 - 0.5) * (scaled - 0.5)


def rsna_pf1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """As published for RSNA 2022."""
    y_true_count = ctp = cfp = 0.0
    for label, prediction in zip(labels.tolist(), predictions.tolist(), strict=True):
        prediction = min(max(prediction, 0), 1)
        if label:
            y_true_count += 1
            ctp += prediction
        else:
            cfp += prediction
    precision, recall = ctp / (ctp + cfp), ctp / y_true_count
    return 2 * precision * recall / (precision + recall)


def balanced(target: np.ndarray) -> np.ndarray:
    return 1 / np.bincount(target)[target]


sk = sklearn.metrics
REFERENCES = {
    "accuracy": lambda t, p: sk.accuracy_score(t, p.argmax(1)),
    "error": lambda t, p: sk.zero_one_loss(t, p.argmax(1)),
    "weighted_accuracy": lambda t, p: sk.accuracy_score(t, p.argmax(1)),  # of equal weights
    "balanced_accuracy": lambda t, p: sk.balanced_accuracy_score(t, p.argmax(1)),
    "f1_macro": lambda t, p: sk.f1_score(t, p.argmax(1), average="macro"),
    "f1_weighted": lambda t, p: sk.f1_score(t, p.argmax(1), average="weighted"),
    "f1_micro": lambda t, p: sk.f1_score(t, p.argmax(1), average="micro"),
    "f1_binary": lambda t, p: sk.f1_score(t, p.argmax(1)),
    "f2_macro": lambda t, p: sk.fbeta_score(t, p.argmax(1), beta=2, average="macro"),
    "f0.5_weighted": lambda t, p: sk.fbeta_score(t, p.argmax(1), beta=0.5, average="weighted"),
    "precision_macro": lambda t, p: sk.precision_score(t, p.argmax(1), average="macro", zero_division=0),
    "mcc": lambda t, p: sk.matthews_corrcoef(t, p.argmax(1)),
    "kappa": lambda t, p: sk.cohen_kappa_score(t, p.argmax(1)),
    "kappa_linear": lambda t, p: sk.cohen_kappa_score(t, p.argmax(1), weights="linear", labels=range(p.shape[1])),
    "qwk": lambda t, p: sk.cohen_kappa_score(t, p.argmax(1), weights="quadratic", labels=range(p.shape[1])),
    "log_loss": lambda t, p: sk.log_loss(t, p, labels=range(p.shape[1])),
    "weighted_log_loss": lambda t, p: sk.log_loss(t, p, labels=range(p.shape[1])),  # of equal weights
    "balanced_log_loss": lambda t, p: sk.log_loss(t, p, labels=range(p.shape[1]), sample_weight=balanced(t)),
    "brier": lambda t, p: (
        sk.brier_score_loss(t, p[:, 1]) if p.shape[1] == 2 else np.square(p - one_hot(t, p.shape[1])).sum(1).mean()
    ),
    "pf1": lambda t, p: rsna_pf1(t, p[:, 1]),
    "auc": lambda t, p: sk.roc_auc_score(t, p[:, 1] if p.shape[1] == 2 else p, multi_class="ovr", average="macro"),
    "auc_weighted": lambda t, p: sk.roc_auc_score(
        t, p[:, 1] if p.shape[1] == 2 else p, multi_class="ovr", average="weighted"
    ),
    "auc_pairs": lambda t, p: (
        sk.roc_auc_score(t, p[:, 1]) if p.shape[1] == 2 else sk.roc_auc_score(t, p, multi_class="ovo")
    ),
    "auc_above_tpr0.8": lambda t, p: np.mean(over_classes(t, p, isic)),
    "partial_auc0.1": lambda t, p: np.mean(over_classes(t, p, partial(sk.roc_auc_score, max_fpr=0.1))),
    "average_precision": lambda t, p: np.mean(over_classes(t, p, sk.average_precision_score)),
    "gap": naive_gap,
    "map3": lambda t, p: naive_map(t, p, 3),
    "map5": lambda t, p: naive_map(t, p, 5),
    "map1": lambda t, p: naive_map(t, p, 1),
    "top2_accuracy": lambda t, p: naive_top(t, p, 2),
    "top3_error": lambda t, p: 1 - naive_top(t, p, 3),
}
TWO = ("f1_binary", "pf1")
OF_ANY = [name for name in METRICS if name not in TWO]


def naive_top(target: np.ndarray, pred: np.ndarray, k: int) -> float:
    ranked = np.argsort(-pred, axis=1, kind="stable")[:, :k]
    return float((ranked == target[:, None]).any(1).mean())


def test_every_metric_has_a_reference() -> None:
    assert set(METRICS) <= set(REFERENCES) and METRICS
    assert {metric.name for metric in METRICS.values() if metric.classes == 2} == set(TWO)


@pytest.mark.parametrize("classes", [2, 5, 8])
@pytest.mark.parametrize("name", REFERENCES)
def test_against_the_reference(name: str, classes: int) -> None:
    if name in TWO and classes > 2:
        pytest.skip("of two classes")
    for seed in range(4):
        for rows in (classes * 2, 200):
            target, pred = problem(seed, rows, classes)
            assert score(name, target, pred) == pytest.approx(REFERENCES[name](target, pred), abs=1e-12), seed


@pytest.mark.parametrize("name", OF_ANY)
@pytest.mark.parametrize(
    "nasty",
    [
        lambda t, p: (t, np.full_like(p, 1 / p.shape[1])),  # all alike
        lambda t, p: (t, np.eye(p.shape[1])[t]),  # certain and right
        lambda t, p: (t, np.eye(p.shape[1])[(t + 1) % p.shape[1]]),  # certain and wrong
        lambda t, p: (t[:1], p[:1]),  # one row
        lambda t, p: (np.zeros_like(t), p),  # all of one class
        lambda t, p: (np.full_like(t, 4), p * 0 + [0, 0, 0, 0, 1]),  # and all are guessed to be of it
    ],
)
def test_nasty_input_is_a_finite_number_or_a_line(
    name: str, nasty: Callable[..., tuple[np.ndarray, np.ndarray]]
) -> None:
    target, pred = nasty(*problem(0))
    curve = METRICS[name].of == "ranks" and METRICS[name].top is None and name != "gap"
    if curve and len(set(target.tolist())) == 1:
        with pytest.raises(UserError, match="of one class; use fewer folds"):
            score(name, target, pred)
    else:
        assert np.isfinite(score(name, target, pred))


@pytest.mark.parametrize("name", ["weighted_accuracy", "weighted_log_loss"])
def test_weights_of_the_classes(name: str) -> None:
    target, pred = problem(3)
    weights = np.array([1, 2, 0, 0.5, 3])
    metric = METRICS[name.removeprefix("weighted_")].weighted(weights)
    reference = {"weighted_accuracy": sk.accuracy_score, "weighted_log_loss": sk.log_loss}[name]
    guess = pred.argmax(1) if name == "weighted_accuracy" else pred
    assert metric.name == name and metric.of_counts is None
    assert metric.function(target, pred) == pytest.approx(reference(target, guess, sample_weight=weights[target]))
    with pytest.raises(UserError, match="metric_weights: auc takes no weights"):
        METRICS["auc"].weighted(weights)


@pytest.mark.parametrize(
    ("spoken", "name"),
    [
        ("QWK", "qwk"), ("quadratic weighted kappa", "qwk"), ("Quadratic-Weighted Kappa", "qwk"),
        ("Cohen's kappa", "kappa"), ("map@5", "map5"), ("MAP@5", "map5"), ("Mean Average Precision @ 5", "map5"),
        ("MAP@10", "map10"), ("macro f1", "f1_macro"), ("Macro F1-Score", "f1_macro"), ("f1 macro", "f1_macro"),
        ("micro f1", "f1_micro"), ("micro f1 of one label each, which is accuracy", "f1_micro"),
        ("probabilistic f1", "pf1"), ("pF1", "pf1"), ("log loss", "log_loss"), ("Multi-class log loss", "log_loss"),
        ("LogLoss", "log_loss"), ("cross-entropy", "log_loss"), ("area under the curve", "auc"), ("ROC AUC", "auc"),
        ("Area under the receiver operating characteristic curve", "auc"), ("Mean column-wise AUC", "auc"),
        ("F2 macro", "f2_macro"), ("F-beta (beta=0.5) macro", "f0.5_macro"), ("top-5 accuracy", "top5_accuracy"),
        ("Top 5 error", "top5_error"), ("top 1 accuracy", "accuracy"), ("GAP", "gap"),
        ("macro recall", "balanced_accuracy"),
        ("pAUC above 80% TPR", "auc_above_tpr0.8"), ("partial auc (max fpr 0.1)", "partial_auc0.1"),
        ("Matthews correlation coefficient", "mcc"), ("weighted log loss", "weighted_log_loss"),
        ("Categorization Accuracy", "accuracy"), ("F1", "f1_binary"), ("error rate", "error"), ("Brier score", "brier"),
    ],
)  # fmt: skip
def test_names_as_people_write_them(spoken: str, name: str) -> None:
    assert find_metric(spoken).name == name
    assert find_metric(spoken.upper().replace(" ", "_")).name == name


@pytest.mark.parametrize("kind", [METRICS, multi.METRICS, numbers.METRICS, metrics_of([3, 2])])
def test_each_name_and_alias_finds_its_metric(kind: Metrics) -> None:
    for name, metric in kind.items():
        assert metric.name == name
        for spoken in (name, name.replace("_", " ").title(), *metric.aliases):
            assert kind.find(spoken) is metric


@pytest.mark.parametrize("name", ["map0", "map2.5", "f0_macro", "partial_auc1.5"])
def test_numbers_in_names_that_make_no_sense(name: str) -> None:
    with pytest.raises(UserError, match="no metric"):
        find_metric(name)


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
    assert metric.of_counts(confusion(target, pred.argmax(1), 5)) == pytest.approx(metric.function(target, pred))


def test_auc_leaves_absent_classes_out() -> None:
    target, pred = problem(0)
    rows = target != 3
    there = [sklearn.metrics.roc_auc_score(target[rows] == k, pred[rows, k]) for k in (0, 1, 2, 4)]
    assert score("auc", target[rows], pred[rows]) == pytest.approx(np.mean(there))
    with pytest.raises(UserError, match="auc: the rows are all of one class"):
        score("auc", np.zeros(3, dtype=np.int64), np.full((3, 2), 0.5))


@pytest.mark.parametrize("name", [name for name in OF_ANY if name != "auc_above_tpr0.8"])
def test_better_is_better(name: str) -> None:
    """Perfect predictions beat noisy ones in the direction that `greater_is_better` claims."""
    target, noisy = problem(0)
    perfect, worse = score(name, target, np.eye(5)[target]), score(name, target, noisy)
    assert perfect > worse if METRICS[name].greater_is_better else perfect < worse
    assert perfect == pytest.approx(1.0 if METRICS[name].greater_is_better else 0.0)


@pytest.mark.parametrize("name", OF_ANY)
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
    assert scores(OF_ANY, target, pred) == {name: score(name, target, pred) for name in OF_ANY}
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
        "scores(METRICS, np.array([0, 1]), np.eye(2)); assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
