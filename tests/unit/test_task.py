"""Kinds of target: cells to numbers and back, strata, priors, submissions, and metrics against scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.competition.kinds import KINDS, task_of
from src.competition.kinds.multi import METRICS, Multi, join, split
from src.competition.kinds.single import Single
from src.competition.metrics import find_metric
from src.competition.sample import Sample
from src.competition.splitting import make_folds
from src.competition.task import Task
from src.errors import UserError

NAMES = np.array(["ant", "bee", "cat"])
Y = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]], bool)
CELLS = ["ant", "bee cat", "", "ant bee cat"]


def quiet(line: str) -> None:
    pytest.fail(line)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_task_is_what_it_promises(kind: str) -> None:
    names = np.array(["x=a", "x=b", "y=b", "y=c", "y=|%"]) if kind == "targets" else NAMES
    task: Task = task_of(kind, names)
    y = {
        "single": np.array([0, 2, 1, 0]),
        "multi": Y,
        "number": np.array([[1, 2.5, -3], [0.1, 1e-7, 4], [7, 8, 1e30], [7, 8, 9]], np.float32),
        "targets": np.array([[0, 2], [1, 1], [1, 0], [0, 2]]),
    }[kind]
    assert task.kind == kind and task.names is names
    cells = task.cells(y)
    np.testing.assert_array_equal(task.encode(cells), y)
    assert task.encode(cells).dtype == y.dtype and cells.shape == (4,)
    assert task.strata(y).shape == (4,) and task.strata(y).dtype == np.int64
    assert task.prior(y).shape == (len(names),) and set(task.blends) >= {"soft", "climb"}
    assert task.numeric == (kind == "number") and task.exclusive == (kind == "single")
    assert sum(task.groups) in (0, len(names))
    if kind in ("single", "multi"):
        assert {"accuracy", "f1_macro", "log_loss"} <= set(task.metrics), "the defaults of competition.metrics"
    guess = np.array([0, 2, 1, 2])
    expected = {
        "single": [True, True, True, False],
        "multi": [True, True, False, True],
        "number": [True] * 4,
        "targets": [True, False, True, False],
    }
    assert task.holds(y, guess).tolist() == expected[kind]
    pred = np.abs(np.random.default_rng(0).normal(size=(4, len(names)))).astype(np.float32)
    pred = pred / pred.sum(1, keepdims=True)
    assert task.credit(y, pred).shape == (4,) and np.isfinite(task.loss(y, pred))
    assert task.shown(y, pred).shape == (4,) and task.shown(y, pred).max() < len(names)
    assert all(isinstance(line, str) for line in task.describe(y))
    labels = task.labels(y)
    if kind == "number":
        assert labels is not None and (labels.sum(axis=1) == 1).all()
    elif kind in ("multi", "targets"):
        assert labels is not None and labels.shape == (4, len(names))
        both = np.array([[task.holds(y, np.full(4, c))[r] for c in range(len(names))] for r in range(4)])
        np.testing.assert_array_equal(labels.toarray() == 1, both)
    else:
        assert labels is None


def test_an_unknown_kind_is_said() -> None:
    with pytest.raises(UserError, match="kind 'boxes', which this version does not know"):
        task_of("boxes", NAMES)


# ---- one label ------------------------------------------------------------------------------------------------------


def test_single_prior_and_credit() -> None:
    task, y = Single(NAMES), np.array([0, 0, 2, 0])
    assert task.prior(y).tolist() == [0.75, 0, 0.25]
    pred = np.array([[0.5, 0.2, 0.3], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1], [1, 0, 0]])
    assert task.credit(y, pred).tolist() == [0.5, 0.1, 0.1, 1.0]
    with pytest.raises(UserError, match=r"1 label is no class \(dog\)"):
        task.encode(np.array(["ant", "dog"]))


@pytest.mark.parametrize(("names", "cell"), [(["ant", "bee", "cat"], "0.3"), (["ant", "bee"], "dog")])
def test_single_takes_no_probability_for_one_of_three_nor_a_word_for_one_of_two(names: list[str], cell: str) -> None:
    with pytest.raises(UserError, match=f"1 label is no class .{cell}; the first at id 'j'"):
        Single(np.array(names)).parse({"label": np.array(["ant", cell])}, "s.csv", np.array(["i", "j"]))


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(3)), st.integers(0, 2**16), st.sampled_from(["labels", "probabilities"]))
def test_what_single_submits_is_what_it_parses(order: list[int], seed: int, kind: str) -> None:
    """Columns in any order: the table that is written is read back as the predictions, or their best class."""
    task, ids = Single(NAMES), np.array([f"i{n}" for n in range(5)])
    pred = np.random.default_rng(seed).dirichlet(np.ones(3), 5)
    columns = ("id", *(f"p_{NAMES[c]}" for c in order)) if kind == "probabilities" else ("id", "label")
    table = task.submit(pred, Sample(columns, ids, kind))
    text = {name: np.array([str(cell) for cell in cells]) for name, cells in table.items()}
    expected = pred if kind == "probabilities" else np.eye(3)[pred.argmax(1)]
    np.testing.assert_allclose(task.parse(text, "s.csv", ids), expected)
    for cells in table.values():
        assert task.wrong(cells.tolist(), Sample(columns, ids, kind)) == ([], "")


# ---- several labels -------------------------------------------------------------------------------------------------


def test_words_in_a_cell() -> None:
    task, y = Multi.learn({"labels": np.array(CELLS)}, "t.csv", False, quiet)
    assert task.names.tolist() == ["ant", "bee", "cat"] and y.dtype == bool
    np.testing.assert_array_equal(y, Y)
    assert task.cells(y).tolist() == CELLS
    with pytest.raises(UserError, match=r"'dog' is no label"):
        task.encode(np.array(["ant dog"]))


def test_columns_of_ones() -> None:
    table = {
        name: np.array([str(int(cell)) for cell in column]) for name, column in zip(NAMES.tolist(), Y.T, strict=True)
    }
    task, y = Multi.learn(table, "t.csv", False, quiet)
    np.testing.assert_array_equal(y, Y)
    with pytest.raises(UserError, match=r"t\.csv: column 'bee' holds '2'; labels in columns are 0 or 1"):
        Multi.learn({**table, "bee": np.array(["0", "1", "2", "0"])}, "t.csv", False, quiet)
    assert task.cells_of(table).tolist() == CELLS


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("ab ,;|", min_size=1, max_size=4), max_size=4))
def test_names_survive_their_cell(names: list[str]) -> None:
    kept = [" ".join(name.replace("|", "").replace(";", "").replace(",", "").split()) for name in names]
    kept = sorted({name for name in kept if name})
    assert split(join(kept)) == kept


def test_which_columns_are_the_target() -> None:
    sample = Sample(("id", "bee", "ant"), np.array(["t"]), "probabilities")
    assert Multi.target_columns(None, ["ant", "bee", "age"], sample, Path("t.csv")) == ["bee", "ant"]
    words = Sample(("id", "labels"), np.array(["t"]), "labels")
    assert Multi.target_columns(None, ["labels", "age"], words, Path("t.csv")) == ["labels"]
    with pytest.raises(UserError, match=r"which column holds the labels.*one of: age, place"):
        Multi.target_columns(None, ["age", "place"], words, Path("t.csv"))


def test_multi_strata_spread_rare_labels_over_the_folds() -> None:
    rng = np.random.default_rng(0)
    y = rng.random((600, 4)) < [0.5, 0.3, 0.08, 0.05]
    folds = make_folds(Multi(np.array(list("abcd"))).strata(y), None, 5, 0)
    for column in range(4):
        counts = np.bincount(folds[y[:, column]], minlength=5)
        assert counts.min() >= 0.6 * counts.mean(), (column, counts)
    rare = np.zeros((50, 4), bool)
    rare[:4, 0] = rare[4:7, 2] = rare[:40, 1] = True
    strata = Multi(np.array(list("abcd"))).strata(rare)
    assert len(set(strata[:7])) == 1, "labels of fewer than ten rows stand together"
    assert [len(set(strata[part])) for part in (slice(7, 40), slice(40, 50), slice(0, 50))] == [1, 1, 3]


def test_multi_prior_credit_and_submission() -> None:
    task = Multi(NAMES)
    assert task.prior(Y).tolist() == [0.5, 0.5, 0.5]
    pred = np.array([[0.9, 0.2, 0.4], [0.1, 0.8, 0.5], [0.0, 0.1, 0.2], [1.0, 0.6, 0.4]])
    assert task.credit(Y, pred)[0] == pytest.approx((0.9 + 0.8 + 0.6) / 3)
    ids = np.array(["a", "b", "c", "d"])
    words = Sample(("id", "labels"), ids, "labels")
    table = task.submit(pred, words)
    assert table["labels"].tolist() == ["ant", "bee cat", "", "ant bee"]
    assert task.wrong(table["labels"].tolist(), words) == ([], "")
    assert task.wrong(["ant", "dog"], words)[0] == [1]
    np.testing.assert_array_equal(task.parse(table, "s.csv", ids), pred >= 0.5)
    columns = Sample(("id", "cat", "ant", "bee"), ids, "probabilities")
    text = {name: np.array([str(cell) for cell in cells]) for name, cells in task.submit(pred, columns).items()}
    assert list(text) == ["cat", "ant", "bee"]
    np.testing.assert_allclose(task.parse(text, "s.csv", ids), pred)


def test_a_column_without_both_has_no_curve() -> None:
    y = np.array([[1, 0], [0, 0]], bool)
    assert METRICS["auc"].function(y, np.array([[0.9, 0.1], [0.2, 0.7]])) == 1.0
    with pytest.raises(UserError, match="no column has both"):
        METRICS["auc"].function(y[:1], np.array([[0.9, 0.1]]))


def test_better_is_said_once() -> None:
    accuracy, loss = find_metric("accuracy"), find_metric("log_loss")
    assert (accuracy.sign, loss.sign) == (1, -1)
    assert accuracy.best({"a": 0.1, "b": 0.3, "c": 0.3}) == "b" and loss.best({"a": 0.1, "b": 0.3}) == "a"
