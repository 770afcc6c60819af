"""The rows of a competition's tables: their ids, and the columns that are in use, whatever form the tables have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.competition.csv_file import column_position, refuse_repeats
from src.competition.images import rows_from_images, template_fields
from src.competition.kinds import KINDS
from src.competition.links import TARGET
from src.competition.long_table import names_in, pivot
from src.competition.sample import INDEX, Sample, read_sample
from src.competition.table_file import is_there, read_columns, read_header
from src.config import CompetitionConfig
from src.errors import UserError
from src.ids import find_rows

Columns = dict[str, np.ndarray]


def open_sample(keys: CompetitionConfig, root: Path) -> Sample:
    """The sample submission; without one, a label for each row of the test table, or each picture in the folder
    `test_images`."""
    if keys.sample_csv is not None:
        return read_sample(root / keys.sample_csv, keys.sample_id_column, keys)
    if is_there(root, keys.test_csv):
        path = root / str(keys.test_csv)
        column = keys.test_id_column or keys.id_column or read_header(path, "competition.test_csv")[0]
        ids = read_columns(path, [column], "competition.test_csv", required=[column])[column]
    else:
        template = keys.test_images if "{" in keys.test_images else f"{keys.test_images}/{{id}}"
        column, ids = "id", rows_from_images(root, template, "competition.test_images")["id"]
    return Sample((column, keys.target_column or "label"), ids, "labels", positive=keys.positive, guesses=keys.guesses)


def training_columns(keys: CompetitionConfig, root: Path, id_column: str, sample: Sample) -> tuple[Columns, list[str]]:
    """The columns in use, each (N,) str, and which of them are the targets."""
    if keys.train_csv is None:
        columns = rows_from_images(root, keys.train_images, "competition.train_images")
        return columns, [keys.target_column or "label"]
    path = root / keys.train_csv
    header = read_header(path, "competition.train_csv")
    numbered = id_column == ""
    for name, key in (
        (None if numbered else id_column, "competition.id_column"),
        (None if keys.group_csv else keys.group_column, "competition.group_column"),
        (keys.target_column, "competition.target_column"),
        *((name, "competition.target_columns") for name in keys.target_columns if not keys.long),
    ):
        if name is not None:
            column_position(name, header, path, key)
    kind = KINDS[keys.kind]
    asked = sample.value_columns  # among which may be a column that is called index
    others = [name for name in header if name not in (id_column, keys.group_column)]
    others = [name for name in others if name in asked or not INDEX.fullmatch(name)]
    if keys.long:
        targets = kind.target_columns(keys.target_column, others, sample, path)
        beside = [] if "{" in keys.long else [keys.long]
    elif keys.target_columns:
        targets, beside = list(keys.target_columns), []
    else:
        targets, beside = kind.target_columns(keys.target_column, others, sample, path), []
    grouped = [keys.group_column] if keys.group_column is not None and keys.group_csv is None else []
    used = [*([] if numbered else [id_column]), *targets, *grouped, *beside]
    fields = [name for name in template_fields(keys.rows, "competition.rows") if name in header]
    required = used if kind.needs_a_cell else [name for name in used if name not in targets]
    columns = _columns(
        path, header, [*used, *fields], required, keys.train_images, "competition.train_images", "competition.train_csv"
    )
    if numbered:
        count = len(columns[used[0]])
        columns[id_column] = np.array([f"train-{row + 1}" for row in range(count)], dtype=np.str_)
    if keys.group_csv is not None and keys.group_column is not None:
        columns[keys.group_column] = _groups_of_another(keys, root, id_column, columns[id_column])
    if keys.long:
        columns, targets = pivot(columns, str(path), id_column, keys.long, targets[0])
        wanted = list(keys.target_columns) or targets
        targets = [name for name in wanted if name in targets]
    return columns, targets


def _groups_of_another(keys: CompetitionConfig, root: Path, id_column: str, ids: np.ndarray) -> np.ndarray:
    """(N,) str: the group of each row, from a table of its own."""
    path, column = root / str(keys.group_csv), str(keys.group_column)
    table = read_columns(path, [id_column, column], "competition.group_csv", required=[id_column, column])
    rows = find_rows(table[id_column], ids)
    if (rows < 0).any():
        raise UserError(f"{path}: lacks id {str(ids[rows < 0][0])!r}, so it has no group; see competition.group_csv=")
    return table[column][rows]


def _columns(
    path: Path,
    header: tuple[str, ...],
    used: list[str],
    required: list[str],
    template: str,
    images_key: str,
    key: str,
) -> Columns:
    """The columns in use, plus those that the image template names; all but those not `required` have no empty cell."""
    named = [field for field in template_fields(template, images_key) if field != "id"]
    for field in named:
        column_position(field, header, path, images_key)
    wanted = list(dict.fromkeys([*used, *named]))
    return read_columns(path, wanted, key, required=list(dict.fromkeys([*required, *named])))


def words_of_repeats(columns: Columns, id_column: str, names: Sequence[str]) -> Columns:
    """A row per id where the table has several: their cells of the columns `names` as words, each once; the other
    columns as in an id's first row."""
    ids, first, of_id = np.unique(columns[id_column], return_index=True, return_inverse=True)
    if len(ids) == len(columns[id_column]):
        return columns
    order, found = np.argsort(first), {}
    for name, cells in columns.items():
        if name not in names:
            found[name] = cells[first[order]]
            continue
        words: list[dict[str, None]] = [{} for _ in ids]
        for at, cell in zip(of_id.reshape(-1).tolist(), cells.tolist(), strict=True):
            words[at][cell] = None
        found[name] = np.array([_barred(list(words[at])) for at in order.tolist()], dtype=np.str_)
    return found


