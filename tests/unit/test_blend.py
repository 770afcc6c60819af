"""Blending against naive references: Caruana's loop, a simplex grid, scipy's ranks; and the pool's short cuts."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import gmean, rankdata

from src.competition.kinds.multi import Multi
from src.competition.kinds.number import Number
from src.competition.kinds.single import Single
from src.competition.kinds.targets import Targets
from src.competition.metrics import Metric, find_metric, score
from src.competition.metrics.multi import METRICS as OF_COLUMNS
from src.ensembling.blend import METHODS, blend, climb, convex, error_correlations, mix
from src.ensembling.nested import splits
from src.ensembling.pool import add, make_pool, mixture, quality, take

# by the counts, by the likelihood, and by everything; the others are scored by the same three ways
SOME = ("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "mcc", "qwk", "log_loss", "auc", "map3")


def problem(
    seed: int = 0, members: int = 4, rows: int = 240, classes: int = 3, signal: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """oof (R, N, C) float32 of unequal members, labels, folds of five; each knows something that the others do not."""
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    random.shuffle(labels)
    shared = random.normal(size=(rows, classes))
    logits = np.stack(
        [
            signal * (1.5 - r / members) * np.eye(classes)[labels]
            + shared
            + (1.2 + 0.2 * r) * random.normal(size=shared.shape)
            for r in range(members)
        ]
    )
    oof = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    return oof.astype(np.float32), labels, random.permutation(np.arange(rows) % 5)


def signed(metric: str, labels: np.ndarray, pred: np.ndarray) -> float:
    return score(metric, labels, pred) * (1 if find_metric(metric).greater_is_better else -1)


def naive_climb(metric: str, oof: np.ndarray, labels: np.ndarray, rounds: int) -> np.ndarray:
    """Caruana's loop as it is told: every mean from scratch, in float64."""
    taken: list[int] = []
    best, kept = (-np.inf, -np.inf), []
    for _ in range(rounds):
        tried = []
        for r in range(len(oof)):
            mean = oof[[*taken, r]].astype(np.float64).mean(0)
            tried.append((signed(metric, labels, mean), -score("log_loss", labels, mean)))
        taken.append(tried.index(max(tried)))
        if max(tried) > best:
            best, kept = max(tried), list(taken)
    return np.bincount(kept, minlength=len(oof)) / len(kept)


@pytest.mark.parametrize("metric", SOME)
def test_climb_is_the_naive_loop(metric: str) -> None:
    for seed in range(3):
        oof, labels, _ = problem(seed, classes=5)
        found = climb(make_pool(find_metric(metric), oof, labels), rounds=15)
        np.testing.assert_allclose(found, naive_climb(metric, oof, labels, 15), err_msg=f"seed {seed}")


def naive_climb_of(metric: Metric, loss: Metric, oof: np.ndarray, y: np.ndarray, rounds: int) -> np.ndarray:
    """`naive_climb` for any metric, equal scores being decided by `loss`."""
    taken: list[int] = []
    best, kept = (-np.inf, -np.inf), []
    for _ in range(rounds):
        tried = []
        for r in range(len(oof)):
            mean = oof[[*taken, r]].astype(np.float64).mean(0).astype(np.float32)
            value = metric.function(y, mean) if metric.greater_is_better else -metric.function(y, mean)
            tried.append((value, -loss.function(y, mean)))
        taken.append(tried.index(max(tried)))
        if max(tried) > best:
            best, kept = max(tried), list(taken)
    return np.bincount(kept, minlength=len(oof)) / len(kept)


