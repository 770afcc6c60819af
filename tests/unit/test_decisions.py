"""Decisions: thresholds against brute force, honest scores on noise, what the plain rule makes of what is decided."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import sklearn.metrics as sk

from src.competition.decisions import FEW, Decision, fit, fits_for, nested
from src.competition.kinds.multi import Multi
from src.competition.kinds.single import Single
from src.competition.metrics import find_metric, multi
from src.competition.searches import f_macro_cuts, f_micro_cuts, f_samples_cuts, grade_cuts


def names(count: int) -> np.ndarray:
    return np.array([f"c{i:02d}" for i in range(count)])


def unsure(seed: int, rows: int = 600, columns: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities, most of them far below 0.5, and what is true with that probability."""
    rng = np.random.default_rng(seed)
    pred = rng.beta(0.6, 2.5, (rows, columns)).astype(np.float32)
    return rng.random(pred.shape) < pred, pred


def noise(seed: int, rows: int = 90, columns: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((rows, columns)) < 0.3, rng.random((rows, columns)).astype(np.float32)


def f(beta: float, average: str):
    return lambda y, guess: sk.fbeta_score(y, guess, beta=beta, average=average, zero_division=0)


# ---- searches -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("beta", [0.5, 1, 2])
def test_thresholds_of_columns_are_the_best_there_are(beta: float) -> None:
    for seed in range(2):
        y, pred = unsure(seed, rows=40, columns=2)
        pred = pred.round(2)  # ties
        cuts = f_macro_cuts(y, pred, beta)
        for c in range(2):
            tried = [f(beta, "binary")(y[:, c], pred[:, c] >= cut) for cut in [*np.unique(pred[:, c]), 2]]
            assert f(beta, "binary")(y[:, c], pred[:, c] >= cuts[c]) == pytest.approx(max(tried))


def test_thresholds_of_all_cells_are_the_best_there_are() -> None:
    def f1(y: np.ndarray, guess: np.ndarray) -> float:
        return 2 * (y & guess).sum() / max(1, y.sum() + guess.sum())

    for seed in range(4):
        y, pred = unsure(seed, rows=9, columns=3)
        cuts = f_micro_cuts(y, pred, 1, np.full(3, 0.5))
        grid = itertools.product(*([*np.unique(pred[:, c]), 2] for c in range(3)))
        best = max(f1(y, pred >= np.array(cut)) for cut in grid)
        assert f1(y, pred >= cuts) == pytest.approx(best)


def test_thresholds_for_rows_are_no_worse_than_where_they_start() -> None:
    y, pred = unsure(1)
    start, columns = np.full(4, 0.3), np.array([0, 2])
    cuts = f_samples_cuts(y, pred, 1, start, columns)
    assert f(1, "samples")(y, pred >= cuts) > f(1, "samples")(y, pred >= start)
    assert cuts[1] == cuts[3] == 0.3


def test_cut_points_find_grades_that_were_squeezed() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 500)
    squeezed = 1.2 + 0.2 * y + rng.normal(0, 0.02, 500)
    found = grade_cuts(lambda guess: float((guess == y).mean()), squeezed, 4)
    assert (np.diff(found) > 0).all() and (np.searchsorted(found, squeezed, side="right") == y).mean() > 0.99


# ---- what a decision does -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["f1_macro", "f1_micro", "f1_samples", "f2_samples", "accuracy", "hamming"])
def test_several_labels_gain_on_new_rows(name: str) -> None:
    metric, task = multi.METRICS.find(name), Multi(names(4))
    y, pred = unsure(0, 1000)
    decision = fit(metric, task, y, pred)
    if name in ("accuracy", "hamming"):  # 0.5 is best of calibrated probabilities: little can be gained, little lost
        decided = pred if decision is None else decision.apply(pred)
        assert abs(metric.function(y, decided) - metric.function(y, pred)) < 0.05
        return
    assert decision is not None and decision.kind == "thresholds"
    fresh = unsure(9, 4000)
    assert metric.function(fresh[0], decision.apply(fresh[1])) > metric.function(*fresh) + 0.05


def test_the_plain_rule_does_what_the_thresholds_say() -> None:
    rng = np.random.default_rng(0)
    cuts = np.array([0.1, 0.5, 0.9, 1.2])
    rows = [rng.random((500, 4)), [cuts.clip(0, 1)], np.zeros((1, 4)), np.ones((1, 4))]
    pred = np.concatenate(rows).astype(np.float32)
    decided = Decision("thresholds", tuple(cuts)).apply(pred)
    assert decided.dtype == np.float32 and decided.min() >= 0 and decided.max() <= 1
    np.testing.assert_array_equal(decided >= 0.5, pred.astype(np.float64) >= cuts)
    for c in range(4):  # the order of a column stays
        order = np.argsort(pred[:, c], kind="stable")
        assert (np.diff(decided[order, c]) >= 0).all()