def _barred(words: list[str]) -> str:
    """Between bars, also behind a single one that holds a space and is not to be taken for two."""
    return "|".join(words) + ("|" if len(words) == 1 and " " in words[0] else "")


def test_columns(keys: CompetitionConfig, root: Path, sample: Sample, id_column: str) -> tuple[Path, Columns]:
    """The table of the test rows, and its columns that are in use, the ids also as "id"; without one, the sample's.

    A table in long form (a row per picture and target) is cut down to its pictures.
    """
    path = root / (keys.test_csv or "")
    if not is_there(root, keys.test_csv):
        path = root / (keys.sample_csv or keys.test_images)
        long = TARGET in template_fields(keys.rows, "competition.rows")
        ids = np.unique(names_in(sample.ids, keys.rows)[0]) if long else sample.ids
        return path, {"id": ids, id_column: ids}
    header = read_header(path, "competition.test_csv")
    if keys.test_id_column == "":  # no ids: as many rows, in the same order
        used = [name for name in template_fields(keys.test_images, "competition.test_images") if name != "id"]
        columns = read_columns(path, used or [header[0]], "competition.test_csv")
        rows = len(next(iter(columns.values())))
        if rows != len(sample.ids):
            raise UserError(
                f"{path} has {rows} rows and the sample {len(sample.ids)}; without ids they must be the same rows "
                "(competition.test_id_column=)"
            )
        return path, {**columns, "id": sample.ids}
    column = keys.test_id_column or (id_column if id_column in header else sample.id_column)
    column_position(
        column, header, path, "competition.test_id_column" if keys.test_id_column else "competition.id_column"
    )
    fields = [name for name in template_fields(keys.rows, "competition.rows") if name not in ("id", TARGET)]
    for name in fields:
        column_position(name, header, path, "competition.rows")
    used = [column, *fields]
    columns = _columns(path, header, used, used, keys.test_images, "competition.test_images", "competition.test_csv")
    if TARGET in template_fields(keys.rows, "competition.rows"):
        if set(columns[column].tolist()) == set(sample.ids.tolist()):
            columns[column] = names_in(columns[column], keys.rows)[0]
        _, first = np.unique(columns[column], return_index=True)
        columns = {name: cells[np.sort(first)] for name, cells in columns.items()}
    refuse_repeats(columns[column], path)
    return path, {**columns, "id": columns[column]}
