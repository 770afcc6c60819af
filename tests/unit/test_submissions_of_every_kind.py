"""Whatever the ids, the orders of rows and columns and the classes that are never guessed: a submission has its
sample's shape, passes its own check, and reads back as the predictions that it was made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.competition.kinds.multi import Multi
from src.competition.kinds.number import Number
from src.competition.kinds.single import Single
from src.competition.kinds.targets import Targets
from src.competition.links import link
from src.competition.sample import Sample
from src.competition.submission import check_submission, submission_table
from src.competition.task import Task
from src.errors import UserError

NAMES = np.array(["ant", "bee", "cow", "dog"])
SINGLE, MULTI, TWO = Single(NAMES), Multi(NAMES), Single(np.array(["no", "yes"]))
NUMBER = Number(np.array(["height", "width"]))
TARGETS = Targets(np.array(["root=a", "root=b", "root=c", "tone=0", "tone=1"]))
# name: task, value columns, the sample's kind
FORMS: dict[str, tuple[Task, list[str], str]] = {
    "labels": (SINGLE, ["label"], "labels"),
    "a column per class": (SINGLE, [f"c_{name}" for name in NAMES], "probabilities"),
    "0 and 1 per class": (SINGLE, NAMES.tolist(), "labels"),
    "the best few": (SINGLE, ["labels"], "ranked"),
    "a label and how sure": (SINGLE, ["label"], "confident"),
    "one probability": (TWO, ["target"], "positive"),
    "words": (MULTI, ["labels"], "labels"),
    "a probability per label": (MULTI, NAMES.tolist(), "probabilities"),
    "0 and 1 per label": (MULTI, NAMES.tolist(), "labels"),
    "numbers": (NUMBER, ["height", "width"], "labels"),
    "a column per target": (TARGETS, ["root", "tone"], "labels"),
}

texts = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)


def predictions(task: Task, rows: int, rng: np.random.Generator) -> np.ndarray:
    """(rows, C) as the task predicts, the last class or label never the likeliest."""
    if task.kind == "number":
        return rng.normal(0, 1e3, (rows, 2))
    if task.kind == "targets":
        return np.hstack([rng.dirichlet([1, 1, 1], rows), rng.dirichlet([1, 1], rows)])
    if task.kind == "multi":
        return rng.random((rows, 4)) * [1, 1, 1, 0.4]
    pred = rng.dirichlet(np.ones(len(task.names)), rows)
    pred[:, -1] *= 0.2
    return pred / pred.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=25, deadline=None)
@given(ids=st.lists(texts, min_size=1, max_size=6, unique=True), seed=st.integers(0, 2**16))
def test_a_submission_is_as_the_sample_and_reads_back(name: str, ids: list[str], seed: int) -> None:
    task, values, kind = FORMS[name]
    rng = np.random.default_rng(seed)
    columns = rng.permutation(["the id", *values]).tolist()
    sample = Sample(tuple(columns), rng.permutation(ids), kind, columns.index("the id"), guesses=3)
    own, pred = np.array(ids), predictions(task, len(ids), rng)
    table = submission_table(sample, own, pred, task)
    check_submission(table, sample, task)
    assert list(table.columns) == columns and table["the id"].tolist() == sample.ids.tolist()
    cells = {column: table[column].astype(str).to_numpy().astype(np.str_) for column in sample.value_columns}
    read = task.parse(cells, "the file", sample.ids)
    order = [ids.index(one) for one in sample.ids.tolist()]
    wanted = pred[order]
    if kind in ("probabilities", "positive") or task.kind == "number":
        np.testing.assert_allclose(read, wanted, rtol=1e-9, atol=1e-9)
    elif task.kind == "multi":
        assert ((read >= 0.5) == (wanted >= 0.5)).all()
    elif task.kind == "targets":
        for part in (slice(0, 3), slice(3, 5)):
            assert (read[:, part].argmax(axis=1) == wanted[:, part].argmax(axis=1)).all()
    else:
        assert (read.argmax(axis=1) == wanted.argmax(axis=1)).all()
    if kind == "ranked":
        assert all(
            cell.split() == NAMES[np.argsort(-row)[:3]].tolist()
            for cell, row in zip(cells["labels"], wanted, strict=True)
        )


@settings(max_examples=25, deadline=None)
@given(ids=st.lists(texts, min_size=2, max_size=5, unique=True), seed=st.integers(0, 2**16))
def test_a_row_per_picture_and_target_reads_back(ids: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.permutation([f"{one}_{name}" for one in ids for name in NAMES])
    if len(set(rows.tolist())) < len(rows):  # "a" with "b_ant" and "a_b" with "ant"
        return
    sample, pred = Sample(("row", "value"), rows, "probabilities"), rng.random((len(ids), 4))
    links = link(sample, np.array(ids), {}, "{id}_{target}", NAMES, "mean")
    table = submission_table(sample, np.array(ids), pred, MULTI, links)
    check_submission(table, sample, MULTI, links)
    wanted = {f"{one}_{name}": pred[at, c] for at, one in enumerate(ids) for c, name in enumerate(NAMES)}
    assert dict(zip(table["row"], table["value"], strict=True)) == pytest.approx(wanted)


def without_a_row(table: pd.DataFrame) -> pd.DataFrame:
    return table.iloc[:-1]


def in_another_order(table: pd.DataFrame) -> pd.DataFrame:
    return table.iloc[::-1]


def with_another_column(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(extra=1)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("broken", [without_a_row, in_another_order, with_another_column])
def test_what_a_grader_would_refuse_is_refused(name: str, broken: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    task, values, kind = FORMS[name]
    ids = np.array(["a", "b", "c"])
    sample = Sample(("id", *values), ids, kind, guesses=3)
    table = submission_table(sample, ids, predictions(task, 3, np.random.default_rng(0)), task)
    with pytest.raises(UserError):
        check_submission(broken(table), sample, task)
