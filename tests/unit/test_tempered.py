"""One power of the probabilities where a metric looks at them: found again where it is known, and quoted nested."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss

from src.competition.decisions import fit, nested
from src.competition.kinds.multi import Multi
from src.competition.kinds.single import Single
from src.competition.metrics import find_metric

CLASSES = Single(np.array(["a", "b", "c"]))
LABELS = Multi(np.array(["a", "b"]))


def drawn(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """True probabilities (N, 3) and labels that follow them."""
    rng = np.random.default_rng(seed)
    true = rng.dirichlet([0.4, 0.5, 0.6], rows)
    return true, (true.cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)


@pytest.mark.parametrize("power", [0.4, 2.5])
def test_a_known_power_is_undone(power: float) -> None:
    true, y = drawn(4000, 0)
    told = np.clip(true, 1e-9, 1) ** power
    told /= told.sum(axis=1, keepdims=True)
    metric = find_metric("log_loss", CLASSES.metrics)
    decision = fit(metric, CLASSES, y, told.astype(np.float32))
    assert decision is not None and decision.kind == "tempered"
    assert decision.values[0] == pytest.approx(1 / power, rel=0.1)
    decided = decision.apply(told)
    assert log_loss(y, decided.astype(np.float64) / decided.sum(axis=1, keepdims=True)) < log_loss(y, told) - 0.02
    np.testing.assert_allclose(decided.sum(axis=1), 1, rtol=1e-5)
    assert (decided.argmax(axis=1) == told.argmax(axis=1)).all()  # no order changes


def test_columns_have_odds_to_a_power() -> None:
    rng = np.random.default_rng(1)
    true = rng.beta(0.5, 0.7, (3000, 2))
    y = rng.random((3000, 2)) < true
    odds = (true / (1 - true)) ** 0.5
    told = (odds / (1 + odds)).astype(np.float32)
    decision = fit(find_metric("log_loss", LABELS.metrics), LABELS, y, told)
    assert decision is not None and decision.values[0] == pytest.approx(2, rel=0.1)
    np.testing.assert_allclose(decision.apply(told), true, atol=0.08)


def test_noise_gains_nothing_nested() -> None:
    """On labels that have nothing to do with the predictions, the fitted power looks better on its own rows; nested,
    the score is no better than that of knowing nothing by more than its noise."""
    rng = np.random.default_rng(2)
    pred = rng.dirichlet([1, 1, 1], 600).astype(np.float32)
    y = rng.integers(0, 3, 600)
    metric = find_metric("log_loss", CLASSES.metrics)
    decided, _ = nested(metric, CLASSES, y, pred, np.arange(600) % 3)
    assert metric.function(y, decided) > np.log(3) - 0.01


def test_few_rows_that_are_all_right_do_not_make_certain() -> None:
    """30 rows, all right at 0.8: without Platt's targets the power would run into its bound (7.4), and one wrong row
    to come would cost more than all of these gain."""
    y = np.arange(30) % 3
    pred = np.full((30, 3), 0.1, np.float32)
    pred[np.arange(30), y] = 0.8
    decision = fit(find_metric("log_loss", CLASSES.metrics), CLASSES, y, pred)
    assert decision is not None and 1 < decision.values[0] < 2
    assert decision.apply(pred).max() == pytest.approx(1 - 1 / 12, abs=0.01)  # ten rows of each class
