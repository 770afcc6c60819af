"""From ids to image files: a folder or a template, one listing per directory, no guessing."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from src.archives import is_folder, unread_archive
from src.competition.listings import EXTENSIONS, Listings, files_below, is_image, star_pattern, starred
from src.errors import UserError, first_few, nearest
from src.ids import in_parts


def template_fields(template: str, key: str) -> list[str]:
    """The columns between the braces of a template such as "images/{label}/{id}.png"; a plain folder has none.

    `{id:05}` is a number with zeros before it up to that width, `{path.name}` and `{path.stem}` what stands behind the
    last slash of a path, with and without its extension; `{red|green|blue}` are several files of one picture, and no
    columns. Raises UserError for unbalanced braces, or for anything else between them.
    """
    return [column_of(name) for _, name, _ in pieces(template, key) if name and "|" not in name]


def column_of(field: str) -> str:
    """The column behind `path.name` or `path.stem`."""
    return next((field.removesuffix(end) for end in (".name", ".stem") if field.endswith(end)), field)


def pieces(template: str, key: str) -> list[tuple[str, str | None, int]]:
    """(text, what stands between the braces behind it or None, width up to which it gets zeros)."""
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"{key}={template!r}: {error}; write column names in braces, as in images/{{id}}.jpg") from None
    for _, name, form, conversion in pieces:
        if name is not None and (not name or conversion or (form and not re.fullmatch(r"0\d+", form))):
            raise UserError(f"{key}={template!r}: braces hold the name of a column and nothing else, as in {{id}}")
    return [(text, name, int(form or 0)) for text, name, form, _ in pieces]


def find_images(
    *,
    root: Path,
    template: str,
    ids: np.ndarray,
    columns: Mapping[str, np.ndarray],
    key: str,
    table: Path,
    say: Callable[[str], None] = print,
    without: str | None = None,
) -> np.ndarray:
    """The image file of each row: (N,) bytes (dtype S), utf-8 paths relative to `root`.

    `template` is a folder, which means "folder/{id}", or a path with `{id}` (ids, (N,) str) and `{column}`
    (columns[column], (N,) str) in it; see `template_fields`. A folder may be an archive (src/archives.py); `**` in the
    place of a folder stands for any folders below the one before it, `*` in a folder's name for any part of it. A
    path without an extension is completed by the one image file of that name. Where there is no such file, one is taken
    that differs in the extension, in upper and lower case, in how Unicode writes a letter (NFC, NFD) or in the slashes;
    or, if that is so for all rows that have none, in the zeros before a number. Either is reported through `say`.
    The files of one picture are joined by line breaks.
    Each directory is listed once, so a million rows in one folder cost seconds, not a million stat calls.
    without: what becomes of rows without an image, for the message; they keep the path where one was looked for. None:
    they are an error, as they are when no row has one.
    Raises UserError (naming `key` and `table`, the csv file the rows come from) for a folder or column that is not
    there, a path that leaves `root`, rows without an image, and a path that two image files could complete.
    """
    folder = os.path.normpath(template) if not template_fields(template, key) and "|" not in template else None
    if folder is not None:
        if "*" not in folder:
            _require_folder(root, folder, template, key)
        template = "{id}" if folder == "." else folder.replace("{", "{{").replace("}", "}}") + "/{id}"
    place = f"folder {root / folder}" if folder is not None else f"{root / template}"
    listings = Listings(root)
    channels = [
        _find(listings, one, {**columns, "id": ids}, key, table, place, say, without)
        for one in _alternatives(template, key)
    ]
    found = channels[0]
    for more in channels[1:]:
        found = np.char.add(np.char.add(found, b"\n"), more)
    return found


def _alternatives(template: str, key: str) -> list[str]:
    """A template per file of a picture: "{id}_{red|green}.png" is "{id}_red.png" and "{id}_green.png"."""
    for _, name, _ in pieces(template, key):
        if name is not None and "|" in name:
            return [template.replace("{" + name + "}", option) for option in name.split("|")]
    return [template]


def _find(
    listings: Listings,
    template: str,
    columns: Mapping[str, np.ndarray],
    key: str,
    table: Path,
    place: str,
    say: Callable[[str], None],
    without: str | None,
) -> np.ndarray:
    """(N,) bytes: the file of each row. place: how the message for missing ones calls where they were looked for."""
    wanted = _expand(template, columns, key, table)
    ids, found, missing = columns["id"], [], []
    patterned = any("*" in text for text, _, _ in pieces(template, key))
    if not patterned and _all_there(listings, os.fsencode(pieces(template, key)[0][0]).rpartition(b"/")[0], wanted):
        return wanted
    for row, path in enumerate(wanted.tolist()):
        directory, _, name = path.rpartition(b"/")
        if patterned:
            top, fits = starred(directory)
            files = [file for file in listings.anywhere(top, name) if fits(file.rpartition(b"/")[0])]
        elif name in listings.in_folder(directory):
            files = [path]
        else:
            files = [directory + b"/" + file if directory else file for file in listings.completed(directory, name)]
        if len(files) > 1:
            names = " and ".join(sorted(os.fsdecode(file.rpartition(b"/")[2]) for file in files))
            where = os.fsdecode(files[0].rpartition(b"/")[0])
            raise UserError(
                f"{table}: id {str(ids[row])!r} fits {len(files)} images ({names}) "
                f"in {listings.root / where}; keep one, or give the extension in {key}="
            )
        if files:
            found.append(files[0])
        else:
            found.append(path)
            missing.append(row)
    if missing:
        missing = _take_similar(listings, found, missing, ids, table, say)
    if missing and not patterned:
        missing = _take_numbers(listings, found, missing, ids, table, say)
    if missing:
        verb = "has" if len(missing) == 1 else "have"
        text = f"{table}: {len(missing)} of {len(ids)} ids {verb} no image ({first_few(ids[missing].tolist())})"
        if without is None or len(missing) == len(ids):
            skip = "" if without else ", or competition.on_bad_image=skip to leave such rows out"
            raise UserError(
                f"{text}; looked in {place}; set {key}= to their folder or to a template such as "
                f"'images/{{id}}.jpg'{skip if len(missing) < len(ids) else ''}"
            )
        say(f"{text}; {without}")
    return np.array(found, dtype=np.bytes_)


def _all_there(listings: Listings, directory: bytes, wanted: np.ndarray) -> bool:
    """Whether all paths (N,) bytes are those of files in one folder, as they nearly always are."""
    before = directory + b"/" if directory else b""
    there = {before + name for name in listings.in_folder(directory)}
    return bool(there) and all(there.issuperset(part) for part in in_parts(wanted))


def _take_similar(
    listings: Listings, found: list[bytes], missing: list[int], ids: np.ndarray, table: Path, say: Callable[[str], None]
) -> list[int]:
    """Fill in the files of the rows `missing` that are there in another form, and return the others. A file that is
    another row's stays that row's."""
    taken = _of_others(found, missing)
    owner: dict[bytes, bytes] = {}  # of a file: the path that it was taken for
    left, example = [], ""
    for row in missing:
        files = [file for file in listings.similar(found[row]) if file not in taken]
        if len(files) != 1 or owner.setdefault(files[0], found[row]) != found[row]:
            left.append(row)
            continue
        example = example or f"{ids[row]} is {os.fsdecode(files[0])}"
        found[row] = files[0]
    if example:
        say(
            f"{table}: {len(missing) - len(left)} of {len(ids)} ids name their images in another form: case, "
            f"extension, slashes or accents ({example})"
        )
    return left


def _take_numbers(
    listings: Listings, found: list[bytes], missing: list[int], ids: np.ndarray, table: Path, say: Callable[[str], None]
) -> list[int]:
    """Fill in the files of the rows `missing` that have their numbers with other zeros before them, as a program that
    takes ids for numbers writes them, and return the others: none of the rows or all of them, as each must have such a
    file, one and of no other row."""
    taken = _of_others(found, missing)
    files = [listings.of_number(found[row]) for row in missing]
    only = {fitting[0] for fitting in files if len(fitting) == 1} - taken
    if len(only) < len(missing):
        return missing
    for row, fitting in zip(missing, files, strict=True):
        found[row] = fitting[0]
    example = f"{ids[missing[0]]} is {os.fsdecode(found[missing[0]])}"
    say(f"{table}: {len(missing)} of {len(ids)} ids have other zeros before them than their images ({example})")
    return []


def _of_others(found: list[bytes], missing: list[int]) -> set[bytes]:
    """The files of all rows but `missing`."""
    absent = set(missing)
    return {path for row, path in enumerate(found) if row not in absent}


def rows_from_images(root: Path, template: str, key: str) -> dict[str, np.ndarray]:
    """A table without a table: a row per image that fits the template, its columns what stands in the braces.

    "train/{label}/{id}" is a folder per class, "{train|valid}/{label}/{id}" in either of two folders,
    "train/{label}.{number}" a label in the file's name; each (N,) str, in the order of the paths. `id` is the path
    below the folder before the first brace, which is unique. Raises UserError if no image fits.
    """
    parts = pieces(template, key)
    top = parts[0][0].rpartition("/")[0]
    pattern = "".join(star_pattern(text) + _alternation(name) for text, name, _ in parts)
    extension = "" if os.path.splitext(template)[1].lower().encode() in EXTENSIONS else r"(?:\.[^./]+)?"
    fits = re.compile(pattern + extension)
    rows: dict[str, list[str]] = {"id": [], **{name: [] for _, name, _ in parts if name and "|" not in name}}
    for file in files_below(root, os.fsencode(top)):
        if is_image(file) and (match := fits.fullmatch(os.fsdecode(file))):
            values = {**match.groupdict(), "id": os.fsdecode(file)[len(top) :].lstrip("/")}
            for name, cells in rows.items():
                cells.append(values[name])
    if not rows["id"]:
        raise UserError(f"{key}={template!r}: no image below {root} fits; give the folder of the images")
    return {name: np.array(cells, dtype=np.str_) for name, cells in rows.items()}


def _require_folder(root: Path, folder: str, template: str, key: str) -> None:
    if folder.startswith(("/", "..")):
        raise UserError(f"{key}={template!r} leaves competition.root; paths are relative to {root}")
    if not is_folder(root, os.fsencode(folder)):
        with os.scandir(root) as entries:
            there = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        listed = first_few(there, 10) or "none"
        if why := unread_archive(root):
            raise UserError(f"{key}={template!r}: no such folder in {root}, and {why}")
        raise UserError(f"{key}={template!r}: no such folder in {root}{nearest(folder, there)} (folders: {listed})")


def _expand(template: str, values: Mapping[str, np.ndarray], key: str, table: Path) -> np.ndarray:
    """The template filled in for every row, (N,) bytes; UserError if a path would leave the root."""
    paths = np.zeros(len(values["id"]), dtype="S1")
    for literal, name, width in pieces(template, key):
        paths = np.char.add(paths, np.bytes_(literal.encode()))
        if name is None:
            continue
        column = name if name in values else column_of(name)
        if column not in values:
            raise UserError(
                f"{key}={template!r}: {table} has no column {name!r}{nearest(name, values)} "
                f"(columns: {', '.join(values)})"
            )
        cells = values[column]
        if column != name:
            names = [cell.replace("\\", "/").rpartition("/")[2] for cell in cells.tolist()]
            cells = np.array(
                [os.path.splitext(n)[0] for n in names] if name.endswith(".stem") else names, dtype=np.str_
            )
        cells = np.char.encode(np.char.zfill(cells, width) if width else cells, "utf-8")
        _refuse(np.char.startswith(cells, b"/"), values[column], table)
        paths = np.char.add(paths, cells)
    # Few rows hold two dots in a row, and only as a whole component do they climb: look closely at those few.
    suspects = np.flatnonzero(np.char.find(paths, b"..") >= 0)
    outside = np.char.startswith(paths, b"/")
    for row in suspects:
        outside[row] |= b".." in paths[row].split(b"/")
    _refuse(outside, paths, table)
    return paths


def _refuse(outside: np.ndarray, values: np.ndarray, table: Path) -> None:
    if outside.any():
        bad = [item.decode() if isinstance(item, bytes) else item for item in values[outside].tolist()]
        raise UserError(
            f"{table}: {len(bad)} image paths point outside competition.root ({first_few(bad)}); "
            "ids must be relative and without '..'"
        )


def _alternation(name: str | None) -> str:
    """What a field may be: the cell of a column, or one of `train|valid`."""
    if name is None:
        return ""
    if "|" in name:
        return "(?:" + "|".join(map(re.escape, name.split("|"))) + ")"
    return f"(?P<{name}>[^/]+?)"
