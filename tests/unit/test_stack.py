"""Stacking against scikit-learn's own search and closed forms, what it may not see, and the leak probe.

The leak probe: labels without any meaning. Whatever is honest scores at chance; what is not, scores above it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_info

from src.competition.kinds.number import Number
from src.competition.kinds.single import Single
from src.competition.metrics import accuracy, find_metric, log_loss
from src.ensembling import learners
from src.ensembling import stack as stacking
from src.ensembling.blend import METHODS, blend
from src.ensembling.learners import HIDDEN, Model, import_lightgbm, load_tree, save_tree, train
from src.ensembling.nested import splits
from src.ensembling.stack import (
    GRID,
    OF_NUMBERS,
    FeaturesFor,
    _scaled,
    _statistics,
    choose,
    features_of,
    log_odds,
    said_by,
    search_weights,
    stack,
)
from src.errors import UserError
from src.predictions import Features

CLASSES = 3
TASK = Single(np.array([str(number) for number in range(CLASSES)]))
ACCURACY, LOG_LOSS = find_metric("accuracy"), find_metric("log_loss")


def same_for_all(x: np.ndarray, test_x: np.ndarray | None = None) -> FeaturesFor:
    return lambda k: (x.astype(np.float32), (x[:5] if test_x is None else test_x).astype(np.float32))


def problem(seed: int = 0, rows: int = 300, columns: int = 6, signal: float = 1.0) -> tuple[np.ndarray, ...]:
    """x (N, D) with a signal in the first columns, labels, folds of five."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(rows) % CLASSES)
    x = random.normal(size=(rows, columns))
    x[:, :CLASSES] += signal * np.eye(CLASSES)[labels]
    return x * random.uniform(0.1, 30, columns) + 5, labels, random.permutation(np.arange(rows) % 5)


# ---- against references ---------------------------------------------------------------------------------------------


def test_logistic_is_scikit_learns_grid_search_fold_by_fold() -> None:
    x, labels, folds = problem(signal=0.7)
    test_x = np.random.default_rng(1).normal(size=(9, 6)) * 10
    found = stack("logistic", [same_for_all(x, test_x)], labels, folds, TASK, LOG_LOSS)
    for k in range(5):
        rest = folds != k
        search = GridSearchCV(
            make_pipeline(
                StandardScaler(),
                FunctionTransformer(np.clip, kw_args={"a_min": -5, "a_max": 5}),
                LogisticRegression(max_iter=1000, tol=1e-8),
            ),
            {"logisticregression__C": [options["C"] for options in GRID["logistic"]]},
            scoring="neg_log_loss",
            cv=PredefinedSplit(folds[rest]),
        ).fit(x[rest], labels[rest])
        assert found.chosen[k].options["C"] == search.best_params_["logisticregression__C"]
        np.testing.assert_allclose(found.pred[folds == k], search.predict_proba(x[folds == k]), atol=3e-3)
        np.testing.assert_allclose(found.test[k], search.predict_proba(test_x), atol=3e-3)
    assert found.pred.dtype == np.float32
    assert log_loss(labels, found.plain_pred) < log_loss(labels, found.pred)