def test_numbers_of_words_are_kept_to() -> None:
    rng = np.random.default_rng(1)
    pred = rng.random((300, 5)).astype(np.float32)
    decided = Decision("thresholds", (0.7,), {"least": 1, "most": 2}).apply(pred) >= 0.5
    free = pred >= 0.7
    assert set(decided.sum(1).tolist()) == {1, 2}
    fitting = (free.sum(1) >= 1) & (free.sum(1) <= 2)
    np.testing.assert_array_equal(decided[fitting], free[fitting])
    assert decided[np.arange(300), pred.argmax(1)].all(), "the best word is never left out"


def test_rows_that_always_have_one_word_get_one() -> None:
    """One label a row, in columns: 0.5 leaves many rows without any."""
    rng = np.random.default_rng(2)
    label = rng.integers(0, 5, 800)
    logits = rng.normal(size=(800, 5)) + 1.5 * np.eye(5)[label]
    pred = (1 / (1 + np.exp(2 - logits))).astype(np.float32)
    y, metric, task = np.eye(5, dtype=bool)[label], multi.METRICS["f1_samples"], Multi(names(5))
    decision = fit(metric, task, y, pred)
    assert decision is not None and decision.options == {"least": 1, "most": 1}
    assert (decision.apply(pred) >= 0.5).sum(1).tolist() == [1] * 800
    assert metric.function(y, decision.apply(pred)) > metric.function(y, pred) + 0.05


def test_a_column_with_few_positives_has_the_common_threshold() -> None:
    y, pred = unsure(0, 800)
    y[:, 3] = False
    y[: FEW - 1, 3] = True
    decision = fits_for(multi.METRICS["f1_macro"], Multi(names(4)))[1](y, pred)
    common = fits_for(multi.METRICS["f1_macro"], Multi(names(4)))[0](y, pred)
    assert decision.values[3] == common.values[0] and decision.values[0] != decision.values[3]
    assert f"1 of 4 columns with fewer than {FEW} positives share" in decision.note


@pytest.mark.parametrize("name", ["f1_macro", "balanced_accuracy", "mcc", "f1_binary"])
def test_class_factors_help_rare_classes(name: str) -> None:
    def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        shares = np.array([0.9, 0.1]) if name == "f1_binary" else np.array([0.8, 0.15, 0.05])
        y = rng.choice(len(shares), 3000, p=shares)
        x = rng.normal(size=(3000, len(shares))) + 1.3 * np.eye(len(shares))[y]
        odds = shares * np.exp(1.3 * x)  # calibrated
        return y, (odds / odds.sum(1, keepdims=True)).astype(np.float32)

    metric, (y, pred) = find_metric(name), draw(0)
    task = Single(names(pred.shape[1]))
    decision = fit(metric, task, y, pred)
    assert decision is not None and decision.kind == "factors"
    fresh = draw(1)
    decided = decision.apply(fresh[1])
    np.testing.assert_allclose(decided.sum(1), 1, atol=1e-5)
    assert metric.function(fresh[0], decided) > metric.function(*fresh) + (0.0 if name == "mcc" else 0.02)


def test_cut_points_help_kappa() -> None:
    def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        y = rng.choice(5, 2000, p=[0.5, 0.1, 0.25, 0.05, 0.1])
        seen = y[:, None] + rng.normal(0, 1, (2000, 1))
        odds = np.array([0.5, 0.1, 0.25, 0.05, 0.1]) * np.exp(-0.5 * (seen - range(5)) ** 2)
        return y, (odds / odds.sum(1, keepdims=True)).astype(np.float32)

    metric, task, (y, pred) = find_metric("qwk"), Single(names(5)), draw(0)
    decision = fit(metric, task, y, pred)
    assert decision is not None and decision.kind == "cuts" and len(decision.values) == 4
    fresh = draw(1)
    decided = decision.apply(fresh[1])
    assert set(np.unique(decided)) == {0, 1} and (decided.sum(1) == 1).all()
    assert metric.function(fresh[0], decided) > metric.function(*fresh) + 0.02


