"""Local scoring of a submission against hidden labels, the way the leaderboard would do it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from src.competition.csv_file import column_position, read_columns, read_header
from src.competition.images import template_fields
from src.competition.kinds import KINDS
from src.competition.kinds.single import Single, is_probability, sort_classes
from src.competition.links import ONE, TARGET
from src.competition.long_table import pivot
from src.competition.metrics import Metric, find_metric, scores
from src.competition.sample import Sample, align, positive_of
from src.competition.task import Task
from src.errors import UserError, counted, first_few, nearest

SUBMISSION, SOLUTION = "submission", "solution"  # the keys of `./run.sh score`


def grade(
    submission_csv: str | Path,
    solution_csv: str | Path,
    metric: str | Metric | Sequence[str] = "accuracy",
    *,
    id_column: str | None = None,
    target_column: str | None = None,
    task: Task | None = None,
    kind: str = "single",
    sample: Sample | None = None,
    rows: str = ONE,
    part: bool = False,
) -> dict[str, float]:
    """Scores by metric name. The solution may be in any row order and have more columns (`Usage`).

    The submission holds what `task` submits; without a task a label per row, a probability per class, or, for two
    classes, one probability of the last. The solution holds the labels in `target_column` (default: the submission's
    value column, or the only column besides id and Usage) or the submission's columns. `task` knows the columns of a
    prediction, `sample` which class one column is about, `rows` (as `competition.rows`) whether each target has a row;
    without them, the classes, labels or columns of the two files count, of targets of that `kind`. `part`: whether
    the submission may lack rows of the solution, which are then left out, as in a trial on a few rows. Raises
    UserError if ids are repeated, missing or unknown in either file, if columns do not fit, or if a value is neither a
    class nor a probability, or no number where numbers are asked for.
    """
    submission, solution = Path(submission_csv), Path(solution_csv)
    wanted = [metric] if isinstance(metric, (str, Metric)) else list(metric)
    header = read_header(submission, SUBMISSION)
    if len(header) < 2:
        raise UserError(f"{submission}: only column {header[0]!r}; a submission has ids and at least one more column")
    id_column = id_column if id_column in header else header[0]
    blank = task is not None and not task.needs_a_cell
    table = read_columns(submission, header, SUBMISSION, required=[id_column] if blank else header)
    ids = table.pop(id_column)
    truth_ids, columns = _truth(solution, id_column, target_column, list(table), blank)
    if part:
        own = np.isin(truth_ids, ids)
        truth_ids, columns = truth_ids[own], {name: cells[own] for name, cells in columns.items()}
    if TARGET in template_fields(rows, "competition.rows"):
        (ids, table), (truth_ids, columns) = (_wide(*part, rows) for part in ((ids, table), (truth_ids, columns)))
    order = align(ids, truth_ids, str(submission), str(solution))
    if task is None and kind != "single":
        task = _task_of(kind, columns, table, str(solution))
    known = task or Single(np.array([], np.str_))
    truth = known.cells_of({name: cells[order] for name, cells in columns.items()})
    if task is None:
        task = Single(np.array(_classes(table, truth, submission, ids), dtype=np.str_))
    metrics = [one if isinstance(one, Metric) else find_metric(one, task.metrics) for one in wanted]
    pred = task.parse(table, str(submission), ids)
    if sample is not None and sample.kind == "positive" and positive_of(task.names, sample.positive) == 0:
        pred = pred[:, ::-1]
    try:
        y = task.encode(truth)
    except UserError as error:
        raise UserError(f"{solution}: {error}") from None
    return scores(metrics, y, pred)


def _wide(ids: np.ndarray, table: dict[str, np.ndarray], rows: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A row per picture, a column per target, of a table with a row for each of both."""
    ((value, cells),) = table.items()
    wide, _ = pivot({"id": ids, value: cells}, rows, "id", rows, value)
    return wide.pop("id"), wide


def _truth(
    path: Path, id_column: str, target: str | None, values: list[str], blank: bool
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Ids (M,) str of the solution and its target columns, each (M,) str; blank: whether a cell may be empty."""
    header = read_header(path, SOLUTION)
    column_position(id_column, header, path, SOLUTION)
    others = [name for name in header if name != id_column and name.lower() != "usage"]
    if target is not None:
        column_position(target, header, path, "competition.target_column")
    elif len(values) == 1 and values[0] in others:
        target = values[0]
    elif len(others) == 1:
        target = others[0]
    elif not (len(values) > 1 and set(values) <= set(others)):  # else a column per class, as in the submission
        raise UserError(
            f"{path}: which column is the label? Set competition.target_column= to one of {', '.join(others)}"
        )
    wanted = [id_column, *(values if target is None else [target])]
    table = read_columns(path, wanted, SOLUTION, required=[id_column] if blank else wanted)
    return table.pop(id_column), table


def _task_of(kind: str, truth: Mapping[str, np.ndarray], submitted: Mapping[str, np.ndarray], place: str) -> Task:
    """A task of another kind than one label, from the columns of a solution and, as a rare label may be guessed and
    never be true, of the labels in a submission."""
    if kind not in KINDS:
        raise UserError(f"kind={kind}: choose one of {', '.join(KINDS)}{nearest(kind, KINDS)}")
    both = dict(truth)
    if kind != "number" and set(truth) == set(submitted):
        labels = [cells for cells in submitted.values() if not all(is_probability(cell) for cell in cells.tolist())]
        if labels or kind == "targets":
            both = {name: np.concatenate([cells, submitted[name]]) for name, cells in truth.items()}
    return KINDS[kind].learn(both, place, False, lambda line: None)[0]


def _classes(table: Mapping[str, np.ndarray], truth: np.ndarray, path: Path, ids: np.ndarray) -> list[str]:
    """The class names that the two files know: a rare class may be guessed and never be true."""
    known = sort_classes(truth.tolist())
    if len(table) > 1:
        return _behind_columns(list(table), set(known))
    cells = next(iter(table.values())).tolist()
    strange = sorted(set(cells) - set(known))
    if strange and len(known) == 2 and all(is_probability(cell) for cell in set(cells)):
        return known
    if strange and len(strange) == len(set(cells)):
        first = str(ids[next(iter(table.values())) == strange[0]][0])
        raise UserError(
            f"{path}: {counted(len(strange), 'label is', 'labels are')} no class "
            f"({first_few(strange)}; the first at id {first!r}); "
            f"classes are {first_few(known, 10)}"
        )
    return sort_classes([*known, *strange])


def _behind_columns(columns: list[str], labels: set[str]) -> list[str]:
    """The class names behind the probability columns, whose common prefix is whatever the labels lack."""
    some = max(labels, key=len)
    prefixes = [""] + [column[: -len(some)] for column in columns if column.endswith(some)]
    for prefix in prefixes:
        if labels <= {column[len(prefix) :] for column in columns if column.startswith(prefix)} and all(
            column.startswith(prefix) for column in columns
        ):
            return sort_classes(column[len(prefix) :] for column in columns)
    return sort_classes(labels)  # match_classes then says what does not fit
