"""Numbers, and several targets per row: cells and back, strata, priors, submissions, metrics against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from src.competition.kinds import task_of
from src.competition.kinds.number import Number, Scaling, scaling_of
from src.competition.kinds.targets import Targets
from src.competition.sample import Sample
from src.competition.splitting import make_folds
from src.errors import UserError


def quiet(line: str) -> None:
    pytest.fail(line)


# ---- numbers --------------------------------------------------------------------------------------------------------


def test_numbers_are_read_and_refused_by_row() -> None:
    table = {"a": np.array(["1", "2.5", "-3e2"]), "b": np.array(["0", "1", "7"])}
    task, y = Number.learn(table, "t.csv", False, quiet)
    assert task.names.tolist() == ["a", "b"] and y.dtype == np.float32
    np.testing.assert_array_equal(y, np.array([[1, 0], [2.5, 1], [-300, 7]], np.float32))
    assert task.cells_of({"b": table["b"], "a": table["a"]}).tolist() == ["1.0 0.0", "2.5 1.0", "-300.0 7.0"]
    for cell in ("", "two", "nan", "inf", "1e39", "1,5"):
        with pytest.raises(
            UserError, match=rf"t\.csv: row 2 below the header: column 'b' is '{cell}', no finite number"
        ):
            Number.learn({**table, "b": np.array(["0", cell, "7"])}, "t.csv", False, quiet)
    with pytest.raises(UserError, match="holds only 4; there is nothing to learn"):
        Number.learn({"a": np.array(["4", "4.0"])}, "t.csv", False, quiet)


@pytest.mark.parametrize("columns", [1, 3])
def test_strata_of_numbers_are_equal_parts_in_order(columns: int) -> None:
    rng = np.random.default_rng(0)
    y = (rng.normal(size=(203, 1)) * [1, 10, -5][:columns] + 0.1 * rng.normal(size=(203, columns))).astype(np.float32)
    task = Number(np.array(list("abc")[:columns]))
    strata = task.strata(y)
    counts = np.bincount(strata)
    assert len(counts) == 10 and counts.max() - counts.min() <= 1
    if columns == 1:
        order = strata[np.argsort(y[:, 0])]
        assert (np.diff(order) >= 0).all(), "in the order of the number"
    else:
        means = [y[strata == s, 0].mean() for s in range(10)]
        assert (np.diff(means) > 0).all() or (np.diff(means) < 0).all(), "of what they have in common"
    assert task.strata(y[:7]).tolist() == [0] * 7 and task.strata(y[:0]).tolist() == []
    folds = make_folds(strata, None, 5, 0, several=task.labels(y))
    assert sorted(np.bincount(folds).tolist()) == [40, 40, 41, 41, 41]
    for s in range(10):
        assert np.bincount(folds[strata == s], minlength=5).min() >= 4


def test_the_prior_of_numbers_is_the_best_constant() -> None:
    y = np.array([[1.0], [2.0], [30.0]], np.float32)
    task = Number(np.array(["a"]))
    assert task.prior(y).tolist() == [11.0] and task.prior(y, "rmse").tolist() == [11.0]
    assert task.prior(y, "mae").tolist() == [2.0]


@pytest.mark.parametrize("columns", [1, 3])
def test_metrics_of_numbers_against_scikit_learn(columns: int) -> None:
    rng = np.random.default_rng(columns)
    y = rng.normal(size=(50, columns)).astype(np.float32) * 10
    pred = (y + rng.normal(size=y.shape)).astype(np.float32)
    metrics = Number(np.array(list("abc")[:columns])).metrics
    assert metrics["mae"].function(y, pred) == pytest.approx(sk.mean_absolute_error(y, pred), rel=1e-5)
    roots = [np.sqrt(sk.mean_squared_error(y[:, c], pred[:, c])) for c in range(columns)]
    assert metrics["mcrmse"].function(y, pred) == pytest.approx(np.mean(roots), rel=1e-5)
    assert metrics["rmse"].function(y, pred) == pytest.approx(np.sqrt(sk.mean_squared_error(y, pred)), rel=1e-5)
    assert metrics["r2"].function(y, pred) == pytest.approx(sk.r2_score(y, pred), rel=1e-5)
    constant = np.full((4, 1), 3, np.float32)
    for guess in (constant, constant + 1):
        assert metrics["r2"].function(constant, guess) == sk.r2_score(constant, guess)


@pytest.mark.parametrize("columns", [1, 2])
def test_what_numbers_submit_is_what_they_parse(columns: int) -> None:
    names, ids = np.array(["h", "w"][:columns]), np.array(["a", "b"])
    task, pred = Number(names), np.array([[1.5, -2], [3, 1e-8]])[:, :columns]
    sample = Sample(("id", "w", "h") if columns == 2 else ("id", "height"), ids, "probabilities")
    table = task.submit(pred, sample)
    text = {name: np.array([str(cell) for cell in cells]) for name, cells in table.items()}
    np.testing.assert_allclose(task.parse(text, "s.csv", ids), pred)
    assert task.wrong([1.5, "x", float("nan"), float("inf")], sample) == ([1, 2, 3], "not a finite number")
    with pytest.raises(UserError, match=r"s\.csv: column '.*' of id 'b' is 'x', no finite number"):
        task.parse({name: np.array(["1", "x"]) for name in text}, "s.csv", ids)
    if columns == 2:
        with pytest.raises(UserError, match="value columns and classes differ"):
            task.submit(pred, Sample(("id", "w", "depth"), ids, "probabilities"))


def test_the_scaling_of_numbers() -> None:
    y = np.array([[1, 5], [3, 5], [5, 5]], np.float32)
    found = scaling_of(y, "mse")
    assert found.shift == (3.0, 5.0) and found.scale == (pytest.approx(np.std([1, 3, 5])), 1.0)
    assert scaling_of(y, "bce") == Scaling((1.0, 5.0), (4.0, 1.0))


# ---- several targets ------------------------------------------------------------------------------------------------

GRAPHEMES = {"root": np.array(["10", "2", "10", "1|%"]), "vowel": np.array(["a", "b", "b", "a"])}


def test_targets_have_classes_of_their_own() -> None:
    task, y = Targets.learn(GRAPHEMES, "t.csv", False, quiet)
    assert task.names.tolist() == ["root=10", "root=1|%", "root=2", "vowel=a", "vowel=b"]
    assert task.groups == (3, 2) and list(task.classes) == ["root", "vowel"]
    assert y.tolist() == [[0, 0], [2, 1], [0, 1], [1, 0]]
    assert task.cells(y).tolist() == ["10|a", "2|b", "10|b", "1%7C%25|a"]
    np.testing.assert_array_equal(task.encode(task.cells(y)), y)
    assert task_of("targets", task.names).groups == (3, 2), "the names say it all"  # type: ignore[comparison-overlap]
    assert task.prior(y).tolist() == [0.5, 0.25, 0.25, 0.5, 0.5]
    assert sum("root" in line for line in task.describe(y)) == 1
    with pytest.raises(UserError, match="'c' is no class of vowel"):
        task.encode(np.array(["10|c"]))
    with pytest.raises(UserError, match="cannot hold '='"):
        Targets.learn({"a=b": GRAPHEMES["root"]}, "t.csv", False, quiet)
    with pytest.raises(UserError, match="there is nothing to learn"):
        Targets.learn({"a": np.array(["x", "x"])}, "t.csv", False, quiet)


def test_metrics_of_targets_are_means_over_targets() -> None:
    rng = np.random.default_rng(0)
    task = Targets(np.array([f"a={i}" for i in range(4)] + [f"b={i}" for i in range(3)]))
    y = np.stack([rng.integers(4, size=60), rng.integers(3, size=60)], 1)
    pred = np.concatenate([rng.dirichlet(np.ones(4), 60), rng.dirichlet(np.ones(3), 60)], 1)
    parts = [(y[:, 0], pred[:, :4]), (y[:, 1], pred[:, 4:])]
    expected = {
        "accuracy": np.mean([sk.accuracy_score(t, p.argmax(1)) for t, p in parts]),
        "recall_macro": np.mean([sk.recall_score(t, p.argmax(1), average="macro") for t, p in parts]),
        "log_loss": np.mean([sk.log_loss(t, p) for t, p in parts]),
    }
    for name, value in expected.items():
        assert task.metrics[name].function(y, pred) == pytest.approx(value), name
    own = np.stack([p[np.arange(60), t] for t, p in parts], 1)
    np.testing.assert_allclose(task.credit(y, pred), own.mean(1))
    for row, column in enumerate(task.shown(y, pred).tolist()):
        guesses = [
            (p[row].max(), p[row].argmax() == t[row], start + p[row].argmax())
            for (t, p), start in zip(parts, (0, 4), strict=True)
        ]
        wrong = [guess for guess in guesses if not guess[1]]
        assert column == max(wrong or guesses)[2], "a wrong one, the surest of them"


def test_what_targets_submit_is_what_they_parse() -> None:
    task, _ = Targets.learn(GRAPHEMES, "t.csv", False, quiet)
    ids, pred = np.array(list("abcd")), np.random.default_rng(0).random((4, 5))
    sample = Sample(("id", "vowel", "root"), ids, "probabilities")
    table = task.submit(pred, sample)
    best = np.stack([pred[:, :3].argmax(1), pred[:, 3:].argmax(1)], 1)
    assert table["root"].tolist() == np.array(["10", "1|%", "2"])[best[:, 0]].tolist() and list(table) == [
        "vowel",
        "root",
    ]
    assert task.wrong(table["root"].tolist(), sample) == ([], "") and task.wrong(["11"], sample)[0] == [0]
    text = {name: cells.astype(np.str_) for name, cells in table.items()}
    np.testing.assert_array_equal(
        task.parse(text, "s.csv", ids), np.concatenate([np.eye(3)[best[:, 0]], np.eye(2)[best[:, 1]]], 1)
    )
    with pytest.raises(UserError, match=r"s\.csv: column 'root' of id 'b' is '11', no class of it"):
        task.parse({**text, "root": np.array(["10", "11", "2", "2"])}, "s.csv", ids)
    each = Sample(("id", *[f"{t}_{c}" for t, cs in task.classes.items() for c in cs[::-1]]), ids, "probabilities")
    shares = {name: cells.astype(np.str_) for name, cells in task.submit(pred, each).items()}
    np.testing.assert_allclose(task.parse(shares, "s.csv", ids), pred)
    with pytest.raises(UserError, match="value columns are colour, targets are root, vowel"):
        task.submit(pred, Sample(("id", "colour"), ids, "labels"))


def test_strata_of_targets() -> None:
    rng = np.random.default_rng(0)
    task = Targets(np.array([f"a={i}" for i in range(30)] + ["b=x", "b=y"]))
    y = np.stack([np.minimum(rng.geometric(0.3, 400) - 1, 29), rng.integers(2, size=400)], 1)
    strata = task.strata(y)
    for stratum in np.unique(strata).tolist():
        rows = y[strata == stratum]
        alike = len(np.unique(rows, axis=0)) == 1 or len(np.unique(rows[:, 0])) == 1
        assert alike or stratum == strata.max(), "the rest stands together"
    assert (np.bincount(strata)[:-1] >= 10).all()
