"""Where the pictures of a table's rows are: from a column of its cells to a template of paths.

Ways in which a cell can name a file are tried in order, from the plainest: its path, its name, its name without the
extension, a number with zeros before it, the name with something constant around it, a folder of that name, a number
with any zeros.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping

import numpy as np

from src.competition.listings import form_free, number_in
from src.guess.folder import Folder
from src.guess.templates import Place, in_folders, literal, options, shared_folder

LOOKED_AT = 200  # rows; all of them are checked when the table is opened
HINTS = ("file", "path", "image", "img", "name", "id", "uid")


def locate(folder: Folder, columns: Mapping[str, np.ndarray], split: str) -> Place | None:
    """Where the pictures of a table with these columns, each (N,) str, are. split: train or test, whose folders are
    preferred where both have files of the same names. Where some rows have no picture, by the others, if those are
    most. None if no column names pictures."""
    count = len(next(iter(columns.values()), ()))
    rows = np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(int)) if count else np.arange(0)
    if (place := _locate(folder, columns, rows, split)) is not None:
        return place
    for cells in columns.values():
        there = np.array([form_free(_last(cell)) in folder.free for cell in cells[rows].tolist()], bool)
        if 0.5 < there.mean() < 1 and (place := _locate(folder, columns, rows[there], split)) is not None:
            return place
    return None


def _locate(folder: Folder, columns: Mapping[str, np.ndarray], rows: np.ndarray, split: str) -> Place | None:
    some = {name: cells[rows].tolist() for name, cells in columns.items()}
    ranked = sorted(some, key=lambda name: (-len(set(some[name])), _hint(name)))
    for way in (by_path, by_name, by_stem, by_number, by_end_of_path, by_form, by_parts, by_folder, by_value):
        for column in ranked:
            cells = some[column]
            # a table may have several rows per picture, but a label is a folder's name or a part of files' names
            rarely = 0.5 if way in (by_parts, by_folder) else 0.05
            if len(rows) and all(cells) and len(set(cells)) > rarely * len(cells):
                for place in way(folder, column, cells, some, split):
                    return place
    return None


def _hint(name: str) -> int:
    return next((rank for rank, hint in enumerate(HINTS) if hint in name.lower()), len(HINTS))


def by_path(
    folder: Folder, column: str, cells: list[str], some: Mapping[str, list[str]], split: str
) -> Iterator[Place]:
    """The cell is a path, or the end of one, with folders in it."""
    if not all("/" in cell for cell in cells):
        return
    ends: list[list[str]] = []
    for cell in cells:
        base = cell.rpartition("/")[2]
        numbers = folder.names.get(base) or folder.stems.get(base, [])
        paths = [os.fsdecode(folder.images[number]) for number in numbers]
        fitting = [path for path in paths if ("/" + path).endswith("/" + cell) or _bare(path).endswith("/" + cell)]
        ends.append([(path if path.endswith(cell) else _bare(path)[1:])[: -len(cell)].rstrip("/") for path in fitting])
    top = shared_folder(ends, split, folder)
    if top is not None:
        yield Place(f"{literal(top)}/{{{column}}}" if top else f"{{{column}}}", column, f"{column} is the path")


def by_name(
    folder: Folder, column: str, cells: list[str], some: Mapping[str, list[str]], split: str
) -> Iterator[Place]:
    """The cell is a file's name."""
    yield from in_folders(folder, column, [folder.names.get(cell, []) for cell in cells], some, split, "{%s}", "name")


def by_stem(
    folder: Folder, column: str, cells: list[str], some: Mapping[str, list[str]], split: str
) -> Iterator[Place]:
    """The cell is a file's name without its extension."""
    yield from in_folders(
        folder, column, [folder.stems.get(cell, []) for cell in cells], some, split, "{%s}", "name without extension"
    )


def by_number(
    folder: Folder, column: str, cells: list[str], some: Mapping[str, list[str]], split: str
) -> Iterator[Place]:
    """The cell is a number, which the file's name has with zeros before it."""
    if not all(cell.isdigit() for cell in cells):
        return
    for width in range(2, 13):
        found = [folder.stems.get(cell.zfill(width), []) for cell in cells]
        yield from in_folders(folder, column, found, some, split, f"{{%s:0{width}}}", f"number of {width} digits")


def by_value(
    folder: Folder, column: str, cells: list[str], some: Mapping[str, list[str]], split: str
) -> Iterator[Place]:
    """The cell is a number, which the file's name has with more or fewer zeros before it, not the same width in all."""
    numbers = [number_in(form_free(cell)) for cell in cells]
    if None in numbers:
        return
    known: dict[str | None, list[int]] = {}
    for form, places in folder.free.items():
        known.setdefault(number_in(form), []).extend(places)
    found = [known.get(number, []) for number in numbers]
    yield from in_folders(folder, column, found, some, split, "{%s}", "number with other zeros before it")


