"""Reading columns of a csv file as strings, strictly, and replacing a file in one step.

The csv module instead of pandas: ids keep their leading zeros, a row with a stray comma is an error with its line
number instead of a shifted table, and 0.3 s of import is saved. Plain files are read by column (plain_csv.py).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np

from src.archives import read_bytes
from src.competition.plain_csv import read_plain
from src.errors import UserError, counted, first_few, nearest
from src.files import replacing
from src.ids import are_unique

LONGEST = 1000  # characters of an id or label: NumPy gives every row the room of the longest
AT_A_TIME = 50_000  # rows
LOOKED_AT = 2048  # bytes at a file's start
MAGIC = {
    b"PK\x03\x04": "a zip archive or Excel workbook",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"PAR1": "a Parquet file",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}


def read_header(path: Path, key: str) -> tuple[str, ...]:
    """The column names of a csv file. `key` is the configuration key that leads to the file, for the messages.

    Columns without a name at the end of the line (`id,label,,`) are none, where no row has anything in them.
    Raises UserError if the file is missing, unreadable, empty or something else than csv, or if a column occurs twice.
    """
    with open_rows(path, key) as rows:
        header = tuple(name.strip() for name in next((row for row in rows if any(row)), ()))
    if not header:
        raise UserError(f"{path}: the file is empty; it needs a line of column names ({key}=)")
    while len(header) > 1 and not header[-1]:
        header = header[:-1]
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise UserError(f"{path}: column {repeated[0]!r} occurs more than once; rename or remove one of them")
    return header


def read_columns(path: Path, columns: Sequence[str], key: str, required: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The named columns of a csv file, each (N,) str, stripped of surrounding whitespace; N >= 1.

    BOM and CRLF are understood; blank lines, and those of separators alone, are skipped. Raises UserError if a column
    is missing, if a row has another number of fields than the header or repeats it, if there are no rows, or if a cell
    of a `required` column is empty, holds a line break or is longer than LONGEST.
    """
    header = read_header(path, key)
    where = [column_position(name, header, path, key) for name in columns]
    wanted = list(zip(columns, where, [name in required for name in columns], strict=True))
    with _open(path) as file:
        mark = _between(file.read(LOOKED_AT))
        file.seek(0)
        plain = read_plain(file, header, where, [needed for _, _, needed in wanted], mark, LONGEST)
    if plain is not None:
        return dict(zip(columns, plain, strict=True))
    values: dict[str, list[str]] = {name: [] for name in columns}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    width = len(header)
    with open_rows(path, key) as rows:
        next(row for row in rows if any(row))  # the header
        for row in rows:
            if not any(cell.strip() for cell in row) and (width > 1 or len(row) != 1):
                continue  # a blank line, or one of nothing but separators, as spreadsheets leave at the end
            if len(row) < width or any(cell.strip() for cell in row[width:]):
                raise UserError(
                    f"{path} line {rows.line_num}: fields: {len(row)}, but the header has {width}; "
                    "put values that hold a comma in double quotes, or name the column"
                )
            if width > 1 and tuple(cell.strip() for cell in row[:width]) == header:
                raise UserError(f"{path} line {rows.line_num}: the column names again; remove the line")
            for name, position, needed in wanted:
                cell = row[position].strip()
                if needed and not (cell.isprintable() and 0 < len(cell) <= LONGEST):
                    _complain(cell, f"{path} line {rows.line_num}", name)
                values[name].append(cell)
            if columns and len(values[columns[0]]) == AT_A_TIME:  # few strings of Python are in memory at any time
                _put(values, parts)
    _put(values, parts)
    if columns and not parts[columns[0]]:
        raise UserError(f"{path}: the file has column names but no rows; check {key}=")
    return {name: np.concatenate(parts.pop(name)) for name in columns}


def _put(values: dict[str, list[str]], parts: dict[str, list[np.ndarray]]) -> None:
    for name, cells in values.items():
        if cells:
            parts[name].append(np.array(cells, dtype=np.str_))
            cells.clear()