@pytest.mark.parametrize("name", ["accuracy", "f1_macro", "f1_samples", "f1_micro", "auc", "log_loss"])
def test_climb_of_several_columns_is_the_naive_loop(name: str) -> None:
    random, metric = np.random.default_rng(1), OF_COLUMNS[name]
    y = random.random((150, 4)) < [0.5, 0.4, 0.3, 0.2]
    noise = random.normal(size=(5, 150, 4)) + random.normal(size=(150, 4))
    oof = (1 / (1 + np.exp(-(1.2 * (2 * y - 1) + noise)))).astype(np.float32)
    pool = make_pool(metric, oof, y)
    found = climb(pool, rounds=12)
    np.testing.assert_allclose(found, naive_climb_of(metric, OF_COLUMNS["log_loss"], oof, y, 12))
    assert (found > 0).sum() > 1
    best = convex(pool)
    value, alone = metric.function(y, np.tensordot(best, oof, 1)), [metric.function(y, member) for member in oof]
    assert value >= max(alone) if metric.greater_is_better else value <= min(alone)


@pytest.mark.parametrize("fit", [climb, convex])
def test_less_is_better_for_any_metric_that_says_so(fit: Callable[..., np.ndarray]) -> None:
    """A mean square of errors, which no short cut knows."""
    oof, labels, _ = problem(2)

    def square(y: np.ndarray, pred: np.ndarray) -> float:
        return float(((np.eye(3)[y] - pred) ** 2).mean())

    metric = Metric("square", False, square)
    weights = fit(make_pool(metric, oof, labels))
    assert square(labels, np.tensordot(weights, oof, 1)) < min(square(labels, member) for member in oof)
    if fit is climb:
        expected = naive_climb_of(metric, find_metric("log_loss"), oof, labels, 50)
        np.testing.assert_allclose(weights, expected)


def test_a_pool_that_is_scored_in_slices() -> None:
    """More rows than are laid out, and scored, at a time; in all of them any class may win."""
    random = np.random.default_rng(0)
    oof = random.dirichlet(np.ones(40), (4, 26_000)).astype(np.float32)
    labels = random.integers(0, 40, 26_000)
    pool = make_pool(find_metric("accuracy"), oof, labels)
    assert sorted(np.concatenate([block.rows for block in pool.blocks]).tolist()) == list(range(26_000))
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    guess = np.tensordot(weights.astype(np.float32), oof, 1).argmax(1)
    assert quality(pool, mixture(pool, weights))[0] == pytest.approx((guess == labels).mean())


