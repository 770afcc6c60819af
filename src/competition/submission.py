"""The submission file: laid out like sample_submission.csv, aligned by id, checked before it replaces the old one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from src.competition.csv_file import read_columns, read_header, refuse_repeats, replace_file
from src.errors import UserError, first_few, nearest
from src.ids import differ, find_rows

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("labels", "probabilities", "positive")
KEY = "competition.sample_csv"
ROUNDING = 1e-5  # a mean of float32 probabilities may end this far above 1


@dataclass(frozen=True)
class Sample:
    """What the competition wants: the columns and the rows of sample_submission.csv."""

    columns: tuple[str, ...]
    ids: np.ndarray  # (M,) str, in the sample's order
    kind: str  # labels: a class name per row; probabilities: a column per class; positive: P(last of two classes)
    id_position: int = 0  # which of the columns holds the ids

    @property
    def id_column(self) -> str:
        return self.columns[self.id_position]

    @property
    def value_columns(self) -> tuple[str, ...]:
        return tuple(name for name in self.columns if name != self.id_column)


def read_sample(path: Path, id_column: str | None = None, submission: str = "auto") -> Sample:
    """The columns and ids of a sample submission. Its id column is `id_column` if it has that, else its first.

    submission="auto": two columns ask for labels, more ask for probabilities.
    Raises UserError for an unknown kind, a file without a value column, repeated or empty ids.
    """
    if submission not in ("auto", *KINDS):
        choices = ", ".join(("auto", *KINDS))
        raise UserError(f"competition.submission={submission!r}{nearest(submission, KINDS)} (choices: {choices})")
    columns = read_header(path, KEY)
    if len(columns) < 2:
        raise UserError(f"{path}: only column {columns[0]!r}; a sample submission has ids and at least one more column")
    position = columns.index(id_column) if id_column in columns else 0
    kind = submission if submission != "auto" else "labels" if len(columns) == 2 else "probabilities"
    if kind != "probabilities" and len(columns) != 2:
        raise UserError(
            f"competition.submission={kind} needs a sample with two columns, but {path} has {len(columns)} "
            f"({first_few(columns)}); use competition.submission=probabilities"
        )
    ids = read_columns(path, [columns[position]], KEY, required=[columns[position]])[columns[position]]
    refuse_repeats(ids, path)
    return Sample(columns, ids, kind, position)


def match_classes(columns: Sequence[str], classes: Sequence[str] | np.ndarray) -> list[int]:
    """For each column the class it stands for: equal names, or names behind one common prefix ("c_", "prob_").

    Raises UserError naming the columns or classes that are left over.
    """
    names = [str(name) for name in classes]
    prefixes = [""] + [columns[0][: -len(name)] for name in names if columns[0].endswith(name)]
    for prefix in prefixes:
        position = {prefix + name: number for number, name in enumerate(names)}
        if len(columns) == len(names) and set(columns) == set(position):
            return [position[column] for column in columns]
    spare = [column for column in columns if column not in names]
    lacking = [name for name in names if name not in columns]
    raise UserError(
        f"value columns and classes differ: {len(spare)} columns are no class ({first_few(spare) or 'none'}), "
        f"{len(lacking)} classes have no column ({first_few(lacking) or 'none'}); "
        "rename the columns, or correct competition.target_column= or competition.submission="
    )


def submission_table(
    sample: Sample, ids: np.ndarray, pred: np.ndarray, classes: Sequence[str] | np.ndarray
) -> pd.DataFrame:
    """Predictions as the table that Kaggle expects: the sample's columns, and its rows in its order.

    ids (M,) str in any order, pred (M, C) float probabilities, classes (C,) names. The id column is str; the rest is
    class names or float64 in [0, 1] (means of float32 that end a hair outside are clipped).
    Raises UserError if ids are repeated, missing or unknown, if a prediction is not finite, or if classes do not fit.
    """
    import pandas as pd

    names = np.asarray(classes, dtype=np.str_)
    if pred.shape != (len(ids), len(names)):
        raise ValueError(f"pred is {pred.shape}, but there are {len(ids)} ids and {len(names)} classes")
    broken = ~np.isfinite(pred).all(axis=1)
    if broken.any():
        raise UserError(
            f"predictions of {broken.sum()} ids hold NaN or infinity ({first_few(ids[broken].tolist())}); "
            "train again with a lower optimizer.lr= or precision=fp32"
        )
    rows = align(sample.ids, ids, "the sample submission", "the predictions")
    aligned = pred[rows].astype(np.float64)
    assert np.array_equal(ids[rows], sample.ids)
    aligned[(aligned < 0) & (aligned > -ROUNDING)] = 0
    aligned[(aligned > 1) & (aligned < 1 + ROUNDING)] = 1

    values: dict[str, np.ndarray] = {sample.id_column: sample.ids.astype(object)}
    if sample.kind == "labels":
        values[sample.value_columns[0]] = names[aligned.argmax(axis=1)].astype(object)
    elif sample.kind == "positive":
        require_two(names)
        values[sample.value_columns[0]] = aligned[:, 1]
    else:
        for column, number in zip(
            sample.value_columns, match_classes(sample.value_columns, names.tolist()), strict=True
        ):
            values[column] = aligned[:, number]
    return pd.DataFrame({column: values[column] for column in sample.columns})


def align(wanted: np.ndarray, ids: np.ndarray, wanted_name: str, ids_name: str) -> np.ndarray:
    """Row numbers (M,) int64 with ids[rows] == wanted, both (M,) str. UserError unless each id is once in both."""
    refuse_repeats(ids, ids_name)
    refuse_repeats(wanted, wanted_name)
    if text := differ(wanted, ids, f"only in {wanted_name}", f"only in {ids_name}"):
        raise UserError(f"{wanted_name} and {ids_name} have different ids: {text}; use files of the same competition")
    return find_rows(ids, wanted)


def require_two(classes: Sequence[str] | np.ndarray) -> None:
    if len(classes) != 2:
        raise UserError(
            f"competition.submission=positive needs two classes, but there are {len(classes)} "
            f"({first_few([str(name) for name in classes])}); use labels or probabilities"
        )


def check_submission(table: pd.DataFrame, sample: Sample, allowed: Sequence[str] | np.ndarray) -> None:
    """UserError, saying which, unless the table has the sample's columns, ids and order and only valid values.

    `allowed` are the class names for labels; probabilities are finite numbers in [0, 1].
    """
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
    for column in sample.value_columns:
        if sample.kind == "labels":
            known = {str(name) for name in allowed}
            labels = table[column].tolist()
            wrong = [number for number, label in enumerate(labels) if str(label) not in known]
            problem = f"not a class{nearest(str(labels[wrong[0]]), known)}" if wrong else ""
        else:
            wrong, problem, labels = _wrong_numbers(table[column])
        if wrong:
            raise UserError(
                f"submission: column {column!r} of id {str(ids[wrong[0]])!r} is {labels[wrong[0]]!r}: {problem} "
                f"({len(wrong)} such rows); correct the predictions"
            )


def _wrong_numbers(column: pd.Series) -> tuple[list[int], str, list[object]]:
    values = column.tolist()
    try:
        numbers = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        return [row for row, value in enumerate(values) if not _is_number(value)], "not a number", values
    for bad, problem in (
        (np.isnan(numbers), "no number at all"),
        (np.isinf(numbers), "not finite"),
        ((numbers < 0) | (numbers > 1), "a probability is between 0 and 1"),
    ):
        if bad.any():
            return np.flatnonzero(bad).tolist(), problem, values
    return [], "", values


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def write_submission(path: Path, table: pd.DataFrame, sample: Sample, allowed: Sequence[str] | np.ndarray) -> None:
    """Check the table, write it next to `path`, then put it in its place: a failed check keeps the old file."""
    try:
        check_submission(table, sample, allowed)
    except UserError as error:
        raise UserError(f"{path} is not written: {error}") from None
    replace_file(path, lambda file: table.to_csv(file, index=False, lineterminator="\n"))
