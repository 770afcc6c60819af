"""The image files below a folder, its archives among them: listed once, found by name, pattern or in another form."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from src.archives import list_files, walk_files
from src.hdf5 import SUFFIXES

EXTENSIONS = (
    b".jpg", b".jpeg", b".jpe", b".jfif", b".jif", b".png", b".bmp", b".webp", b".tif", b".tiff", b".gif", b".npy",
    b".npz", b".dcm", b".dicom", b".heic", b".heif", b".avif", b".jp2", b".pgm", b".ppm",
)  # fmt: skip


class Listings:
    """The image files of directories below `root`, each listed when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root, self.files, self.stems = root, {}, {}  # type: ignore[var-annotated]
        self.below: dict[bytes, dict[bytes, list[bytes]]] = {}
        self.loose: dict[bytes | None, dict[str, list[bytes]]] = {}
        self.numbers: dict[bytes, dict[str, list[bytes]]] = {}

    def in_folder(self, directory: bytes) -> set[bytes]:
        if directory not in self.files:
            self.files[directory] = list_files(self.root, directory)
        return self.files[directory]

    def completed(self, directory: bytes, name: bytes) -> list[bytes]:
        """The image files of a name without its extension."""
        if directory not in self.stems:
            stems: dict[bytes, list[bytes]] = {}
            for file in self.in_folder(directory):
                if is_image(file):
                    stems.setdefault(os.path.splitext(file)[0], []).append(file)
            self.stems[directory] = stems
        return sorted(self.stems[directory].get(name, []))

    def anywhere(self, top: bytes, name: bytes) -> list[bytes]:
        """The folders below `top` that hold an image file of that name, with or without its extension, as paths."""
        if top not in self.below:
            found: dict[bytes, list[bytes]] = {}
            for file in files_below(self.root, top):
                if is_image(file):
                    base = file.rpartition(b"/")[2]
                    found.setdefault(base, []).append(file)
                    found.setdefault(os.path.splitext(base)[0], []).append(file)
            self.below[top] = found
        return self.below[top].get(name, [])

    def similar(self, path: bytes) -> list[bytes]:
        """The image files whose paths are `path` in another form: see `form_free`. In its folder, if there is such a
        one, else anywhere."""
        path = path.replace(b"\\", b"/")
        directory, _, name = path.rpartition(b"/")
        top = directory if b"*" not in path and self.in_folder(directory) else None
        if top not in self.loose:
            files = files_below(self.root, b"") if top is None else sorted(self.in_folder(top))
            self.loose[top] = {}
            for file in filter(is_image, files):
                own = file if top is None or not top else top + b"/" + file
                self.loose[top].setdefault(form_free(os.fsdecode(file)), []).append(own)
        return self.loose[top].get(form_free(os.fsdecode(path if top is None else name)), [])

    def of_number(self, path: bytes) -> list[bytes]:
        """The image files in the folder of `path` whose names are the same number, with more or fewer zeros before."""
        directory, _, name = path.rpartition(b"/")
        if directory not in self.numbers:
            found: dict[str, list[bytes]] = {}
            for file in sorted(filter(is_image, self.in_folder(directory))):
                if (number := number_in(form_free(os.fsdecode(file)))) is not None:
                    found.setdefault(number, []).append(directory + b"/" + file if directory else file)
            self.numbers[directory] = found
        number = number_in(form_free(os.fsdecode(name)))
        return [] if number is None else self.numbers[directory].get(number, [])


def form_free(path: str) -> str:
    """What two ways of writing one path have in common: no extension of an image, lower case, composed letters."""
    stem, extension = os.path.splitext(path)
    plain = stem if extension.lower().encode("utf-8", "surrogateescape") in EXTENSIONS else path
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", plain).casefold()).removeprefix("./")


def number_in(form: str) -> str | None:
    """What `form_free` leaves of a name, without the zeros before it; None where it is not digits alone."""
    return form.lstrip("0") if form.isascii() and form.isdigit() else None


def star_pattern(text: str) -> str:
    """A regular expression for a path, or a piece of one: `**/` at the start of a part stands for any folders, also
    none, other stars for anything in a part."""
    return re.sub(r"(?<![^/])\\\*\\\*/", "(?s:.*/)?", re.escape(text)).replace(r"\*", "[^/]*")


@lru_cache(maxsize=4096)
def starred(directory: bytes) -> tuple[bytes, Callable[[bytes], object]]:
    """The folder above the first star of a folder's pattern, and what fits the pattern: `**` stands for any folders,
    also none, `*` for a part of a folder's or an archive's name."""
    top = directory.partition(b"*")[0].rpartition(b"/")[0]
    pattern = re.compile(os.fsencode(star_pattern(os.fsdecode(directory) + "/")))
    return top, lambda folder: pattern.fullmatch(folder + b"/" if folder else b"")


def files_below(root: Path, top: bytes) -> list[bytes]:
    """The files below the folder `top` of `root`, which may lie in an archive: paths relative to `root`, sorted."""
    parts = top.split(b"/") if top else []
    plain = 0
    while plain < len(parts) and os.path.isdir(os.path.join(os.fsencode(root), *parts[: plain + 1])):
        plain += 1
    start = b"/".join(parts[:plain])
    files = [start + b"/" + file if start else file for file in walk_files(root / os.fsdecode(start))]
    return [file for file in files if not top or file.startswith(top + b"/")]


def is_image(file: bytes) -> bool:
    """By its extension, which datasets of an HDF5 file do without."""
    return os.path.splitext(file)[1].lower() in EXTENSIONS or any(suffix + b"/" in file.lower() for suffix in SUFFIXES)
