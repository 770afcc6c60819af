"""The submission file: laid out like sample_submission.csv, aligned by id, checked before it replaces the old one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from src.competition.csv_file import replace_file
from src.competition.links import Links, submitted_values, wide_sample
from src.competition.sample import Sample, align
from src.competition.task import Task
from src.errors import UserError, counted, first_few

if TYPE_CHECKING:
    import pandas as pd

ROUNDING = 1e-5  # a mean of float32 probabilities may end this far above 1


def submission_table(
    sample: Sample,
    ids: np.ndarray,
    pred: np.ndarray,
    task: Task,
    links: Links | None = None,
    decide: Callable[[np.ndarray], np.ndarray] = lambda pred: pred,
) -> pd.DataFrame:
    """Predictions as the table that Kaggle expects: the sample's columns, and its rows in its order.

    ids (M,) str in any order, pred (M, C) as the task predicts; decide: (R, C) -> (R, C), of the rows that are
    submitted. The id column is str; the rest is what the task submits (means of float32 probabilities that end a hair
    outside of [0, 1] are clipped).
    Raises UserError if ids are repeated, missing or unknown, if a prediction is not finite, or if columns do not fit.
    """
    import pandas as pd

    if pred.shape != (len(ids), len(task.names)):
        raise ValueError(f"pred is {pred.shape}, but there are {len(ids)} ids and {len(task.names)} columns")
    broken = ~np.isfinite(pred).all(axis=1)
    if broken.any():
        raise UserError(
            f"NaN or infinity in the predictions of {counted(int(broken.sum()), 'id')} "
            f"({first_few(ids[broken].tolist())}); "
            "go on with precision=fp32, or train again with a lower optimizer.lr= as another run=NAME"
        )
    exact = pred.astype(np.float64)
    if task.kind != "number":
        exact[(exact < 0) & (exact > -ROUNDING)] = 0
        exact[(exact > 1) & (exact < 1 + ROUNDING)] = 1
    if links is None:
        rows = align(sample.ids, ids, "the sample submission", "the predictions")
        assert np.array_equal(ids[rows], sample.ids)
        submitted = task.submit(decide(exact[rows]), sample)
    else:
        align(np.unique(links.image), ids, "the test rows", "the predictions")
        submitted = submitted_values(links, sample, ids, exact, task, decide)
    index = {name: cells.astype(object) for name, cells in sample.index.items()}
    values = {sample.id_column: sample.ids.astype(object), **index, **submitted}
    return pd.DataFrame({column: values[column] for column in sample.columns})


def check_submission(table: pd.DataFrame, sample: Sample, task: Task, links: Links | None = None) -> None:
    """UserError, saying which, unless the table has the sample's columns, ids and order and only values that the task
    may submit."""
    columns = tuple(str(column) for column in table.columns)
    if columns != sample.columns:
        raise UserError(
            f"submission: columns are {', '.join(columns)}, but the sample has {', '.join(sample.columns)}; "
            "keep its names and order"
        )
    ids = table[sample.id_column].to_numpy().astype(np.str_)
    align(sample.ids, ids, "the sample submission", "the submission")
    moved = np.flatnonzero(ids != sample.ids)
    if len(moved):
        raise UserError(
            f"submission: row {moved[0] + 1} is id {str(ids[moved[0]])!r}, but the sample has "
            f"{str(sample.ids[moved[0]])!r} there; keep the sample's order"
        )
    asked = sample if links is None or links.target is None else wide_sample(links, sample)
    for column in sample.value_columns:
        values = table[column].tolist()
        wrong, problem = task.wrong(values, asked)
        if wrong:
            raise UserError(
                f"submission: column {column!r} of id {str(ids[wrong[0]])!r} is {values[wrong[0]]!r}: {problem} "
                f"({len(wrong)} such rows); correct the predictions"
            )


def write_submission(path: Path, table: pd.DataFrame, sample: Sample, task: Task, links: Links | None = None) -> None:
    """Check the table, write it next to `path`, then put it in its place: a failed check keeps the old file."""
    try:
        check_submission(table, sample, task, links)
    except UserError as error:
        raise UserError(f"{path} is not written: {error}") from None
    replace_file(path, lambda file: table.to_csv(file, index=False, lineterminator="\n"))
