"""The user's own metric, `competition.metric=FILE.py:FUNCTION`.

The function takes (y_true, y_pred), or (solution, submission, row_id_column_name) as in Kaggle's metric notebooks, two
DataFrames laid out like the sample submission; further parameters need defaults. Attributes of the function, where it
has them: `greater_is_better` (else true, which is printed) and `of`, "labels" or "probabilities" (else by what the
sample asks for). y_true and y_pred are class numbers (N,) or, of probabilities, (N, C), of the last of two classes
(N,); of several labels per row 0/1 or probabilities (N, C); of numbers (N,) or (N, C).
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from src.competition.metrics.metric import Function, Metric, Of
from src.errors import UserError, first_few, nearest

if TYPE_CHECKING:
    import pandas as pd

    from src.competition.sample import Sample
    from src.competition.task import Task

KEY = "competition.metric"


def is_own(name: str) -> bool:
    """Whether a metric's name is that of a file and a function in it."""
    return re.search(r"\.py(:|$)", name) is not None


def find_file(name: str, places: Sequence[Path]) -> Path:
    """The file of the metric `name`: absolute, or in the first of `places` that has it. UserError if none has."""
    file = name.partition(".py")[0] + ".py"
    for place in places:
        if (place / file).is_file():
            return place / file
    looked = ", ".join(dict.fromkeys(str(place.resolve()) for place in places))
    raise UserError(f"{KEY}={name}: there is no file {file} (looked in {looked}); give its path, or a metric's name")


def load_function(name: str, path: Path) -> Callable[..., Any]:
    """The function that `name` means in the file `path`. Raises UserError if it cannot be loaded or has none such."""
    wanted = name.partition(".py")[2].removeprefix(":")
    module = _load(path)
    functions = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
    if not wanted:
        raise UserError(f"{KEY}={name}: which function? Give {KEY}={name}:NAME, one of {first_few(functions, 10)}")
    if not callable(getattr(module, wanted, None)):
        has = f"it has {first_few(functions, 10)}" if functions else "it has no function"
        raise UserError(f"{KEY}={name}: {path} has no function {wanted!r}{nearest(wanted, functions)}; {has}")
    return getattr(module, wanted)


