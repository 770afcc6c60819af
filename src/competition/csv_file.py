"""Reading columns of a csv file as strings, strictly, and replacing a file in one step.

The csv module instead of pandas: ids keep their leading zeros, a row with a stray comma is an error with its line
number instead of a shifted table, and 0.3 s of import is saved.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from src.artefacts import replacing
from src.errors import UserError, first_few, nearest


def read_header(path: Path, key: str) -> tuple[str, ...]:
    """The column names of a csv file. `key` is the configuration key that leads to the file, for the messages.

    Raises UserError if the file is missing, unreadable or empty, or if a column is nameless or occurs twice.
    """
    with _rows(path, key) as rows:
        header = tuple(name.strip() for name in next((row for row in rows if any(row)), ()))
    if not header:
        raise UserError(f"{path}: the file is empty; it needs a line of column names ({key}=)")
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise UserError(f"{path}: column {repeated[0]!r} occurs more than once; rename or remove one of them")
    return header


def read_columns(path: Path, columns: Sequence[str], key: str, required: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The named columns of a csv file, each (N,) str, stripped of surrounding whitespace; N >= 1.

    BOM and CRLF are understood and blank lines are skipped. Raises UserError if a column is missing, if a row has
    another number of fields than the header, if there are no rows, or if a cell of a `required` column is empty.
    """
    header = read_header(path, key)
    where = [column_position(name, header, path, key) for name in columns]
    wanted = list(zip(columns, where, [name in required for name in columns], strict=True))
    values: dict[str, list[str]] = {name: [] for name in columns}
    width = len(header)
    with _rows(path, key) as rows:
        next(row for row in rows if any(row))  # the header
        for row in rows:
            if len(row) != width:
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) < width or any(cell.strip() for cell in row[width:]):
                    raise UserError(
                        f"{path} line {rows.line_num}: fields: {len(row)}, but the header has {width}; "
                        "put values that hold a comma in double quotes"
                    )
            for name, position, needed in wanted:
                cell = row[position].strip()
                if needed and not cell:
                    raise UserError(f"{path} line {rows.line_num}: empty {name!r}; fill it in or remove the row")
                values[name].append(cell)
    if columns and not values[columns[0]]:
        raise UserError(f"{path}: the file has column names but no rows; check {key}=")
    # One column at a time, so that the strings of one and the array of another are never all in memory.
    return {name: np.array(values.pop(name), dtype=np.str_) for name in columns}


def column_position(name: str, header: Sequence[str], path: Path, key: str) -> int:
    """Where the column stands; UserError with the nearest name and the list of columns if it is missing."""
    if name not in header:
        raise UserError(f"{path}: no column {name!r}{nearest(name, header)} (columns: {', '.join(header)}; see {key}=)")
    return list(header).index(name)


def refuse_repeats(ids: np.ndarray, path: Path | str) -> None:
    """UserError with the count and the first few if an id of `ids` (N,) str occurs more than once."""
    if len(set(ids.tolist())) == len(ids):
        return
    unique, counts = np.unique(ids, return_counts=True)
    repeated = unique[counts > 1].tolist()
    noun = "id occurs" if len(repeated) == 1 else "ids occur"
    raise UserError(f"{path}: {len(repeated)} {noun} more than once ({first_few(repeated)}); keep one row of each")


def difference(ids: np.ndarray, others: np.ndarray) -> list[str]:
    """The elements of `ids` (N,) str that are not in `others` (M,) str, in the order of `ids`."""
    known = set(others.tolist())
    return [item for item in ids.tolist() if item not in known]


def replace_file(path: Path, write: Callable[[TextIO], Any]) -> None:
    """Let `write` fill a new file, then put it in the place of `path` in one step: a reader never sees half of it.

    Makes the folder if need be. If `write` raises, the old file stays. Raises UserError if the disk refuses.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        write(file)


@contextmanager
def _rows(path: Path, key: str) -> Iterator[Any]:
    """A csv reader over the file; whatever goes wrong while it is used becomes a UserError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, skipinitialspace=True, strict=True)
            try:
                yield rows
            except csv.Error as error:
                raise UserError(f"{path} line {rows.line_num}: not valid csv ({error}); check the quotes") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; save the file as UTF-8 csv ({key}=)") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); see competition.root= and {key}=") from None
