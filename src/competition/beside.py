"""Columns beside the pictures (age, site, measured numbers), for models of the second level."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.competition.long_table import names_in
from src.competition.table_file import is_there, read_columns, read_header
from src.competition.table_rows import Columns
from src.competition.tables import Competition
from src.config import CompetitionConfig
from src.errors import UserError, nearest
from src.ids import find_rows


def columns_beside(keys: CompetitionConfig, competition: Competition, names: Sequence[str]) -> tuple[Columns, Columns]:
    """The columns of that name of the training and of the test table, each (N,) and (M,) str, in the rows' order.

    Raises UserError for a column that one of them lacks: nothing may be learnt from what the test rows do not have.
    """
    train = competition.root / (keys.train_csv or "")
    if keys.train_csv is None or not is_there(competition.root, keys.test_csv):
        raise UserError(
            "features: columns: there is no table of the test rows, so they have no columns beside the images"
        )
    own, key = competition.train.ids, "competition.train_csv"
    of_train = _found(train, key, competition.id_column, own, names, keys, competition)
    return of_train, columns_of_test_rows(keys, competition, names)


def columns_of_test_rows(keys: CompetitionConfig, competition: Competition, names: Sequence[str]) -> Columns:
    """The columns of that name of the test table, each (M,) str, in the rows' order. Raises UserError."""
    path = competition.root / (keys.test_csv or "")
    if not is_there(competition.root, keys.test_csv):
        raise UserError(f"features: columns: {', '.join(names)} of the test rows are needed, but there is no {path}")
    ids = competition.test.ids
    return _found(path, "competition.test_csv", keys.test_id_column, ids, names, keys, competition)


def _found(
    path: Path,
    key: str,
    id_column: str | None,
    ids: np.ndarray,
    names: Sequence[str],
    keys: CompetitionConfig,
    competition: Competition,
) -> Columns:
    targets = {keys.target_column, *keys.target_columns, competition.target_column, *competition.task.names.tolist()}
    header = read_header(path, key)
    for name in names:
        if name not in header or name in targets:
            usable = [other for other in header if other not in targets]
            why = "is the target" if name in targets else f"is not in {path.name}"
            raise UserError(
                f"features: column {name!r} {why}{nearest(name, usable)}; only columns that the training and "
                f"the test rows have can be learnt from ({', '.join(usable)})"
            )

    # ---- by id; tables without ids have their rows in the order of the competition's ---------------------------------
    column = id_column
    if column is None:
        column = competition.id_column if competition.id_column in header else competition.sample.id_column
    if column == "":
        return read_columns(path, names, key)
    columns = read_columns(path, [column, *names], key)
    rows = find_rows(columns[column], ids)
    for template in (keys.long, keys.rows):  # a table with a row per picture and target
        if (rows < 0).any() and template is not None and "{target}" in template:
            pictures, _ = names_in(columns[column], template)
            first, place = np.unique(pictures, return_index=True)
            rows = place[find_rows(first, ids)]
    if (rows < 0).any():
        raise UserError(f"{path}: column {column!r} lacks id {str(ids[rows < 0][0])!r}; see competition.id_column=")
    return {name: columns[name][rows] for name in names}
