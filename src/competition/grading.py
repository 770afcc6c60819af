"""Local scoring of a submission against hidden labels, the way the leaderboard would do it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.competition.csv_file import column_position, read_columns, read_header
from src.competition.metrics import find_metric, scores
from src.competition.submission import align, match_classes
from src.competition.tables import sort_classes
from src.errors import UserError, first_few

SUBMISSION, SOLUTION = "submission", "solution"  # the keys of `./run.sh score`


def grade(
    submission_csv: str | Path,
    solution_csv: str | Path,
    metric: str | Sequence[str] = "accuracy",
    *,
    id_column: str | None = None,
    target_column: str | None = None,
    classes: Sequence[str] | np.ndarray | None = None,
) -> dict[str, float]:
    """Scores by metric name. The solution may be in any row order and have more columns (`Usage`).

    The submission holds a label per row, a probability per class, or, for two classes, one probability of the last.
    The solution holds the labels in `target_column` (default: the submission's value column, or the only column
    besides id and Usage) or one 0/1 column per class. `classes` (C,) are all the classes in their order; without
    them, those of the two files count. Raises UserError if ids are repeated, missing or unknown in either file, if
    columns do not fit, or if a value is neither a class nor a probability.
    """
    submission, solution = Path(submission_csv), Path(solution_csv)
    names = [metric] if isinstance(metric, str) else list(metric)
    for name in names:
        find_metric(name)
    header = read_header(submission, SUBMISSION)
    if len(header) < 2:
        raise UserError(f"{submission}: only column {header[0]!r}; a submission has ids and at least one more column")
    id_column = id_column if id_column in header else header[0]
    table = read_columns(submission, header, SUBMISSION, required=header)
    ids = table.pop(id_column)
    truth_ids, truth = _truth(solution, id_column, target_column, list(table))
    truth = truth[align(ids, truth_ids, str(submission), str(solution))]

    if len(table) == 1:
        order, pred = _from_one_column(submission, ids, next(iter(table.values())), truth, classes)
    else:
        order = _classes_of_columns(list(table), truth, classes)
        pred = np.zeros((len(ids), len(order)))
        for column, position in zip(table, match_classes(list(table), order), strict=True):
            pred[:, position] = _probabilities(submission, ids, column, table[column])
    unknown = sorted(set(truth.tolist()) - set(order))
    if unknown:
        raise UserError(f"{solution}: {len(unknown)} labels are no class of the submission ({first_few(unknown)})")
    number = {name: position for position, name in enumerate(order)}
    return scores(names, np.array([number[label] for label in truth.tolist()], dtype=np.int64), pred)


def _truth(path: Path, id_column: str, target: str | None, values: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ids and labels of the solution, both (M,) str."""
    header = read_header(path, SOLUTION)
    column_position(id_column, header, path, SOLUTION)
    others = [name for name in header if name != id_column and name.lower() != "usage"]
    if target is not None:
        column_position(target, header, path, "competition.target_column")
    elif len(values) == 1 and values[0] in others:
        target = values[0]
    elif len(others) == 1:
        target = others[0]
    elif len(values) > 1 and set(values) <= set(others):  # one 0/1 column per class, as in the submission
        table = read_columns(path, [id_column, *values], SOLUTION, required=[id_column, *values])
        ids = table.pop(id_column)
        hot = np.stack([_probabilities(path, ids, name, table[name]) for name in values], axis=1)
        return ids, np.array(values, dtype=np.str_)[hot.argmax(axis=1)]
    else:
        raise UserError(
            f"{path}: which column is the label? Set competition.target_column= to one of {', '.join(others)}"
        )
    table = read_columns(path, [id_column, target], SOLUTION, required=[id_column, target])
    return table[id_column], table[target]


def _from_one_column(
    path: Path, ids: np.ndarray, cells: np.ndarray, truth: np.ndarray, classes: Sequence[str] | np.ndarray | None
) -> tuple[list[str], np.ndarray]:
    """Class names and (M, C) predictions of a column of labels, or of probabilities of the last of two classes."""
    known = [str(name) for name in classes] if classes is not None else sort_classes(truth.tolist())
    strange = sorted(set(cells.tolist()) - set(known))
    if strange and len(known) == 2 and all(_is_probability(cell) for cell in set(cells.tolist())):
        last = cells.astype(np.float64)
        return known, np.stack([1 - last, last], axis=1)
    if strange and (classes is not None or len(strange) == len(set(cells.tolist()))):
        first = str(ids[cells == strange[0]][0])
        raise UserError(
            f"{path}: {len(strange)} labels are no class ({first_few(strange)}; the first at id {first!r}); "
            f"classes are {first_few(known, 10)}"
        )
    order = sort_classes([*known, *strange]) if strange else known  # a rare class may be guessed and never be true
    number = {name: position for position, name in enumerate(order)}
    return order, np.eye(len(order))[[number[cell] for cell in cells.tolist()]]


def _classes_of_columns(columns: list[str], truth: np.ndarray, classes: Sequence[str] | np.ndarray | None) -> list[str]:
    """The class names behind the probability columns, whose common prefix is whatever the labels lack."""
    if classes is not None:
        return [str(name) for name in classes]
    labels = set(truth.tolist())
    some = max(labels, key=len)
    prefixes = [""] + [column[: -len(some)] for column in columns if column.endswith(some)]
    for prefix in prefixes:
        if labels <= {column[len(prefix) :] for column in columns if column.startswith(prefix)} and all(
            column.startswith(prefix) for column in columns
        ):
            return sort_classes(column[len(prefix) :] for column in columns)
    return sort_classes(labels)  # match_classes then says what does not fit


def _is_probability(cell: str) -> bool:
    try:
        return 0 <= float(cell) <= 1
    except ValueError:
        return False


def _probabilities(path: Path, ids: np.ndarray, column: str, cells: np.ndarray) -> np.ndarray:
    for cell in np.unique(cells).tolist():
        if not _is_probability(cell):
            first = str(ids[cells == cell][0])
            raise UserError(f"{path}: column {column!r} of id {first!r} is {cell!r}; probabilities are between 0 and 1")
    return cells.astype(np.float64)
