"""From ids to image files: a folder or a template, one listing per directory, no guessing."""

from __future__ import annotations

import os
import string
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from src.errors import UserError, first_few, nearest

EXTENSIONS = (
    b".jpg", b".jpeg", b".jpe", b".jfif", b".png", b".bmp", b".webp", b".tif", b".tiff", b".gif", b".npy", b".npz",
    b".dcm", b".dicom", b".heic", b".heif", b".avif", b".jp2", b".pgm", b".ppm",
)  # fmt: skip


def template_fields(template: str, key: str) -> list[str]:
    """The names between braces of a template such as "images/{label}/{id}.png"; a plain folder has none.

    Raises UserError for unbalanced braces, or for anything but a plain name between them.
    """
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"{key}={template!r}: {error}; write column names in braces, as in images/{{id}}.jpg") from None
    for _, name, form, conversion in pieces:
        if name is not None and (not name or form or conversion):
            raise UserError(f"{key}={template!r}: braces hold the name of a column and nothing else, as in {{id}}")
    return [name for _, name, _, _ in pieces if name is not None]


def find_images(
    *, root: Path, template: str, ids: np.ndarray, columns: Mapping[str, np.ndarray], key: str, table: Path
) -> np.ndarray:
    """The image file of each row: (N,) bytes (dtype S), utf-8 paths relative to `root`.

    `template` is a folder, which means "folder/{id}", or a path with `{id}` (ids, (N,) str) and `{column}`
    (columns[column], (N,) str) in it. A path without an extension is completed by the one image file of that name.
    Each directory is listed once, so a million rows in one folder cost seconds, not a million stat calls.
    Raises UserError (naming `key` and `table`, the csv file the rows come from) for a folder or column that is not
    there, a path that leaves `root`, rows without an image, and a path that two image files could complete.
    """
    folder = os.path.normpath(template) if not template_fields(template, key) else None
    if folder is not None:
        _require_folder(root, folder, template, key)
        template = "{id}" if folder == "." else folder.replace("{", "{{").replace("}", "}}") + "/{id}"
    wanted = _expand(template, {**columns, "id": ids}, key, table)

    listings: dict[bytes, set[bytes]] = {}
    stems: dict[bytes, dict[bytes, bytes | None]] = {}
    found, missing = [], []
    base = os.fsencode(root)
    for row, path in enumerate(wanted.tolist()):
        directory, _, name = path.rpartition(b"/")
        if directory not in listings:
            listings[directory] = _list_files(os.path.join(base, directory))
        if name not in listings[directory]:
            if directory not in stems:
                stems[directory] = _by_stem(listings[directory])
            completed = stems[directory].get(name, b"")
            if completed is None:
                twins = [file for file in listings[directory] if os.path.splitext(file)[0] == name and _is_image(file)]
                names = " and ".join(sorted(file.decode(errors="replace") for file in twins))
                raise UserError(
                    f"{table}: id {str(ids[row])!r} fits {len(twins)} images ({names}) "
                    f"in {root / os.fsdecode(directory)}; keep one, or give the extension in {key}="
                )
            if not completed:
                missing.append(row)
                continue
            path = directory + b"/" + completed if directory else completed
        found.append(path)
    if missing:
        verb = "has" if len(missing) == 1 else "have"
        place = f"folder {root / folder}" if folder is not None else f"{root / template}"
        raise UserError(
            f"{table}: {len(missing)} of {len(ids)} ids {verb} no image ({first_few(ids[missing].tolist())}); "
            f"looked in {place}; set {key}= to their folder or to a template such as images/{{id}}.jpg"
        )
    return np.array(found, dtype=np.bytes_)


def _require_folder(root: Path, folder: str, template: str, key: str) -> None:
    if folder.startswith(("/", "..")):
        raise UserError(f"{key}={template!r} leaves competition.root; paths are relative to {root}")
    if not (root / folder).is_dir():
        with os.scandir(root) as entries:
            there = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        listed = first_few(there, 10) or "none"
        raise UserError(f"{key}={template!r}: no such folder in {root}{nearest(folder, there)} (folders: {listed})")


def _expand(template: str, values: Mapping[str, np.ndarray], key: str, table: Path) -> np.ndarray:
    """The template filled in for every row, (N,) bytes; UserError if a path would leave the root."""
    paths = np.zeros(len(values["id"]), dtype="S1")
    for literal, name, _, _ in string.Formatter().parse(template):
        paths = np.char.add(paths, np.bytes_(literal.encode()))
        if name is None:
            continue
        if name not in values:
            raise UserError(
                f"{key}={template!r}: {table} has no column {name!r}{nearest(name, values)} "
                f"(columns: {', '.join(values)})"
            )
        cells = np.char.encode(values[name], "utf-8")
        _refuse(np.char.startswith(cells, b"/"), values[name], table)
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


def _list_files(directory: bytes) -> set[bytes]:
    try:
        with os.scandir(directory or b".") as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise UserError(f"{os.fsdecode(directory)}: the folder cannot be read ({error.strerror})") from None


def _by_stem(files: set[bytes]) -> dict[bytes, bytes | None]:
    """File name by its name without the extension; None where two images share it."""
    stems: dict[bytes, bytes | None] = {}
    for file in files:
        if _is_image(file):
            stem = os.path.splitext(file)[0]
            stems[stem] = None if stem in stems else file
    return stems


def _is_image(file: bytes) -> bool:
    return os.path.splitext(file)[1].lower() in EXTENSIONS