def _load(path: Path) -> ModuleType:
    known = f"own_metric_{path.resolve()}_{path.stat().st_mtime_ns}"
    if known in sys.modules:
        return sys.modules[known]
    spec = importlib.util.spec_from_file_location(known, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[known] = module  # a dataclass in it looks its module up there
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # no __pycache__ among the user's files
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[known]
        if isinstance(error, Exception):
            raise UserError(f"{KEY}: {where(error, path)}") from error
        raise
    finally:
        sys.dont_write_bytecode = before
    return module


def where(error: Exception, path: Path) -> str:
    """`my_metric.py, line 7: KeyError: 'x'`, the deepest line that is in the file."""
    if isinstance(error, SyntaxError):
        return f"{path}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(path.name)]
    at = f", line {lines[-1]}" if lines else ""
    return f"{path}{at}: {type(error).__name__}: {error}"


def own_metric(name: str, places: Sequence[Path], task: Task, sample: Sample, say: Callable[[str], None]) -> Metric:
    """The metric `name` (FILE.py:FUNCTION) for predictions of the task; its own name is FILE:FUNCTION.

    Raises UserError if there is no such file or function or if its parameters do not fit; scoring raises one that
    names the line in which the function failed.
    """
    path = find_file(name, places)
    function = load_function(name, path)
    of = _of(function, name, task, sample)
    greater = getattr(function, "greater_is_better", None)
    if greater is None:
        say(
            f"{path}: {function.__name__} does not say whether greater is better, so it counts as such; "
            f"for an error or a loss put {function.__name__}.greater_is_better = False below it"
        )
    elif not isinstance(greater, bool):
        raise UserError(f"{KEY}={name}: {function.__name__}.greater_is_better is {greater!r}, not True or False")
    called = _of_tables(function, task, sample) if _takes_tables(function, name, path) else _of_arrays(function, of)

    def score(y: np.ndarray, pred: np.ndarray) -> float:
        try:
            value = float(called(y, pred))
        except Exception as error:
            raise UserError(f"{KEY}: {where(error, path)}") from error
        if not np.isfinite(value):
            raise UserError(f"{KEY}: {path}: {function.__name__} returned {value} for {len(y)} rows, no finite number")
        return value

    return Metric(f"{path.stem}:{function.__name__}", greater is not False, score, of=of)


def score_files(name: str, places: Sequence[Path], submission: Path, solution: Path) -> tuple[str, float]:
    """The own name and the score of the metric `name`, which takes tables, of a file against the hidden labels, both
    as Kaggle gives them: the submission's columns, without `Usage`, in the solution's order of ids.

    Raises UserError if the metric takes arrays, which needs a competition, or if ids or columns differ.
    """
    import pandas as pd

    path = find_file(name, places)
    function = load_function(name, path)
    if not _takes_tables(function, name, path):
        raise UserError(f"metric={name}: takes (y_true, y_pred); a file is scored by (solution, submission)")
    truth, guess = pd.read_csv(solution), pd.read_csv(submission)
    key = guess.columns[0]
    lacking = [column for column in guess.columns if column not in truth.columns]
    if lacking:
        raise UserError(f"{solution}: has no column {lacking[0]!r}, which {submission} has")
    if sorted(truth[key].astype(str)) != sorted(guess[key].astype(str)) or truth[key].duplicated().any():
        raise UserError(f"{submission} and {solution} have different ids in column {key!r}, or one of them twice")
    guess = guess.set_index(guess[key].astype(str)).loc[truth[key].astype(str)].reset_index(drop=True)
    rest = {"row_id_column_name": key} if "row_id_column_name" in inspect.signature(function).parameters else {}
    try:
        value = float(function(solution=truth[list(guess.columns)], submission=guess, **rest))
    except Exception as error:
        raise UserError(f"{KEY}: {where(error, path)}") from error
    return f"{path.stem}:{function.__name__}", value


def _of(function: Callable[..., Any], name: str, task: Task, sample: Sample) -> Of:
    """What the function looks at: as its attribute says, else what the sample asks for."""
    given = getattr(function, "of", None)
    if given is not None:
        if given not in ("labels", "probabilities", "ranks", "numbers"):
            raise UserError(f"{KEY}={name}: .of is {given!r}; choose labels, probabilities, ranks or numbers")
        return given
    if task.kind == "number":
        return "numbers"
    labels = sample.kind == "labels" or (task.kind == "multi" and len(sample.value_columns) == 1 < len(task.names))
    return "labels" if labels else "probabilities"


def _takes_tables(function: Callable[..., Any], name: str, path: Path) -> bool:
    parameters = list(inspect.signature(function).parameters.values())
    free = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p.name for p in free if p.default is p.empty]
    needed += [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if {"solution", "submission"} <= {p.name for p in free} and set(needed) <= {*TABLES}:
        return True
    if len(free) >= 2 and len(needed) <= 2:
        return False
    raise UserError(
        f"{KEY}={name}: {path}: {function.__name__}{inspect.signature(function)} takes other parameters than "
        "(y_true, y_pred) or (solution, submission, row_id_column_name); give the further ones defaults"
    )


TABLES = ("solution", "submission", "row_id_column_name")


def _of_arrays(function: Callable[..., Any], of: Of) -> Function:
    def called(y: np.ndarray, pred: np.ndarray) -> Any:
        if y.ndim == 1:
            if of == "labels":
                return function(y, pred.argmax(axis=1))
            return function(y, pred[:, 1] if pred.shape[1] == 2 else pred)
        if y.dtype == bool:
            return function(y.astype(np.int64), (pred >= 0.5).astype(np.int64) if of == "labels" else pred)
        if y.shape == pred.shape and y.shape[1] == 1:
            return function(y[:, 0], pred[:, 0])
        return function(y, pred)

    return called


def _of_tables(function: Callable[..., Any], task: Task, sample: Sample) -> Function:
    def called(y: np.ndarray, pred: np.ndarray) -> Any:
        tables = [_table(cells, task, sample) for cells in (perfect(task, y, pred.shape[1]), pred)]
        names = inspect.signature(function).parameters
        rest = {"row_id_column_name": sample.id_column} if "row_id_column_name" in names else {}
        return function(solution=tables[0], submission=tables[1], **rest)

    return called


def perfect(task: Task, y: np.ndarray, columns: int) -> np.ndarray:
    """Targets as the predictions (N, C) that would be right."""
    if y.ndim == 1:
        return np.eye(columns)[y]
    if y.shape[1] == columns:
        return y.astype(np.float64)
    owners = [name.partition("=")[0] for name in task.names.tolist()]
    starts = np.array([owners.index(target) for target in dict.fromkeys(owners)])
    pred = np.zeros((len(y), columns))
    np.put_along_axis(pred, y + starts, 1.0, axis=1)
    return pred


def _table(pred: np.ndarray, task: Task, sample: Sample) -> pd.DataFrame:
    """Predictions in the sample's form, with the types that pandas would read from a file."""
    import pandas as pd

    columns = {sample.id_column: np.arange(len(pred)), **task.submit(pred.astype(np.float64), sample)}
    table = pd.DataFrame({column: columns[column] for column in sample.columns if column in columns})
    for column in sample.value_columns:
        cells = pd.to_numeric(table[column], errors="coerce")
        if cells.notna().all():
            whole = (cells == cells.round()).all() and cells.abs().max() < 2**53
            table[column] = cells.astype(np.int64) if whole and task.kind != "number" else cells
    return table
