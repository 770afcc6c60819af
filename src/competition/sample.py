"""What the competition wants: the columns and rows of its sample submission, and how names and ids fit them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.competition.csv_file import read_columns, read_header, refuse_repeats
from src.errors import UserError, first_few, nearest
from src.ids import differ, find_rows

KINDS = ("labels", "probabilities", "positive")
KEY = "competition.sample_csv"


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


def wrong_probabilities(values: list[object]) -> tuple[list[int], str]:
    """Row numbers of what is no probability, and what the first of them is instead."""
    try:
        numbers = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        return [row for row, value in enumerate(values) if not _is_number(value)], "not a number"
    for bad, problem in (
        (np.isnan(numbers), "no number at all"),
        (np.isinf(numbers), "not finite"),
        ((numbers < 0) | (numbers > 1), "a probability is between 0 and 1"),
    ):
        if bad.any():
            return np.flatnonzero(bad).tolist(), problem
    return [], ""


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True