def identities(seed: int, share: float, rows: int = 600, known: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of identities; those of nobody known look like none of them, and like "new" only a little."""
    rng = np.random.default_rng(seed)
    y = np.where(rng.random(rows) < share, known, rng.integers(0, known, rows))
    logits = rng.normal(0, 1, (rows, known + 1)) + np.eye(known + 1)[y] * np.where(y == known, 0.7, 5.0)[:, None]
    logits[:, known] -= 1
    return y, (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)


def test_the_bar_for_new() -> None:
    task, metric = Single(np.array([*names(20), "new"])), find_metric("map5")
    y, pred = identities(0, 0.3)
    assert fit(metric, task, y, pred) is None, "without competition.new the order is the network's"
    decision = fit(metric, task, y, pred, new="new")
    assert decision is not None and decision.kind == "bar"
    fresh = identities(1, 0.3)
    decided = decision.apply(fresh[1])
    assert metric.function(fresh[0], decided) > metric.function(*fresh) + 0.1
    others = np.delete(decided, 20, 1), np.delete(fresh[1], 20, 1)
    np.testing.assert_array_equal(*(np.argsort(part, axis=1, kind="stable") for part in others))


def test_probabilistic_f1_is_sharpened() -> None:
    rng = np.random.default_rng(0)
    p = rng.beta(0.5, 4, 4000)
    y = (rng.random(4000) < p).astype(np.int64)
    pred, metric = np.stack([1 - p, p], 1).astype(np.float32), find_metric("pf1")
    decision = fit(metric, Single(names(2)), y, pred)
    assert decision is not None and decision.kind == "sharpen"
    decided = decision.apply(pred)
    np.testing.assert_allclose(decided.sum(1), 1, atol=1e-6)
    assert metric.function(y, decided) > metric.function(y, pred) + 0.05


@pytest.mark.parametrize("name", ["accuracy", "auc", "map3", "gap", "f1_micro"])
def test_where_the_plain_rule_is_what_the_metric_wants(name: str) -> None:
    assert fits_for(find_metric(name), Single(names(3))) == []


def test_there_and_back_through_json() -> None:
    decision = Decision("thresholds", (0.25, 0.5), {"least": 1, "most": 2}, "why")
    assert Decision.from_json(json.loads(json.dumps(decision.to_json()))) == decision


# ---- honest scores --------------------------------------------------------------------------------------------------
def test_on_noise_tuned_thresholds_look_better_and_nested_ones_do_not() -> None:
    """Labels that have nothing to do with the predictions: the best that can be had is one rule for all rows."""
    metric, task = multi.METRICS["f1_macro"], Multi(names(6))
    looks, honest, chance = [], [], []
    for seed in range(8):
        y, pred = noise(seed)
        plain = fits_for(metric, task)[1](y, pred).apply(pred)
        decided, _ = nested(metric, task, y, pred, np.arange(len(y)) % 2, seed=seed)
        looks.append(metric.function(y, plain))
        honest.append(metric.function(y, decided))
        chance.append(metric.function(y, np.ones_like(pred)))  # everything is guessed: the best without knowledge
    assert np.mean(looks) > np.mean(chance) + 0.015
    assert np.mean(honest) < np.mean(chance) + 0.003


def test_on_noise_class_factors_look_better_and_nested_ones_do_not() -> None:
    metric, task = find_metric("balanced_accuracy"), Single(names(4))
    looks, honest = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        y, pred = rng.integers(0, 4, 200), rng.dirichlet(np.ones(4), 200).astype(np.float32)
        looks.append(metric.function(y, fits_for(metric, task)[1](y, pred).apply(pred)))
        honest.append(metric.function(y, nested(metric, task, y, pred, np.arange(200) % 2, seed=seed)[0]))
    assert np.mean(looks) > 0.28
    assert abs(np.mean(honest) - 0.25) < 0.02


def test_each_part_is_decided_without_its_own_rows() -> None:
    """Change the labels of one part: the others may change, its own decided predictions may not."""
    metric, task = multi.METRICS["f1_micro"], Multi(names(4))
    y, pred = unsure(0, 400)
    parts = np.arange(400) % 4
    other = y.copy()
    other[parts == 2] = ~other[parts == 2]
    one, _ = nested(metric, task, y, pred, parts)
    two, _ = nested(metric, task, other, pred, parts)
    np.testing.assert_array_equal(one[parts == 2], two[parts == 2])
    assert (one[parts != 2] != two[parts != 2]).any() and (one != pred).any()


def test_rows_that_cannot_be_scored_leave_the_plain_rule() -> None:
    y, pred = unsure(0, 4)
    assert fit(multi.METRICS["f1_micro"], Multi(names(4)), y, pred) is None
    task = Single(names(2))
    assert fit(find_metric("f1_macro"), task, np.zeros(50, np.int64), np.full((50, 2), 0.5, np.float32)) is None
