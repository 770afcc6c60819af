"""Where the pictures of a table's rows are: from a column of its cells to a template of paths.

Ways in which a cell can name a file are tried in order, from the plainest: its path, its name, its name without the
extension, a number with zeros before it, the name with something constant around it, a folder of that name, a number
with any zeros.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from src.archives import ARCHIVES
from src.competition.listings import form_free, number_in
from src.guess.folder import Folder

LOOKED_AT = 200  # rows; all of them are checked when the table is opened
HINTS = ("file", "path", "image", "img", "name", "id", "uid")
SPLITS = {"train": ("train",), "test": ("test", "eval", "unlabel", "private", "public")}
COLOURS = ("red", "r", "green", "g", "blue", "b", "yellow", "y")  # of files that are one picture's channels, in order
PLAIN_FIRST = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".npy", ".npz", ".dcm")


@dataclass(frozen=True)
class Place:
    """template: for `competition.images.find_images`; column: which names the pictures; way: how, in words."""

    template: str
    column: str
    way: str


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


# ---- ways -----------------------------------------------------------------------------------------------------------


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
    top = _constant(ends, split, folder)
    if top is not None:
        yield Place(f"{_literal(top)}/{{{column}}}" if top else f"{{{column}}}", column, f"{column} is the path")


def by_name(
    folder: Folder, column: str, cells: list[str], some: Mapping[str, list[str]], split: str
) -> Iterator[Place]:
    """The cell is a file's name."""
    yield from _in_folders(folder, column, [folder.names.get(cell, []) for cell in cells], some, split, "{%s}", "name")