def by_parts(
    folder: Folder, column: str, cells: list[str], some: Mapping[str, list[str]], split: str
) -> Iterator[Place]:
    """The file's name has something constant around the cell; several such names are the channels of one picture."""
    for digits in (0, *(range(2, 13) if all(cell.isdigit() for cell in cells) else ())):
        written = [cell.zfill(digits) if digits else cell for cell in cells]
        field = f"{{{column}:0{digits}}}" if digits else f"{{{column}}}"
        around = [
            (before, after)
            for before, after in _around(folder, written[0])
            if all(before + cell + after in folder.stems for cell in written)
        ]
        if not around:
            continue
        before = around[0][0]
        afters = sorted(after for b, after in around if b == before)
        found = [folder.stems[before + cell + afters[0]] for cell in written]
        form = literal(before) + "%s" + (literal(afters[0]) if len(afters) == 1 else options(afters))
        form = form.replace("%s", field)
        way = "part of the name" if len(afters) == 1 else f"{len(afters)} files per picture, its channels"
        yield from in_folders(folder, column, found, some, split, form.replace("%", "%%"), way)


def by_end_of_path(
    folder: Folder, column: str, cells: list[str], some: Mapping[str, list[str]], split: str
) -> Iterator[Place]:
    """The cell is a path of another machine, of which the file's name is left."""
    names = [cell.replace("\\", "/").rpartition("/")[2] for cell in cells]
    if all(name != cell for name, cell in zip(names, cells, strict=True)):
        for known, form in ((folder.names, "{%s.name}"), (folder.stems, "{%s.stem}")):
            found = [known.get(name if form.endswith("name}") else os.path.splitext(name)[0], []) for name in names]
            yield from in_folders(folder, column, found, some, split, form, "end of the path")


def by_form(
    folder: Folder, column: str, cells: list[str], some: Mapping[str, list[str]], split: str
) -> Iterator[Place]:
    """The cell is a file's name, or ends with it, in another case, with another extension or with other accents."""
    found = [folder.free.get(form_free(_last(cell)), []) for cell in cells]
    form = "{%s}" if all(_last(cell) == cell for cell in cells) else "{%s.name}"
    yield from in_folders(folder, column, found, some, split, form, "name in another form (case, extension, accents)")


def by_folder(
    folder: Folder, column: str, cells: list[str], some: Mapping[str, list[str]], split: str
) -> Iterator[Place]:
    """A folder has the cell as its name and holds the one picture, or the same few names, its channels, every time."""
    below: dict[str, list[str]] = {}
    for path in map(os.fsdecode, folder.images):
        parts = path.split("/")
        for at in range(len(parts) - 1):
            below.setdefault("/".join(parts[: at + 1]), []).append("/".join(parts[at + 1 :]))
    by_last: dict[str, list[str]] = {}
    for directory in below:
        by_last.setdefault(directory.rpartition("/")[2], []).append(directory)
    tops = [[directory.rpartition("/")[0] for directory in by_last.get(cell, [])] for cell in cells]
    top = shared_folder(tops, split, folder)
    if top is None:
        return
    start = f"{literal(top)}/{{{column}}}/" if top else f"{{{column}}}/"
    inside = [sorted(below[f"{top}/{cell}" if top else cell]) for cell in cells]
    if all(names == inside[0] for names in inside) and len({name.rpartition("/")[0] for name in inside[0]}) == 1:
        names = inside[0]
        where, _, _ = names[0].rpartition("/")
        last = options([name.rpartition("/")[2] for name in names]) if len(names) > 1 else literal(names[0])
        way = f"{len(names)} files per picture, its channels" if len(names) > 1 else "folder of the picture"
        yield Place(start + (f"{literal(where)}/" if where and len(names) > 1 else "") + last, column, way)


def _around(folder: Folder, cell: str) -> list[tuple[str, str]]:
    """(before, after) of the cell in names without extension that hold it as a whole word."""
    whole = re.compile(rf"(?<![A-Za-z0-9]){re.escape(cell)}(?![A-Za-z0-9])|(?<!\d){re.escape(cell)}(?!\d)")
    found: dict[tuple[str, str], None] = {}
    for stem in folder.stems:
        if cell in stem:
            for match in whole.finditer(stem):
                found[stem[: match.start()], stem[match.end() :]] = None
    return sorted(found, key=lambda parts: (len(parts[0]) + len(parts[1]), parts))[:400]


def _last(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def _bare(path: str) -> str:
    return "/" + os.path.splitext(path)[0]