def test_logistic_begins_near_its_end_on_one_thread_and_ends_where_scikit_learn_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More features than rows beside a few log-odds: no worse than a grid search from nothing, in fewer steps."""
    x, labels, folds = problem(rows=120, columns=150, signal=0.5)
    odds = np.random.default_rng(7).normal(size=(120, 3)) + 1.5 * np.eye(CLASSES)[labels]
    steps, threads, fit = [], set(), learners._fit

    def counted(model: LogisticRegression, x: np.ndarray, y: np.ndarray) -> None:
        fit(model, x, y)
        steps.append(int(model.n_iter_[0]))
        if not threads:
            threads.update(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")

    def stacked() -> tuple[float, float, int]:
        steps.clear()
        found = stack("logistic", [same_for_all(odds), same_for_all(x)], labels, folds, TASK, LOG_LOSS, wanted=[0])
        rows = folds == 0
        return log_loss(labels[rows], found.pred[rows]), log_loss(labels, found.plain_pred), sum(steps)

    monkeypatch.setattr(learners, "_fit", counted)
    loss, plain, fewer = stacked()
    assert threads == {1}
    monkeypatch.setattr(stacking, "train", lambda *given: train(*given[:7]))  # no start
    cold_loss, cold_plain, more = stacked()
    assert abs(loss - cold_loss) < 0.01 and abs(plain - cold_plain) < 0.01
    assert fewer < 0.8 * more


@pytest.mark.parametrize("kind", ["single", "targets", "columns"])
def test_a_start_changes_nothing_but_the_way(kind: str) -> None:
    x, labels, _ = problem(rows=90)
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    other = (x[:, 0] > 0).astype(np.int64)
    y, groups = {
        "single": (labels, ()),
        "targets": (np.stack([labels, other], 1), (CLASSES, 2)),
        "columns": (np.stack([other, labels == 1], 1).astype(bool), ()),
    }[kind]
    classes = 5 if kind == "targets" else CLASSES
    start = train("logistic", {"C": 1e-2}, x * np.float32(2), y, classes, 0, groups)
    assert np.abs(start(x) - train("logistic", {"C": 1.0}, x, y, classes, 0, groups)(x)).max() > 0.05
    found = train("logistic", {"C": 1.0}, x, y, classes, 0, groups, start)(x)
    exact = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000)
    if kind == "single":
        expected = exact.fit(x, labels).predict_proba(x)
    elif kind == "targets":
        expected = np.hstack([exact.fit(x, own).predict_proba(x) for own in (labels, other)])
    else:
        expected = np.stack([exact.fit(x, own).predict_proba(x)[:, 1] for own in y.T], 1)
    np.testing.assert_allclose(found, expected, atol=3e-3)


def test_ridge_against_its_closed_form() -> None:
    x, labels, _ = problem()
    x = (x - x.mean(0)) / x.std(0)
    found = train("ridge", {"alpha": 10.0}, x, labels, CLASSES, 0)(x[:20])
    hot = np.eye(CLASSES)[labels]
    beta = np.linalg.solve(x.T @ x + 10 * np.eye(6), x.T @ (hot - hot.mean(0)))
    expected = np.clip(x[:20] @ beta + hot.mean(0), 1e-3, 1)
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("learner", ["logistic", "ridge", "mlp", "lightgbm"])
def test_every_learner_learns_and_survives_an_absent_class(learner: str, tmp_path: Path) -> None:
    if learner == "lightgbm":
        pytest.importorskip("lightgbm")
    x, labels, _ = problem(signal=4.0)
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    for y, classes, absent in ((labels, CLASSES, []), (np.array([0, 2, 4])[labels], 6, [1, 3, 5])):
        model = train(learner, GRID[learner][-1], x[:200], y[:200], classes, 0)
        pred = model(x[200:])
        assert pred.shape == (100, classes) and pred.dtype == np.float32
        np.testing.assert_allclose(pred.sum(1), 1, atol=1e-5)
        assert (pred[:, absent] == 0).all() and accuracy(y[200:], pred) > 0.8
        np.testing.assert_array_equal(pred, train(learner, GRID[learner][-1], x[:200], y[:200], classes, 0)(x[200:]))
        save_tree(tmp_path / "model.npz", model.tree)
        np.testing.assert_array_equal(pred, Model(load_tree(tmp_path / "model.npz"))(x[200:]))


@pytest.mark.parametrize("classes", [2, 3])
def test_what_is_kept_predicts_as_scikit_learn_does(classes: int) -> None:
    random = np.random.default_rng(0)
    y = random.integers(0, classes, 60)
    x = (np.eye(classes, 5)[y] + 0.5 * random.normal(size=(60, 5))).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = MLPClassifier((HIDDEN,), alpha=0.1, max_iter=60, random_state=3).fit(x, y)
        numbers = MLPRegressor(hidden_layer_sizes=(HIDDEN,), alpha=0.1, max_iter=60, random_state=3)
        numbers.fit(x, (y - y.mean()) / y.std())
    linear = LogisticRegression(C=0.1, max_iter=300).fit(x, y)
    for learner, options, model in (("mlp", {"alpha": 0.1}, network), ("logistic", {"C": 0.1}, linear)):
        found = train(learner, options, x, y, classes, 3)(x)
        np.testing.assert_allclose(found, model.predict_proba(x), atol=1e-6)
    found = train("mlp", {"alpha": 0.1}, x, y[:, None].astype(np.float32), 1, 3)(x)[:, 0]
    np.testing.assert_allclose(found, y.mean() + y.std() * numbers.predict(x), atol=1e-4)


def test_a_model_that_would_run_code_or_is_cut_off_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "pickled.npz", form=np.array([print], dtype=object))
    (tmp_path / "cut.npz").write_bytes(b"PK")
    for name in ("pickled", "cut", "missing"):
        with pytest.raises(UserError, match=f"{name}.npz: not a model of the second level"):
            load_tree(tmp_path / f"{name}.npz")


def test_log_odds_are_those_of_scipy_and_finite() -> None:
    from scipy.special import logit

    pred = np.random.default_rng(0).dirichlet(np.ones(3), size=(2, 4)).astype(np.float32)
    table = log_odds(pred)
    assert table.shape == (4, 6)
    for row in range(4):
        np.testing.assert_allclose(table[row], logit(pred[:, row].astype(np.float64)).reshape(-1), rtol=1e-5)
    assert np.isfinite(log_odds(np.array([[[0.0, 1.0]]]))).all()


def test_lightgbm_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(UserError, match="learner=lightgbm: the package is not installed; pip install lightgbm"):
        import_lightgbm()


# ---- blocks and their weights ---------------------------------------------------------------------------------------


def test_the_search_finds_a_minimum_and_stays_within_bounds() -> None:
    for best in ([2.0, 0.5], [4.0, 0.5, 0.5]):
        found = search_weights(lambda w, best=best: float(np.square(np.log2(w / best)).sum()), len(best))  # type: ignore[misc]
        np.testing.assert_allclose(found, best, rtol=0.3)
    np.testing.assert_allclose(search_weights(lambda w: float(w[0] - w[1]), 2), [1 / 4, 4])


@pytest.mark.parametrize("learner", ["logistic", "ridge"])
def test_a_block_of_noise_is_weighted_down_and_width_does_not_count(learner: str) -> None:
    x, labels, folds = problem(signal=1.5)
    noise = np.random.default_rng(5).normal(size=(len(x), 60)) * 100
    blocks = [same_for_all(x), same_for_all(noise)]
    found = stack(learner, blocks, labels, folds, TASK, LOG_LOSS)
    assert np.mean([choice.weights[1] / choice.weights[0] for choice in found.chosen.values()]) < 0.5
    together = stack(learner, [same_for_all(np.hstack([x, noise]))], labels, folds, TASK, LOG_LOSS)
    assert log_loss(labels, found.pred) < log_loss(labels, together.pred) - 0.02
    # in other units and with each column twice, the same block is the same block
    doubled = [same_for_all(np.hstack([x, x]) * 1000 - 7), same_for_all(noise)]
    again = stack(learner, doubled, labels, folds, TASK, LOG_LOSS)
    # up to the scale of both, which the strength of the model is chosen against
    np.testing.assert_allclose(again.pred, found.pred, atol=0.06)


# ---- feature files --------------------------------------------------------------------------------------------------


def test_features_are_aligned_by_id_and_each_fold_has_its_own() -> None:
    ids, test_ids = np.array(["b", "a", "c"]), np.array(["u", "t"])
    every = np.array(["t", "c", "x", "a", "b", "u"])
    folds = np.array([0, 1, 0])
    files = [Features(every, 10.0 * k + np.arange(6.0)[:, None], k, ids[folds == k]) for k in (0, 1)]
    features_for = features_of(files, ids, folds, test_ids, "own")
    for k in (0, 1):
        x, test_x = features_for(k)
        assert x[:, 0].tolist() == [10 * k + 4, 10 * k + 3, 10 * k + 1]
        assert test_x[:, 0].tolist() == [10 * k + 5, 10 * k]
    with pytest.raises(UserError, match=r"features: 'own' has no file of fold 2, only of \[0, 1\]"):
        features_for(2)
    one = features_of([Features(every, np.zeros((6, 2)))], ids, folds, test_ids, "all")
    assert one(7)[0].shape == (3, 2)
    for missing, text in ((0, r"1 of 2 test ids \(t\)"), (4, r"1 of 3 training ids \(b\)")):
        few = np.delete(every, missing)
        with pytest.raises(UserError, match=f"features: 'few' lacks {text}"):
            features_of([Features(few, np.zeros((5, 2)))], ids, folds, test_ids, "few")(0)


@pytest.mark.parametrize("held_out", [["b", "x"], ["b", "a"], None])
def test_features_of_a_network_that_has_seen_the_fold_are_refused(held_out: list[str] | None) -> None:
    """Of rows a and b of fold 0: a network of other folds has seen one, one that does not say so perhaps both."""
    ids, every = np.array(["a", "b", "c"]), np.array(["a", "b", "c", "t"])
    own = None if held_out is None else np.array(held_out)
    features_for = features_of([Features(every, np.zeros((4, 2)), 0, own)], ids, np.array([0, 0, 1]), every[3:], "f")
    if held_out == ["b", "a"]:
        assert features_for(0)[0].shape == (3, 2)
        return
    count = "2 rows" if held_out is None else "1 row"
    with pytest.raises(UserError, match=f"features: 'f' of fold 0 .* trained on {count} that fold 0 holds out"):
        features_for(0)


# ---- what may not be seen -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 2])
def test_nothing_of_the_fold_reaches_its_model(blocks: int) -> None:
    """Other labels and other features in fold 2: its model, options and weights are bit by bit the same."""
    x, labels, folds = problem(signal=0.7, rows=150)
    test_x = x[:7]
    two = folds == 2
    other_x, other_labels = np.where(two[:, None], 50 * x[::-1], x), np.where(two, (labels + 1) % 3, labels)

    def run(x: np.ndarray, labels: np.ndarray) -> tuple:
        parts = [same_for_all(x, test_x), same_for_all(x[:, ::-1] ** 3, test_x[:, ::-1] ** 3)][:blocks]
        found = stack("logistic", parts, labels, folds, TASK, ACCURACY, wanted=[2, 4])
        assert np.isnan(found.pred[folds == 3]).all() and set(found.test) == {2, 4}
        return found.test, {k: (choice.options, choice.weights.tolist()) for k, choice in found.chosen.items()}

    test, chosen = run(x, labels)
    for case in ((x, other_labels), (other_x, labels)):
        other_test, other_chosen = run(*case)
        np.testing.assert_array_equal(test[2], other_test[2])
        assert chosen[2] == other_chosen[2]
        assert (test[4] != other_test[4]).any()


def test_inner_parts_are_folds_with_their_own_features() -> None:
    """Of fold-trained features, those of fold j score fold j; those of fold k only make the final model."""
    x, labels, folds = problem()
    asked: list[int] = []

    def features_for(k: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append(k)
        return x, x[:3]

    choose("ridge", [features_for], labels, folds, np.flatnonzero(folds != 3), 3, TASK, ACCURACY)
    assert asked == [0, 1, 2, 4, 3]


def test_features_are_standardised_by_the_rows_that_are_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every fit, inner or final: the columns have mean 0 and deviation 1 over its own rows, not over more."""
    x, labels, folds = problem(rows=60)
    fitted: list[np.ndarray] = []

    def spy(learner: str, options: dict, x: np.ndarray, *rest: object) -> Callable[[np.ndarray], np.ndarray]:
        fitted.append(x)
        return train(learner, options, x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("src.ensembling.stack.train", spy)
    stack("ridge", [same_for_all(x)], labels, folds, TASK, ACCURACY)
    assert {len(part) for part in fitted} == {36, 48, 60}
    for part in fitted:
        np.testing.assert_allclose(part.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(part.std(0), 1, atol=1e-5)


def test_a_fold_too_small_to_split_is_refused() -> None:
    labels = np.arange(4) % 3
    with pytest.raises(UserError, match="fold 4 alone has 4 rows, too few"):
        splits(np.full(4, 4), labels, 0)
    few = splits(np.full(9, 4), np.arange(9) % 3, 0)  # three rows of a class: in parts that do not spread them
    assert sorted(np.concatenate([part.score for part in few]).tolist()) == list(range(9))


# ---- the leak probe -------------------------------------------------------------------------------------------------

ROWS, PROBES = 400, 4


def meaningless(seed: int, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Members that were really trained fold by fold on labels drawn at random, two of which memorise them."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(rows) % CLASSES)
    folds = np.empty(rows, int)
    for c in range(CLASSES):
        own = random.permutation(np.flatnonzero(labels == c))
        folds[own] = np.arange(len(own)) % 5
    x = random.normal(size=(rows, 8))
    models = (LogisticRegression(C=100), KNeighborsClassifier(1), DecisionTreeClassifier(random_state=0))
    oof = np.empty((len(models), rows, CLASSES), np.float32)
    for model, pred in zip(models, oof, strict=True):
        for k in range(5):
            pred[folds == k] = model.fit(x[folds != k], labels[folds != k]).predict_proba(x[folds == k])
    return oof, labels, folds


def standard_errors(score: Callable[[int], float], probes: int = PROBES, rows: int = ROWS) -> float:
    """How many standard errors the mean accuracy over some probes is above chance."""
    mean = np.mean([score(seed) for seed in range(probes)])
    chance = 1 / CLASSES
    return float((mean - chance) / np.sqrt(chance * (1 - chance) / (rows * probes)))


def blended(method: str, seed: int, leaky: bool = False, one_fold: bool = False) -> float:
    oof, labels, folds = meaningless(seed)
    found = blend(method, oof, labels, np.zeros_like(folds) if one_fold else folds, ACCURACY, leave_out=False)
    return accuracy(labels, found.plain_pred if leaky else found.pred)


def stacked(learner: str, seed: int, what: str, leaky: bool = False, rows: int = ROWS) -> float:
    """`what`: members · wide (150 columns of noise) · memory (a backbone that memorised all rows but fold k's) ·
    seen (one that has seen the labels of every row)."""
    oof, labels, folds = meaningless(seed, rows)
    random = np.random.default_rng((seed, 1))
    noise = random.normal(size=(rows, 150)).astype(np.float32)
    hot = np.zeros_like(noise)
    hot[:, :CLASSES] = np.eye(CLASSES)[labels]
    blocks: dict[str, list[FeaturesFor]] = {
        "members": [same_for_all(log_odds(oof))],
        "wide": [same_for_all(noise)],
        "memory": [lambda k: (noise + 3 * hot * (folds != k)[:, None], noise[:2])],
        "both": [same_for_all(log_odds(oof)), same_for_all(noise[:, :20])],
        "seen": [same_for_all(noise + 3 * hot)],
    }
    found = stack(learner, blocks[what], labels, folds, TASK, ACCURACY)
    return accuracy(labels, found.plain_pred if leaky else found.pred)


@pytest.mark.parametrize("one_fold", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_probe_blending_meaningless_labels_scores_at_chance(method: str, one_fold: bool) -> None:
    assert abs(standard_errors(lambda seed: blended(method, seed, one_fold=one_fold))) < 3


@pytest.mark.parametrize("what", ["members", "wide", "memory", "both"])
@pytest.mark.parametrize("learner", ["logistic", "ridge"])
def test_probe_stacking_meaningless_labels_scores_at_chance(learner: str, what: str) -> None:
    assert abs(standard_errors(lambda seed: stacked(learner, seed, what), probes=2)) < 3


@pytest.mark.parametrize("learner", ["mlp", "lightgbm"])
def test_probe_of_the_slow_learners(learner: str) -> None:
    if learner == "lightgbm":
        pytest.importorskip("lightgbm")
    assert abs(standard_errors(lambda seed: stacked(learner, seed, "members", rows=200), 1, 200)) < 3


@pytest.mark.parametrize("learner", ["logistic", "ridge"])
def test_probe_finds_scores_on_the_rows_that_were_fitted(learner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain score of a stacker with many features is what nesting protects from."""
    monkeypatch.setitem(GRID, learner, GRID[learner][-1:])  # the strongest model: no inner score tames it
    assert standard_errors(lambda seed: stacked(learner, seed, "wide", leaky=True), probes=2) > 10
    assert abs(standard_errors(lambda seed: stacked(learner, seed, "wide"), probes=2)) < 3


def test_probe_finds_a_backbone_that_has_seen_the_labels() -> None:
    assert standard_errors(lambda seed: stacked("logistic", seed, "seen"), probes=1) > 10


def test_probe_finds_weights_scored_on_the_rows_that_were_fitted() -> None:
    """Many members and few rows: climbing picks those that happen to be right."""

    def climbed(seed: int, leaky: bool) -> float:
        random = np.random.default_rng(seed)
        labels, folds = random.permutation(np.arange(ROWS) % CLASSES), random.permutation(np.arange(ROWS) % 5)
        oof = random.dirichlet(np.ones(CLASSES), size=(40, ROWS)).astype(np.float32)
        found = blend("climb", oof, labels, folds, ACCURACY, rounds=20, leave_out=False)
        return accuracy(labels, found.plain_pred if leaky else found.pred)

    assert standard_errors(lambda seed: climbed(seed, leaky=True)) > 6
    assert abs(standard_errors(lambda seed: climbed(seed, leaky=False))) < 3


# ---- other kinds of target ------------------------------------------------------------------------------------------


def regression(rows: int = 240) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (N, 5), y (N, 2) float32 that are linear in them but for noise, folds of four."""
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 5)).astype(np.float32)
    y = x @ random.normal(size=(5, 2)) * [1, 100] + [7, -300] + random.normal(size=(rows, 2)) * [0.3, 30]
    return x, y.astype(np.float32), random.permutation(np.arange(rows) % 4)


def test_stacked_numbers_against_scikit_learn() -> None:
    """Nested ridge regression, its strength chosen on the remaining folds."""
    x, y, folds = regression()
    task = Number(np.array(["a", "b"]))
    found = stack("ridge", [same_for_all(x, x[:7])], y, folds, task, task.metrics["rmse"])
    for k in range(4):
        rest = folds != k
        scaler = StandardScaler().fit(x[rest])
        model = Ridge(found.chosen[k].options["alpha"]).fit(scaler.transform(x[rest]), y[rest])
        np.testing.assert_allclose(found.pred[folds == k], model.predict(scaler.transform(x[folds == k])), rtol=1e-3)
        np.testing.assert_allclose(found.test[k], model.predict(scaler.transform(x[:7])), rtol=1e-3)
    assert task.metrics["r2"].function(y, found.pred) > 0.9


@pytest.mark.parametrize("learner", OF_NUMBERS)
def test_every_learner_of_numbers(learner: str) -> None:
    if learner == "lightgbm":
        pytest.importorskip("lightgbm")
    x, y, _ = regression()
    model = train(learner, GRID[learner][-1], x[:180], y[:180], 2, 0)
    pred = model(x[180:])
    assert pred.shape == (60, 2) and pred.dtype == np.float32
    assert Number(np.array(["a", "b"])).metrics["r2"].function(y[180:], pred) > 0.7
    constant = train(learner, GRID[learner][0], x[:180], np.full((180, 1), 5.0, np.float32), 1, 0)
    np.testing.assert_allclose(constant(x[180:]), 5.0)


def test_each_target_has_a_model_of_its_own() -> None:
    x, y, _ = problem(signal=3.0)
    other = (x[:, 0] > 0).astype(np.int64)
    both = train("logistic", {"C": 1.0}, x[:200], np.stack([y, other], 1)[:200], CLASSES + 2, 0, (CLASSES, 2))
    alone = [train("logistic", {"C": 1.0}, x[:200], own[:200], k, 0) for own, k in ((y, CLASSES), (other, 2))]
    np.testing.assert_array_equal(both(x[200:]), np.concatenate([model(x[200:]) for model in alone], 1))


def test_members_say_log_odds_or_numbers() -> None:
    pred = np.random.default_rng(0).random((2, 4, 3)).astype(np.float32)
    task = Number(np.array(list("abc")))
    np.testing.assert_array_equal(said_by(pred, task), np.concatenate([pred[0], pred[1]], 1))
    np.testing.assert_array_equal(said_by(pred, Single(np.array(list("abc")))), log_odds(pred))


def test_rows_that_no_fold_holds_out_are_learnt_from_and_never_scored() -> None:
    x, y, folds = regression(200)
    folds = np.where(np.arange(200) < 20, -1, folds)
    for which in (folds, np.where(folds > 0, 0, folds)):
        for part in splits(which, np.zeros(200, int), 0):
            assert set(range(20)) <= set(part.fit.tolist()) and (part.score >= 20).all()
            assert not set(part.fit.tolist()) & set(part.score.tolist())
        task = Number(np.array(["a", "b"]))
        found = stack("ridge", [same_for_all(x, x[:7])], y, which, task, task.metrics["rmse"])
        assert np.isnan(found.pred[:20]).all() and np.isfinite(found.pred[20:]).all()


def test_a_unit_that_was_silent_in_training_does_not_blow_up_a_prediction() -> None:
    rng = np.random.default_rng(0)
    x, test = rng.normal(size=(90, 3)), rng.normal(size=(40, 3))
    x[:, 2], test[:, 2] = 0, 0
    x[:3, 2], test[0, 2] = 1e-3, 1.0  # three rows say a little, one test row much
    y = x[:, 0] + 0.1 * rng.normal(size=90)
    statistics = _statistics(x)
    assert np.abs((test - statistics[0]) / statistics[1]).max() > 1000
    model = train("ridge", {"alpha": 1.0}, _scaled(x, statistics), y[:, None], 1, 0)
    assert np.abs(model(_scaled(test, statistics))).max() < 2 * np.abs(y).max()