def column_position(name: str, header: Sequence[str], path: Path, key: str) -> int:
    """Where the column stands; UserError with the nearest name and the list of columns if it is missing."""
    if name not in header:
        raise UserError(f"{path}: no column {name!r}{nearest(name, header)} (columns: {', '.join(header)}; see {key}=)")
    return list(header).index(name)


def refuse_repeats(ids: np.ndarray, path: Path | str) -> None:
    """UserError with the count and the first few if an id of `ids` (N,) str occurs more than once."""
    if are_unique(ids):
        return
    unique, counts = np.unique(ids, return_counts=True)
    repeated = unique[counts > 1].tolist()
    several = counted(len(repeated), "id occurs", "ids occur")
    raise UserError(f"{path}: {several} more than once ({first_few(repeated)}); keep one row of each")


def replace_file(path: Path, write: Callable[[TextIO], Any]) -> None:
    """Let `write` fill a new file, then put it in the place of `path` in one step: a reader never sees half of it.

    Makes the folder if need be. If `write` raises, the old file stays. Raises UserError if the disk refuses.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        write(file)


def _complain(cell: str, place: str, name: str) -> None:
    """UserError for a cell that is no id or label. Not all that Python calls unprintable is a control character."""
    if not cell:
        raise UserError(f"{place}: empty {name!r}; fill it in or remove the row")
    if len(cell) > LONGEST:
        raise UserError(f"{place}: {name!r} has {len(cell)} characters ({cell[:40]!r} …); check the quotes before it")
    if any(ord(letter) < 32 or letter in "\x7f\x85\u2028\u2029" for letter in cell):
        raise UserError(f"{place}: {name!r} is {cell[:40]!r}, with a line break or control character; check the quotes")


def _looks_like(start: bytes) -> str:
    """What a file that begins so is, if it is surely no csv file; else nothing."""
    for magic, kind in MAGIC.items():
        if start.startswith(magic):
            return kind
    web = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return "a web page" if web.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")) else ""


def _open(path: Path) -> BinaryIO:
    """The file, which may lie in an archive (labels.csv.zip/labels.csv)."""
    try:
        return path.open("rb")
    except NotADirectoryError:
        return BytesIO(read_bytes("", os.fsencode(path)))


def _between(start: bytes) -> str:
    """What stands between the columns of a file that begins so: the first of comma, tab, semicolon, bar and space that
    cuts its first lines into equally many parts; else a comma, for the message."""
    lines = start.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").splitlines()
    whole = [line for line in (lines if len(start) < LOOKED_AT else lines[:-1]) if line.strip()][:5]
    for mark in ",\t;| ":
        try:
            parts = {len(row) for row in csv.reader(whole, skipinitialspace=True, strict=True, delimiter=mark)}
        except csv.Error:
            continue
        if len(whole) > 1 and len(parts) == 1 and min(parts) > 1:
            return mark
    return next((mark for mark in ",\t;|" if lines and mark in lines[0]), ",")


def _without_nul(file: TextIO) -> Iterator[str]:
    """The lines; csv would let a NUL pass, and NumPy drop it, so that two ids became one."""
    for line in file:
        if "\0" in line:
            raise csv.Error("a NUL byte")
        yield line


@contextmanager
def open_rows(path: Path, key: str) -> Iterator[Any]:
    """A csv reader over the file, whose columns may stand between tabs, semicolons, bars or spaces; whatever goes wrong
    while it is used becomes a UserError."""
    try:
        with _open(path) as raw:
            start = raw.read(LOOKED_AT)
        kind = _looks_like(start)
        if kind:
            raise UserError(f"{path}: this is {kind}, not csv; save or unpack it as csv, or download it again ({key}=)")
        with _open(path) as raw, TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(_without_nul(file), skipinitialspace=True, strict=True, delimiter=_between(start))
            try:
                yield rows
            except csv.Error as error:
                place = f"{path} line {max(1, rows.line_num)}"
                raise UserError(f"{place}: not valid csv ({error}); check the quotes, or save it again") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; save the file as UTF-8 csv ({key}=)") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); see competition.root= and {key}=") from None
