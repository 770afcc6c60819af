"""What lies in an unknown folder: its images by name, and its tables, read as strings."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from src.archives import walk_files
from src.competition.csv_file import open_rows
from src.competition.listings import form_free, is_image
from src.competition.sample import UNNAMED, counts_rows
from src.competition.table_file import JSON, TABLES, read_arrays, read_columns, read_header
from src.errors import UserError

PEEK = 50  # rows of a csv file that are looked at before all of it is read
LABEL = b".cls"  # of a file beside a picture, with its class and nothing else
NUMBERED = re.compile(r"(.*?)_?(\d+)$")
LARGEST = 4 << 30  # bytes of a table that is read as a whole


@dataclass(frozen=True)
class Folder:
    """images: paths below root, bytes. names, stems: from a file name, with and without its extension, to numbers of
    images. tables: names of table files."""

    root: Path
    images: list[bytes]
    tables: list[str]
    names: dict[str, list[int]] = field(default_factory=dict)
    stems: dict[str, list[int]] = field(default_factory=dict)
    free: dict[str, list[int]] = field(default_factory=dict)  # by `form_free` of the name
    label_file: str = ""  # a file that holds the label of the picture beside it, as in shards of WebDataset

    def folders(self) -> Counter[str]:
        """Number of images by folder."""
        return Counter(os.fsdecode(path.rpartition(b"/")[0]) for path in self.images)


def look_at(root: Path) -> Folder:
    """List the folder; nothing is opened but archives."""
    images, tables, label_file = [], [], ""
    for path in walk_files(root):
        if is_image(path):
            images.append(path)
        elif os.fsdecode(path).lower().endswith(TABLES):
            tables.append(os.fsdecode(path))
        elif path.lower().endswith(LABEL):
            label_file = label_file or os.fsdecode(path)
    images.sort()
    # what a shard holds beside each picture, 000123.json beside 000123.jpg, is no table of rows
    if any(path.endswith(JSON) for path in tables):
        pictured = {os.path.splitext(path)[0] for path in map(os.fsdecode, images)}
        tables = [path for path in tables if not (path.endswith(JSON) and os.path.splitext(path)[0] in pictured)]
    found = Folder(root, images, sorted(tables, key=lambda path: (path.count("/"), path)), label_file=label_file)
    for number, path in enumerate(images):
        name = os.fsdecode(path.rpartition(b"/")[2])
        found.names.setdefault(name, []).append(number)
        found.stems.setdefault(os.path.splitext(name)[0], []).append(number)
        found.free.setdefault(form_free(name), []).append(number)
    return found


@dataclass(frozen=True)
class Table:
    """columns: name -> (N,) str, in the order of the file. pixels: columns that hold the values of the pictures, one
    number or one list of numbers per row; they are not read. file: relative to the root."""

    file: str
    columns: dict[str, np.ndarray]
    pixels: tuple[str, ...] = ()

    def holding(self, values: set[str]) -> list[str]:
        """The columns whose cells are these values, all of them and no other."""
        return [name for name, cells in self.columns.items() if set(cells.tolist()) == values]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0


def read_table(root: Path, file: str) -> Table | None:
    """The table in a file, without its columns of pixels; None for what is no table."""
    try:
        return open_table(root, file, file)
    except UserError:
        return None


def open_table(root: Path, file: str, key: str) -> Table | None:
    """`read_table`, which raises UserError for what is no table; None for one that is too large. key: the configuration
    key that leads to the file, for the messages."""
    path = root / file
    if path.is_file() and path.stat().st_size > LARGEST:
        return None
    header = read_header(path, key)
    pixels = tuple(read_arrays(path, file)) or pixel_columns(path, header)
    rest = [name for name in header if name not in pixels]
    columns = without_index(read_columns(path, rest, key)) if rest else {}
    if not rest:  # nothing but pixels: as many rows as there are
        count = len(read_columns(path, [header[0]], key)[header[0]])
        columns = {"": np.arange(1, count + 1).astype(np.str_)}
    return Table(file, columns, pixels)


def without_index(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns but the row numbers that pandas writes beside them, where another column tells the rows apart."""
    named = [cells for name, cells in columns.items() if not UNNAMED.fullmatch(name)]
    if not any(len(np.unique(cells)) == len(cells) for cells in named):
        return columns
    return {name: cells for name, cells in columns.items() if not (UNNAMED.fullmatch(name) and counts_rows(cells))}


def pixel_columns(path: Path, header: tuple[str, ...]) -> tuple[str, ...]:
    """Columns pixel0, pixel1 … of a csv file, 64 or more of one beginning, or those whose cells hold many numbers."""
    beginnings: dict[str, list[str]] = {}
    for name in header:
        if match := NUMBERED.match(name):
            beginnings.setdefault(match[1], []).append(name)
    longest = max(beginnings.values(), key=len, default=[])
    if len(longest) >= 64:
        return tuple(longest)
    if path.suffix.lower() not in (".csv", ".tsv"):
        return ()
    with open_rows(path, "competition.train_csv") as lines:
        rows = [row for row, _ in zip(lines, range(PEEK), strict=False)][1:]
    cells = {name: [row[at] for row in rows if at < len(row)] for at, name in enumerate(header)}
    return tuple(name for name, values in cells.items() if values and all(map(_holds_pixels, values)))


def _holds_pixels(cell: str) -> bool:
    words = cell.replace(",", " ").strip("[] ").split()
    return len(words) >= 64 and all(re.fullmatch(r"-?[\d.]+(e-?\d+)?", word) for word in words[:64])