def by_stem(
    folder: Folder, column: str, cells: list[str], some: Mapping[str, list[str]], split: str
) -> Iterator[Place]:
    """The cell is a file's name without its extension."""
    yield from _in_folders(
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
        yield from _in_folders(folder, column, found, some, split, f"{{%s:0{width}}}", f"number of {width} digits")


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
    yield from _in_folders(folder, column, found, some, split, "{%s}", "number with other zeros before it")


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
        form = _literal(before) + "%s" + (_literal(afters[0]) if len(afters) == 1 else _options(afters))
        form = form.replace("%s", field)
        way = "part of the name" if len(afters) == 1 else f"{len(afters)} files per picture, its channels"
        yield from _in_folders(folder, column, found, some, split, form.replace("%", "%%"), way)


def by_end_of_path(
    folder: Folder, column: str, cells: list[str], some: Mapping[str, list[str]], split: str
) -> Iterator[Place]:
    """The cell is a path of another machine, of which the file's name is left."""
    names = [cell.replace("\\", "/").rpartition("/")[2] for cell in cells]
    if all(name != cell for name, cell in zip(names, cells, strict=True)):
        for known, form in ((folder.names, "{%s.name}"), (folder.stems, "{%s.stem}")):
            found = [known.get(name if form.endswith("name}") else os.path.splitext(name)[0], []) for name in names]
            yield from _in_folders(folder, column, found, some, split, form, "end of the path")


def by_form(
    folder: Folder, column: str, cells: list[str], some: Mapping[str, list[str]], split: str
) -> Iterator[Place]:
    """The cell is a file's name, or ends with it, in another case, with another extension or with other accents."""
    found = [folder.free.get(form_free(_last(cell)), []) for cell in cells]
    form = "{%s}" if all(_last(cell) == cell for cell in cells) else "{%s.name}"
    yield from _in_folders(folder, column, found, some, split, form, "name in another form (case, extension, accents)")


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
    top = _constant(tops, split, folder)
    if top is None:
        return
    start = f"{_literal(top)}/{{{column}}}/" if top else f"{{{column}}}/"
    inside = [sorted(below[f"{top}/{cell}" if top else cell]) for cell in cells]
    if all(names == inside[0] for names in inside) and len({name.rpartition("/")[0] for name in inside[0]}) == 1:
        names = inside[0]
        where, _, _ = names[0].rpartition("/")
        last = _options([name.rpartition("/")[2] for name in names]) if len(names) > 1 else _literal(names[0])
        way = f"{len(names)} files per picture, its channels" if len(names) > 1 else "folder of the picture"
        yield Place(start + (f"{_literal(where)}/" if where and len(names) > 1 else "") + last, column, way)


# ---- folders --------------------------------------------------------------------------------------------------------


def _in_folders(
    folder: Folder,
    column: str,
    found: Sequence[list[int]],
    some: Mapping[str, list[str]],
    split: str,
    form: str,
    way: str,
) -> Iterator[Place]:
    """The template for files `found` by row: in one folder, in one that another column names, or in any below one.

    form: of the file's name, with %s for the column.
    """
    if not all(found):
        return
    name = form % column if "%s" in form else form % ()
    where = [[os.fsdecode(folder.images[number].rpartition(b"/")[0]) for number in numbers] for numbers in found]
    constant = _constant(where, split, folder)
    if constant is not None:
        plain = name == f"{{{column}}}" and constant
        extension = _extension(folder, found, constant) if name == f"{{{column}}}" else ""
        if extension:
            yield Place(f"{_literal(constant)}/{name}{extension}" if constant else name + extension, column, way)
        yield Place(constant if plain else f"{_literal(constant)}/{name}" if constant else name, column, way)
        return
    for other, cells in some.items():
        template = _folder_of(where, cells, other, split)
        if template is not None:
            yield Place(f"{template}/{name}", column, f"{way}, in a folder by {other}")
            return
    tops = {path for paths in where for path in paths}
    preferred = {path for path in tops if split_of(path) == split}
    for chosen in (preferred, tops):
        shards = _shards(chosen)
        if shards is not None and all(sum(shards[1](path) is not None for path in paths) == 1 for paths in where):
            yield Place(f"{shards[0]}/{name}", column, f"{way}, in shards")
            return
        if chosen and all(sum(path in chosen for path in paths) == 1 for paths in where):
            parts = [path.split("/") for path in chosen]
            shared = os.path.commonprefix(parts)
            top = "/".join(shared)
            yield Place(f"{_literal(top)}/**/{name}" if top else f"**/{name}", column, f"{way}, in nested folders")
            return


def _shards(paths: set[str]) -> tuple[str, Callable[[str], object]] | None:
    """The template of folders that differ in the name of one archive, as train-*.tar, and what fits it."""
    parts = [path.split("/") for path in paths]
    if len(paths) < 2 or len(set(map(len, parts))) > 1:
        return None
    differing = [at for at, names in enumerate(zip(*parts, strict=True)) if len(set(names)) > 1]
    names = [part[differing[0]] for part in parts]
    if len(differing) > 1 or not all(os.fsencode(name).lower().endswith(ARCHIVES) for name in names):
        return None
    before = os.path.commonprefix(names).rstrip("0123456789")  # there may be more of them than these
    after = os.path.commonprefix([name[::-1] for name in names])[::-1].lstrip("0123456789")
    first, last = parts[0][: differing[0]], parts[0][differing[0] + 1 :]
    template = "/".join([*map(_literal, first), f"{_literal(before)}*{_literal(after)}", *map(_literal, last)])
    fits = [*map(re.escape, first), f"{re.escape(before)}[^/]*{re.escape(after)}", *map(re.escape, last)]
    return template, re.compile("/".join(fits)).fullmatch


def _constant(where: Sequence[Sequence[str]], split: str, folder: Folder) -> str | None:
    """The folder that is among those of every row; of several, that of the split, and the fullest."""
    if not where:
        return None
    shared = set(where[0]).intersection(*map(set, where[1:]))
    if not shared:
        return None
    counts = folder.folders()
    other = {"train": "test", "test": "train"}[split]

    def rank(path: str) -> tuple[int, int, int, str]:
        own = split_of(path)
        return (own == other, own != split, -counts[path], path)

    return min(shared, key=rank)


def split_of(path: str) -> str | None:
    """Which split a folder's or file's name says it is of."""
    for part in reversed(path.lower().split("/")):
        for split, words in SPLITS.items():
            if any(word in part for word in words):
                return split
    return None


def _folder_of(where: Sequence[Sequence[str]], cells: list[str], column: str, split: str) -> str | None:
    """A template of the folders in which one part is the row's cell of `column` and the others are constant."""
    if not all(cells):
        return None
    shapes: set[str] | None = None
    for paths, cell in zip(where, cells, strict=True):
        here = set()
        for path in paths:
            parts = path.split("/")
            for at, part in enumerate(parts):
                if part == cell:
                    rest = [_literal(p) for p in parts]
                    rest[at] = f"{{{column}}}"
                    here.add("/".join(rest))
        shapes = here if shapes is None else shapes & here
        if not shapes:
            return None
    return min(shapes or (), key=lambda shape: (split_of(shape) != split, len(shape), shape), default=None)


def _extension(folder: Folder, found: Sequence[list[int]], directory: str) -> str:
    """The plainest extension where a folder has several files of each name, else nothing."""
    kinds = [
        {
            os.path.splitext(os.fsdecode(folder.images[number]))[1]
            for number in numbers
            if os.fsdecode(folder.images[number].rpartition(b"/")[0]) == directory
        }
        for numbers in found
    ]
    if all(len(kind) == 1 for kind in kinds):
        return ""
    shared = set.intersection(*kinds)
    return min(shared, key=lambda e: (PLAIN_FIRST.index(e.lower()) if e.lower() in PLAIN_FIRST else 99, e), default="")


def _around(folder: Folder, cell: str) -> list[tuple[str, str]]:
    """(before, after) of the cell in names without extension that hold it as a whole word."""
    whole = re.compile(rf"(?<![A-Za-z0-9]){re.escape(cell)}(?![A-Za-z0-9])|(?<!\d){re.escape(cell)}(?!\d)")
    found: dict[tuple[str, str], None] = {}
    for stem in folder.stems:
        if cell in stem:
            for match in whole.finditer(stem):
                found[stem[: match.start()], stem[match.end() :]] = None
    return sorted(found, key=lambda parts: (len(parts[0]) + len(parts[1]), parts))[:400]


def _options(names: list[str]) -> str:
    """{red|green|blue}: what differs between names that otherwise begin and end alike."""
    start = os.path.commonprefix(names)
    end = os.path.commonprefix([name[len(start) :][::-1] for name in names])[::-1]
    middle = [name[len(start) : len(name) - len(end)] for name in names]
    middle.sort(key=lambda name: (COLOURS.index(name.lower()) if name.lower() in COLOURS else len(COLOURS), name))
    return _literal(start) + "{" + "|".join(middle) + "}" + _literal(end)


def _last(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _bare(path: str) -> str:
    return "/" + os.path.splitext(path)[0]
