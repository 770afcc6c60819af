"""What the competition wants: the columns and rows of its sample submission, and how names and ids fit them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from src.competition.csv_file import refuse_repeats
from src.competition.table_file import read_columns, read_header
from src.config import CompetitionConfig
from src.errors import UserError, counted, first_few, nearest
from src.ids import are_unique, differ, find_rows

KINDS = ("labels", "probabilities", "positive", "ranked", "confident")
KEY = "competition.sample_csv"
UNNAMED = re.compile(r"(unnamed: \d+(\.\d+)*)?", re.I)  # columns that pandas writes unless index=False, and reads so
INDEX = re.compile(rf"{UNNAMED.pattern}|index|level_0", re.I)  # and those of reset_index()


@dataclass(frozen=True)
class Sample:
    """What the competition wants: the columns and the rows of sample_submission.csv."""

    columns: tuple[str, ...]
    ids: np.ndarray  # (M,) str, in the sample's order
    # labels: a class name per row, of a column per class 0 or 1; probabilities: a column per class; positive: the
    # probability of one of two classes;
    # ranked: the best few classes as words; confident: a class and its probability
    kind: str
    id_position: int = 0  # which of the columns holds the ids
    positive: str | None = None  # of these two classes; None: the last
    guesses: int = 5  # of the best few, how many
    index: dict[str, np.ndarray] = field(default_factory=dict)  # columns (M,) str that number rows, beside the ids

    @property
    def id_column(self) -> str:
        return self.columns[self.id_position]

    @property
    def value_columns(self) -> tuple[str, ...]:
        return tuple(name for name in self.columns if name != self.id_column and name not in self.index)


def read_sample(path: Path, id_column: str | None, keys: CompetitionConfig) -> Sample:
    """The columns and ids of a sample submission. Its id column is `id_column` if it has that, else `keys.id_column`,
    else its first.

    keys.submission="auto": two columns ask for labels, more ask for probabilities.
    Raises UserError for an unknown kind, a file without a value column, repeated or empty ids.
    """
    submission = keys.submission
    if submission not in ("auto", *KINDS):
        choices = ", ".join(("auto", *KINDS))
        raise UserError(f"competition.submission={submission!r}{nearest(submission, KINDS)} (choices: {choices})")
    columns = read_header(path, KEY)
    if len(columns) < 2:
        raise UserError(f"{path}: only column {columns[0]!r}; a sample submission has ids and at least one more column")
    asked = next((name for name in (id_column, keys.id_column) if name in columns), None)
    index = _read_index(path, columns, asked)
    found = asked or next(name for name in columns if name not in index)
    position, count = columns.index(found), len(columns) - len(index)
    kind = submission if submission != "auto" else "labels" if count == 2 else "probabilities"
    if kind not in ("probabilities", "labels") and count != 2:
        raise UserError(
            f"competition.submission={kind} needs a sample with two columns, but {path} has {len(columns)} "
            f"({first_few(columns)}); use competition.submission=probabilities"
        )
    ids = read_columns(path, [columns[position]], KEY, required=[columns[position]])[columns[position]]
    refuse_repeats(ids, path)
    return Sample(columns, ids, kind, position, keys.positive, keys.guesses, index)


def _read_index(path: Path, columns: Sequence[str], asked: str | None) -> dict[str, np.ndarray]:
    """The columns that only number the rows, beside the ids, which are in `asked` or in the first other column."""
    names = [name for name in columns if INDEX.fullmatch(name) and name != asked]
    others = [name for name in columns if name not in names]
    if not names or len(others) < 2:
        return {}
    cells = read_columns(path, [asked or others[0], *names], KEY)
    if asked is not None:
        return {name: cells[name] for name in names if numbers_rows(cells[name])}
    if not are_unique(cells[others[0]]):  # the ids are in one of `names`
        return {}
    return {name: cells[name] for name in names if UNNAMED.fullmatch(name) and counts_rows(cells[name])}


def numbers_rows(cells: np.ndarray) -> bool:
    """Whether cells (N,) str are whole numbers, each of them once: an index, which moves with its rows; or nothing."""
    if not np.char.str_len(cells).any():
        return True
    return are_unique(cells) and all(re.fullmatch(r"\d+(\.0+)?", cell, re.ASCII) for cell in cells.tolist())


def counts_rows(cells: np.ndarray) -> bool:
    """Whether cells (N,) str are 0, 1, 2 … or 1, 2, 3 …, as pandas writes an index."""
    return any(cells.tolist() == [str(row + first) for row in range(len(cells))] for first in (0, 1))


def columns_of_sample(
    column: str | None, candidates: list[str], sample: Sample, path: Path, question: str
) -> list[str]:
    """Target columns of the training table `path`: the configured one, else the sample's value columns where it has all
    of them, else the only one of `candidates`. Raises UserError with the `question` and a list of them."""
    if column is not None:
        return [column]
    if set(sample.value_columns) <= set(candidates):
        return list(sample.value_columns)
    if len(candidates) != 1:
        raise UserError(
            f"{path}: {question} competition.target_column= to one of: "
            f"{', '.join(candidates) or 'none, there is none besides the ids'}"
        )
    return candidates


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
        f"value columns and classes differ: {counted(len(spare), 'column is', 'columns are')} no class "
        f"({first_few(spare) or 'none'}), {counted(len(lacking), 'class has', 'classes have')} no column "
        f"({first_few(lacking) or 'none'}); "
        "rename the columns, or correct competition.target_column= or competition.submission="
    )


def align(wanted: np.ndarray, ids: np.ndarray, wanted_name: str, ids_name: str) -> np.ndarray:
    """Row numbers (M,) int64 with ids[rows] == wanted, both (M,) str. UserError unless each id is once in both."""
    refuse_repeats(ids, ids_name)
    refuse_repeats(wanted, wanted_name)
    if text := differ(wanted, ids, f"only in {wanted_name}", f"only in {ids_name}"):
        raise UserError(f"{wanted_name} and {ids_name} have different ids: {text}; use files of the same competition")
    return find_rows(ids, wanted)


def positive_of(classes: Sequence[str] | np.ndarray, positive: str | None = None) -> int:
    """Which of two classes a single column of probabilities is about: `positive`, else the last."""
    names = [str(name) for name in classes]
    if len(names) != 2:
        raise UserError(
            f"competition.submission=positive needs two classes, but there are {len(names)} "
            f"({first_few(names)}); use labels or probabilities"
        )
    if positive is not None and positive not in names:
        raise UserError(f"competition.positive={positive}: not a class{nearest(positive, names)} ({first_few(names)})")
    return 1 if positive is None else names.index(positive)


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