def test_the_weights_of_all_members_are_fitted_on_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is left without a member is fitted on a sample."""
    oof, labels, folds = problem(3)
    one = blend("climb", oof, labels, folds, find_metric("log_loss"))
    monkeypatch.setattr("src.ensembling.blend.SAMPLE", 40)
    other = blend("climb", oof, labels, folds, find_metric("log_loss"))
    assert all((one.weights[k] == other.weights[k]).all() for k in range(5))
    assert any((a != b).any() for a, b in zip(one.without, other.without, strict=True))


def test_rounds_bags_and_seed_reach_the_climb() -> None:
    oof, labels, folds = problem(3)
    metric = find_metric("log_loss")
    few = blend("climb", oof, labels, folds, metric, rounds=2, leave_out=False)
    many = blend("climb", oof, labels, folds, metric, rounds=9, bags=3, seed=5, leave_out=False)
    for k in range(5):
        rest = make_pool(metric, oof[:, folds != k], labels[folds != k])
        np.testing.assert_allclose(few.weights[k], climb(rest, rounds=2))
        np.testing.assert_allclose(many.weights[k], climb(rest, rounds=9, bags=3, seed=5))


def test_climb_does_not_depend_on_the_order_of_the_members() -> None:
    oof, labels, _ = problem(3)
    order = [2, 0, 3, 1]
    one, other = (climb(make_pool(find_metric("accuracy"), part, labels)) for part in (oof, oof[order]))
    np.testing.assert_allclose(one[order], other)


def test_climb_leaves_out_what_is_not_allowed_and_bags_are_a_mean_of_climbs() -> None:
    oof, labels, _ = problem(1)
    pool = make_pool(find_metric("accuracy"), oof, labels)
    some = climb(pool, allowed=[1, 3])
    assert some[0] == some[2] == 0 and some.sum() == pytest.approx(1)
    np.testing.assert_allclose(some[[1, 3]], climb(make_pool(pool.metric, oof[[1, 3]], labels)))
    bagged = climb(pool, bags=6, rounds=5)
    assert bagged.sum() == pytest.approx(1) and (bagged == climb(pool, bags=6, rounds=5)).all()
    # six climbs of at most five rounds each: multiples of 1 / (6 * lcm(1..5))
    np.testing.assert_allclose(bagged * 360, np.round(bagged * 360), atol=1e-9)
    assert (bagged != climb(pool, bags=6, rounds=5, seed=1)).any()


@pytest.mark.parametrize("metric", SOME)
def test_the_pool_scores_any_mixture_as_the_metric_does(metric: str) -> None:
    """Also where nothing, something and everything can be left out, and on rows taken twice."""
    random = np.random.default_rng(0)
    for signal, classes in ((0.0, 6), (3.0, 6), (9.0, 40), (2.0, 2)):
        oof, labels, _ = problem(1, classes=classes, signal=signal)
        pool = make_pool(find_metric(metric), oof, labels)
        rows = random.integers(0, len(labels), 300)
        for part, mine, truth in (
            (pool, oof, labels),
            (take(pool, rows), oof[:, np.sort(rows)], labels[np.sort(rows)]),
        ):
            np.testing.assert_array_equal(part.y, truth)
            for _ in range(5):
                weights = random.dirichlet(np.ones(len(oof)))
                base = mixture(part, weights)
                expected = signed(metric, truth, np.tensordot(weights, mine, axes=1))
                assert quality(part, base)[0] == pytest.approx(expected, abs=1e-6)
                for a, b in ((1.0, 1.0), (0.7, 0.3), (1.0, -0.5 * weights[2]), (0.5, 1.0)):
                    mean = a * np.tensordot(weights, mine, axes=1) + b * mine[2]
                    expected = signed(metric, truth, mean), -score("log_loss", truth, mean)
                    assert quality(part, base, 2, a, b) == pytest.approx(expected, abs=1e-6)
                    assert quality(part, add(part, base, 2, a, b)) == pytest.approx(expected, abs=1e-6)


def test_the_pool_leaves_out_what_cannot_win() -> None:
    oof, labels, _ = problem(1, classes=40, signal=9.0)
    pool = make_pool(find_metric("accuracy"), oof, labels)
    assert sum(block.pred.size for block in pool.blocks) < 0.5 * oof.size
    assert sorted(np.concatenate([block.rows for block in pool.blocks])) == list(range(len(labels)))


def test_equal_probabilities_are_decided_as_argmax_does() -> None:
    """The first of equal classes wins, whichever member brings it in."""
    one = [[0.2, 0.4, 0.4], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
    two = [[0.2, 0.4, 0.4], [0.5, 0.5, 0.0], [0.0, 0.6, 0.4]]
    oof, labels = np.array([one, two], np.float32), np.array([1, 0, 0])
    pool = make_pool(find_metric("accuracy"), oof, labels)
    for weights, expected in (([1.0, 0.0], 1.0), ([0.5, 0.5], 2 / 3), ([0.0, 1.0], 2 / 3)):
        assert quality(pool, mixture(pool, np.array(weights)))[0] == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["log_loss", "accuracy", "f1_macro", "qwk", "auc"])
def test_convex_against_a_grid_on_the_simplex(metric: str) -> None:
    for seed in range(3):
        oof, labels, _ = problem(seed, members=3)
        pool = make_pool(find_metric(metric), oof, labels)
        weights = convex(pool)
        assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
        grid = [np.array([i, j, 40 - i - j]) / 40 for i in range(41) for j in range(41 - i)]
        best = max(signed(metric, labels, np.tensordot(point, oof, axes=1)) for point in grid)
        found = signed(metric, labels, np.tensordot(weights, oof, axes=1))
        # log loss has one minimum, below any grid point; the others may miss the best of many steps by 1 %
        assert found >= best - (1e-9 if metric == "log_loss" else 0.01)
        if metric == "log_loss":
            assert (weights > 0.05).sum() >= 2, "a minimum at a corner is found by any search"
            # where it is a minimum: the mean of p_r / mixture is 1 for members in use and less for the others
            own = oof[:, np.arange(len(labels)), labels].astype(np.float64)
            slope = (own / (weights @ own)).mean(axis=1)
            np.testing.assert_allclose(slope[weights > 0], 1, atol=1e-3)
            assert (slope < 1 + 1e-3).all()
            nearest = min(grid, key=lambda point: score("log_loss", labels, np.tensordot(point, oof, axes=1)))
            np.testing.assert_allclose(weights, nearest, atol=0.05)


def test_convex_gives_a_useless_member_nothing() -> None:
    oof, labels, _ = problem(0, members=3, signal=4.0)
    oof[1] = np.roll(oof[0], 1, axis=1)
    assert convex(make_pool(find_metric("log_loss"), oof, labels))[1] < 0.02
    for metric in ("log_loss", "accuracy"):
        assert convex(make_pool(find_metric(metric), oof, labels), allowed=[0, 2])[1] == 0


def test_fixed_rules_against_references() -> None:
    oof, _, _ = problem(2, rows=50)
    equal = np.full(4, 0.25)
    np.testing.assert_allclose(mix("soft", oof, equal), oof.mean(0), atol=1e-6)
    geometric = gmean(np.maximum(oof.astype(np.float64), 1e-7), axis=0)
    np.testing.assert_allclose(mix("geometric", oof, equal), geometric / geometric.sum(1, keepdims=True), atol=1e-6)
    for c in range(3):
        ranks = np.mean([rankdata(member[:, c]) for member in oof], axis=0)
        np.testing.assert_allclose(mix("rank", oof, equal)[:, c], (ranks - 0.5) / 50, atol=1e-6)
    voted = mix("vote", oof, equal)
    for row in range(50):
        votes = np.bincount(oof[:, row].argmax(1), minlength=3)
        leaders = np.flatnonzero(votes == votes.max())
        assert voted[row].argmax() == max(leaders, key=lambda c: oof[:, row, c].mean())
        np.testing.assert_allclose(voted[row], (votes + oof[:, row].mean(0)) / 5, atol=1e-6)
    np.testing.assert_allclose(mix("vote", oof, equal).sum(1), 1, atol=1e-5)


def test_a_member_of_weight_0_has_no_say_and_one_zero_is_no_veto() -> None:
    oof, _, _ = problem(2, rows=50)
    for method in METHODS:
        np.testing.assert_allclose(
            mix(method, oof, np.array([0, 0.5, 0.5, 0])), mix(method, oof[1:3], np.array([0.5, 0.5])), atol=1e-7
        )
    sure = np.array([[[1.0, 0.0]], [[0.4, 0.6]], [[0.4, 0.6]]], np.float32)
    assert np.isfinite(mix("geometric", sure, np.full(3, 1 / 3))).all()


def test_test_rows_are_ranked_among_test_rows_and_a_folds_rows_within_the_fold() -> None:
    oof, labels, folds = problem(0)
    found = blend("rank", oof, labels, folds, find_metric("auc"))
    for k in range(5):
        np.testing.assert_array_equal(found.pred[folds == k], mix("rank", oof[:, folds == k], np.full(4, 0.25)))


@pytest.mark.parametrize("method", ["climb", "convex"])
def test_nested_weights_do_not_see_the_fold(method: str) -> None:
    """Other labels in fold 2 change nothing in its predictions and weights, and something elsewhere."""
    oof, labels, folds = problem(4)
    metric = find_metric("log_loss")
    one = blend(method, oof, labels, folds, metric, leave_out=False)
    changed = np.where(folds == 2, (labels + 1) % 3, labels)
    other = blend(method, oof, changed, folds, metric, leave_out=False)
    np.testing.assert_array_equal(one.weights[2], other.weights[2])
    np.testing.assert_array_equal(one.pred[folds == 2], other.pred[folds == 2])
    assert any((one.weights[k] != other.weights[k]).any() for k in (0, 1, 3, 4))
    assert (one.plain_weights != other.plain_weights).any(), "the plain weights see all labels"
    for k in range(5):
        rest = make_pool(metric, oof[:, folds != k], labels[folds != k])
        np.testing.assert_allclose(one.weights[k], climb(rest) if method == "climb" else convex(rest), atol=1e-7)
        expected = np.tensordot(one.weights[k], oof[:, folds == k], axes=1)
        np.testing.assert_allclose(one.pred[folds == k], expected, atol=1e-6)


def test_one_fold_is_split_into_parts() -> None:
    oof, labels, _ = problem(5)
    folds = np.full(len(labels), 3)
    metric = find_metric("accuracy")
    found = blend("climb", oof, labels, folds, metric, seed=1)
    parts = splits(folds, labels, 1)
    assert sorted(np.concatenate([part.score for part in parts])) == list(range(len(labels)))
    for part in parts:
        assert not set(part.fit) & set(part.score) and part.fold == 3
        np.testing.assert_allclose(np.bincount(labels[part.score]) / len(part.score), 1 / 3, atol=0.03)
        weights = climb(make_pool(metric, oof[:, part.fit], labels[part.fit]))
        np.testing.assert_allclose(found.pred[part.score], np.tensordot(weights, oof[:, part.score], 1), atol=1e-6)
    assert list(found.weights) == [3], "the test rows of the fold have the weights of all its rows"
    np.testing.assert_array_equal(found.weights[3], found.plain_weights)
    groups = np.array([f"g{row // 6}" for row in range(len(labels))])
    for part in splits(folds, labels, 1, groups):
        assert not set(groups[part.fit]) & set(groups[part.score])


@pytest.mark.parametrize("method", METHODS)
def test_what_remains_without_a_member(method: str) -> None:
    oof, labels, folds = problem(6, members=3)
    found = blend(method, oof, labels, folds, find_metric("accuracy"), rounds=10)
    assert len(found.without) == 3
    for left, rest in zip(range(3), found.without, strict=True):
        others = [r for r in range(3) if r != left]
        again = blend(method, oof[others], labels, folds, find_metric("accuracy"), rounds=10, leave_out=False)
        np.testing.assert_allclose(rest, again.pred, atol=1e-6)
    alone = blend(method, oof[:1], labels, folds, find_metric("accuracy"))
    assert alone.without == () and set(itertools.chain(*alone.weights.values())) == {1.0}


def test_error_correlations_against_numpy() -> None:
    oof, labels, _ = problem(7)
    oof[2] = oof[0]
    oof[3] = 1 / 3
    own = np.stack([Single(np.array(list("abc"))).credit(labels, member) for member in oof])
    table = error_correlations(own)
    errors = [[1 - member[i, truth] for i, truth in enumerate(labels)] for member in oof]
    assert table[0, 1] == pytest.approx(np.corrcoef(errors[0], errors[1])[0, 1])
    assert table[0, 2] == pytest.approx(1) and table[0, 3] == 0 and (np.diag(table) == 1).all()
    assert error_correlations(own[:1]).tolist() == [[1.0]]


def test_the_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.climb import main

    main(3, 500, 10, "accuracy")
    assert "climb with leave-one-out" in capsys.readouterr().out


# ---- other kinds of target ------------------------------------------------------------------------------------------


def numbers(seed: int = 0, columns: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """oof (3, 200, C) of unequal members with errors of their own and a bias, y (200, C) float32."""
    random = np.random.default_rng(seed)
    y = random.normal(50, 10, (200, columns)) * np.array([1, 100][:columns])
    off = random.normal(0, 1, (3, 200, columns)) * np.array([4.0, 6.0, 9.0])[:, None, None]
    return ((y + off * np.array([1, 100][:columns])).astype(np.float32), y.astype(np.float32))


@pytest.mark.parametrize("metric", ["mae", "rmse", "r2"])
@pytest.mark.parametrize("columns", [1, 2])
def test_climb_on_numbers_is_the_naive_loop(metric: str, columns: int) -> None:
    oof, y = numbers(columns=columns)
    task = Number(np.array(list("ab")[:columns]))
    wanted, rounds = task.metrics[metric], 12
    taken: list[int] = []
    best, kept = -np.inf, []
    for _ in range(rounds):
        tried = [wanted.sign * wanted.function(y, oof[[*taken, r]].mean(0)) for r in range(3)]
        taken.append(tried.index(max(tried)))
        if max(tried) > best:
            best, kept = max(tried), list(taken)
    found = climb(make_pool(wanted, oof, y), rounds=rounds)
    np.testing.assert_allclose(found, np.bincount(kept, minlength=3) / len(kept))


def test_convex_weights_of_numbers_are_the_least_squares_on_the_simplex() -> None:
    from scipy.optimize import minimize

    oof, y = numbers()
    task = Number(np.array(["a"]))
    found = convex(make_pool(task.metrics["rmse"], oof, y))
    expected = minimize(
        lambda w: np.square(np.tensordot(w, oof, 1) - y).mean(),
        np.full(3, 1 / 3),
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
    ).x
    np.testing.assert_allclose(found, expected, atol=5e-3)
    precise = 1 / np.array([4.0, 6.0, 9.0]) ** 2
    np.testing.assert_allclose(found, precise / precise.sum(), atol=0.12)
    absolute = convex(make_pool(task.metrics["mae"], oof, y))
    mae = task.metrics["mae"].function
    assert mae(y, np.tensordot(absolute, oof, 1)) <= mae(y, np.tensordot(found, oof, 1)) + 1e-6


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "auc", "log_loss"])
def test_climb_on_several_labels_thresholds_the_mean(metric: str) -> None:
    """Not the sum of what was taken, which passes any threshold sooner or later."""
    random = np.random.default_rng(0)
    y = random.random((150, 3)) < 0.4
    logit = 2.0 * y - 1 + random.normal(0, 1, (3, *y.shape)) * np.array([1.0, 1.5, 2.0])[:, None, None]
    oof = (1 / (1 + np.exp(-logit))).astype(np.float32)
    wanted = Multi(np.array(list("abc"))).metrics[metric]
    loss = Multi(np.array(list("abc"))).metrics["log_loss"]
    expected = naive_climb_of(wanted, loss, oof, y, 10)
    found = climb(make_pool(wanted, oof, y), rounds=10)
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("metric", ["accuracy", "recall_macro", "log_loss"])
def test_climb_on_several_targets(metric: str) -> None:
    random = np.random.default_rng(0)
    task = Targets(np.array(["a=0", "a=1", "a=2", "b=0", "b=1"]))
    y = np.stack([random.integers(3, size=150), random.integers(2, size=150)], 1)
    hot = task.labels(y).toarray()
    logit = 1.5 * hot + random.normal(0, 1, (3, *hot.shape)) * np.array([1.0, 1.5, 2.0])[:, None, None]
    parts = [np.exp(part) / np.exp(part).sum(2, keepdims=True) for part in (logit[:, :, :3], logit[:, :, 3:])]
    oof = np.concatenate(parts, 2).astype(np.float32)
    wanted, loss = task.metrics[metric], task.metrics["log_loss"]
    expected = naive_climb_of(wanted, loss, oof, y, 10)
    pool = make_pool(wanted, oof, y, task.groups)
    np.testing.assert_allclose(climb(pool, rounds=10), expected)
    assert quality(pool, mixture(pool, np.ones(3)))[1] == pytest.approx(-loss.function(y, oof.mean(0)), rel=1e-5)
