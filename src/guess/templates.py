"""A template of paths for files that are known by row: in one folder, in one that a column names, in shards, nested."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from src.archives import ARCHIVES
from src.guess.folder import Folder

SPLITS = {"train": ("train",), "test": ("test", "eval", "unlabel", "private", "public")}
COLOURS = ("red", "r", "green", "g", "blue", "b", "yellow", "y")  # of files that are one picture's channels, in order
PLAIN_FIRST = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".npy", ".npz", ".dcm")


@dataclass(frozen=True)
class Place:
    """template: for `competition.images.find_images`; column: which names the pictures; way: how, in words."""

    template: str
    column: str
    way: str


def in_folders(
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
    constant = shared_folder(where, split, folder)
    if constant is not None:
        plain = name == f"{{{column}}}" and constant
        extension = _extension(folder, found, constant) if name == f"{{{column}}}" else ""
        if extension:
            yield Place(f"{literal(constant)}/{name}{extension}" if constant else name + extension, column, way)
        yield Place(constant if plain else f"{literal(constant)}/{name}" if constant else name, column, way)
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
            yield Place(f"{literal(top)}/**/{name}" if top else f"**/{name}", column, f"{way}, in nested folders")
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
    template = "/".join([*map(literal, first), f"{literal(before)}*{literal(after)}", *map(literal, last)])
    fits = [*map(re.escape, first), f"{re.escape(before)}[^/]*{re.escape(after)}", *map(re.escape, last)]
    return template, re.compile("/".join(fits)).fullmatch


def shared_folder(where: Sequence[Sequence[str]], split: str, folder: Folder) -> str | None:
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
                    rest = [literal(p) for p in parts]
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


def options(names: list[str]) -> str:
    """{red|green|blue}: what differs between names that otherwise begin and end alike."""
    start = os.path.commonprefix(names)
    end = os.path.commonprefix([name[len(start) :][::-1] for name in names])[::-1]
    middle = [name[len(start) : len(name) - len(end)] for name in names]
    middle.sort(key=lambda name: (COLOURS.index(name.lower()) if name.lower() in COLOURS else len(COLOURS), name))
    return literal(start) + "{" + "|".join(middle) + "}" + literal(end)


def literal(text: str) -> str:
    """The text as a template has it: braces are doubled."""
    return text.replace("{", "{{").replace("}", "}}")
