"""Confident learning and adversarial validation against planted faults and naive references."""

from __future__ import annotations

import numpy as np

from src.reporting.report.calibration import expected_calibration_error
from src.reporting.report.shift import tell_apart
from src.reporting.report.suspects import class_thresholds, confident_label, find_suspects


def planted(rows: int = 2000, classes: int = 5, wrong: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of which `wrong` are not the true class, predictions that know it fairly well, and the wrong rows."""
    rng = np.random.default_rng(0)
    true = rng.integers(classes, size=rows)
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), true] += 4
    pred = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    bad = rng.choice(rows, wrong, replace=False)
    y = true.copy()
    y[bad] = (y[bad] + rng.integers(1, classes, size=wrong)) % classes
    return y, pred.astype(np.float32), bad


def test_the_first_hundred_are_planted() -> None:
    y, pred, bad = planted()
    rows, margin, sure = find_suspects(y, pred)
    assert np.isin(rows[:100], bad).sum() >= 95
    assert 150 <= sure <= 260, "about as many are counted as were planted"
    assert (margin < 0).all() and (np.diff(margin[:sure]) >= 0).all()
    assert len(np.unique(rows)) == len(rows)


def test_thresholds_and_confident_labels_are_those_of_the_paper() -> None:
    y, pred, _ = planted(60, 4, 6)
    naive = [np.mean([p[j] for p, label in zip(pred, y, strict=True) if label == j]) for j in range(4)]
    assert np.allclose(class_thresholds(y, pred), naive)
    for p, found in zip(pred, confident_label(pred, np.array(naive)), strict=True):
        above = [j for j in range(4) if p[j] >= naive[j]]
        assert found == (max(above, key=lambda j: p[j]) if above else -1)
    assert np.isinf(class_thresholds(np.zeros(3, np.int64), pred[:3])[1]), "a class without rows is nobody's label"


def test_equal_samples_cannot_be_told_apart_and_shifted_ones_can() -> None:
    rng = np.random.default_rng(1)
    train, test = rng.normal(size=(300, 40)), rng.normal(size=(200, 40))
    assert abs(tell_apart(train, test).auc - 0.5) < 0.08
    shifted = tell_apart(train, test + 0.8)
    assert shifted.auc > 0.9 and shifted.test.mean() > shifted.train.mean()
    assert (shifted.train.shape, shifted.test.shape) == ((300,), (200,))


def test_calibration_error_by_hand() -> None:
    share, right = np.array([0.95, 0.95, 0.55, 0.55]), np.array([True, False, True, True])
    assert np.isclose(expected_calibration_error(share, right), (0.45 + 0.45) / 2)
    assert expected_calibration_error(np.ones(3), np.ones(3, bool)) == 0
