"""Files in archives, read in place: a zip, tar or HDF5 file is a folder on the way to its members.

A path is bytes, utf-8, relative to a root or absolute. `train.zip/train/a.jpg` is a member of train.zip,
`train-0007.tar/a.jpg` one of a shard, and `train.hdf5/ISIC_1` a dataset; a folder that is called so is a folder. A
path may name several files, with line breaks between them: the channels of one picture.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from types import ModuleType

from src import hdf5, tars, zips
from src.errors import UserError
from src.members import Members

ARCHIVES = (*zips.SUFFIXES, *tars.SUFFIXES, *hdf5.SUFFIXES)
# What cannot be read in place, by the end of its name: the command that makes of {path} what can be
UNREAD = {
    b".tar.gz": "gunzip {path}", b".tgz": "gunzip {path}", b".tar.bz2": "bunzip2 {path}",
    b".tar.xz": "unxz {path}", b".tar.zst": "unzstd --rm {path}", b".7z": "7z x -o{folder} {path}",
    b".rar": "unrar x {path} {folder}/",
}  # fmt: skip
BETWEEN = b"\n"  # the files of one picture
CURE = "replace the file or remove its row; ./run.sh prepare lists every such file, competition.on_bad_image=skip or "
CURE += "=blank goes on without them"


def list_files(root: str | os.PathLike[str], directory: bytes) -> set[bytes]:
    """The names of the files in a folder, not below it: of a plain one, of one in an archive, of an HDF5 group (its
    datasets) or of a dataset of many images (`0`, `1` …).

    Empty where there is no such folder. Raises UserError for a folder or archive that cannot be read.
    """
    inside = _in_archive(root, directory)
    try:
        if inside is not None:
            archive, name = inside
            if (members := _members(archive)) is not None:
                return members.in_folder(name)
            return {member for member, is_image in hdf5.list_members(archive, name) if is_image}
        with os.scandir(os.path.join(os.fsencode(root), directory) or b".") as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        kind, why = ("folder", error.strerror) if inside is None else ("archive", str(error))
        raise UserError(f"{shown(root, directory)}: the {kind} cannot be read ({why})") from None


def is_folder(root: str | os.PathLike[str], directory: bytes) -> bool:
    """Whether there is such a folder, or an archive, a folder in one, an HDF5 group or a dataset of images."""
    inside = _in_archive(root, directory)
    if inside is None:
        return os.path.isdir(os.path.join(os.fsencode(root), directory))
    archive, name = inside
    if not name:
        return True
    try:
        if (members := _members(archive)) is not None:
            return members.is_folder(name)
        return hdf5.is_folder(archive, name)
    except OSError as error:
        raise UserError(f"{shown(root, directory)}: the archive cannot be read ({error})") from None


def walk_files(root: str | os.PathLike[str]) -> list[bytes]:
    """The paths of all files below `root`, sorted, members of archives in place of the archives.

    Hidden files and folders and what macOS adds to zip files (`__MACOSX`) are left out. An archive that cannot be read
    counts as a file, and so does one within another. Links are followed, but not back into a folder above them.
    Raises UserError for a folder that cannot be read.
    """
    base = os.fsencode(root)
    found: list[bytes] = []
    waiting: list[tuple[bytes, frozenset[tuple[int, int]]]] = [(b"", frozenset())]
    while waiting:
        directory, above = waiting.pop()
        here = os.path.join(base, directory) or b"."
        before = directory + b"/" if directory else b""
        try:
            stat = os.stat(here)
            own = (stat.st_dev, stat.st_ino)
            if own in above:
                continue
            with os.scandir(here) as entries:
                for entry in entries:
                    if _is_hidden(entry.name):
                        continue
                    path = before + entry.name
                    if entry.is_dir():
                        waiting.append((path, above | {own}))
                    elif entry.is_file():
                        found.extend(_walk_archive(here, entry.name, path))
        except OSError as error:
            raise UserError(f"{os.fsdecode(here)}: the folder cannot be read ({error.strerror})") from None
    return sorted(found)


def read_bytes(root: str | os.PathLike[str], path: bytes) -> bytes:
    """The content of one file, a member of an archive, or a dataset: the bytes that it holds, or its numbers as an .npy
    file.

    What is known of an archive is kept in the process and shared with those that are forked from it. Raises UserError
    that names the file.
    """
    inside = _in_archive(root, path)
    try:
        if inside is None or not inside[1]:
            with open(os.path.join(os.fsencode(root), path), "rb") as file:
                return file.read()
        archive, name = inside
        return _module(archive).read_member(archive, name)
    except OSError as error:
        raise UserError(f"{shown(root, path)}: cannot read the file ({error.strerror or error}); {CURE}") from None


def read_files(root: str | os.PathLike[str], path: bytes) -> list[bytes]:
    """The contents of all files that a path names."""
    return [read_bytes(root, part) for part in path.split(BETWEEN)]


def stamp(root: str | os.PathLike[str], path: bytes) -> str:
    """Changes when what stands under `path` may have changed: sizes and times of its files, or of their archives."""
    stamps = []
    for part in path.split(BETWEEN):
        full = os.path.join(os.fsencode(root), part)
        try:
            try:
                stat = os.stat(full)
            except NotADirectoryError:
                inside = _in_archive(root, part)
                stat = os.stat(full if inside is None else inside[0])
            stamps.append(f"{stat.st_size}:{stat.st_mtime_ns};")
        except OSError:
            stamps.append("missing;")
    return "".join(stamps)


def extent(root: str | os.PathLike[str], path: bytes) -> str:
    """The sizes of the files that a path names, and their checksums where a zip file knows them: what is known of
    their contents without reading them, wherever they lie."""
    extents = []
    for part in path.split(BETWEEN):
        try:
            inside = _in_archive(root, part)
            if inside is None or not inside[1]:
                extents.append(f"{os.stat(os.path.join(os.fsencode(root), part)).st_size};")
            elif (module := _module(inside[0])) is hdf5:
                extents.append("dataset;")
            else:
                extents.append(f"{module.extent(*inside)};")
        except OSError:
            extents.append("missing;")
    return "".join(extents)


def beginning(root: str | os.PathLike[str], path: bytes, most: int) -> bytes:
    """The first `most` bytes of each of the files that a path names, one after the other; nothing of one that cannot be
    read."""
    found = []
    for part in path.split(BETWEEN):
        try:
            inside = _in_archive(root, part)
            if inside is None:
                with open(os.path.join(os.fsencode(root), part), "rb") as file:
                    found.append(file.read(most))
            elif _module(inside[0]) is tars:
                found.append(tars.read_member(*inside, most))
            else:
                found.append(read_bytes(root, part)[:most])
        except (OSError, UserError):
            found.append(b"")
    return b"".join(found)


def shown(root: str | os.PathLike[str], path: bytes) -> str:
    """The path for messages, with line breaks between those of several files."""
    return "\n".join(os.path.join(os.fspath(root), part.decode(errors="replace")) for part in path.split(BETWEEN))


def _in_archive(root: str | os.PathLike[str], path: bytes) -> tuple[bytes, bytes] | None:
    """(file of the archive, name in it) of a path that leads into an archive, the name empty for the archive itself;
    None for any other path."""
    full = os.path.join(os.fsencode(root), path)
    lower = full.lower()
    if not any(suffix in lower for suffix in ARCHIVES):
        return None
    end = 0
    while end < len(full):
        end = full.find(b"/", end + 1)
        end = len(full) if end < 0 else end
        if lower.endswith(ARCHIVES, 0, end) and os.path.isfile(full[:end]):
            return full[:end], full[end:].strip(b"/")
    return None


def unread_archive(root: str | os.PathLike[str]) -> str:
    """Of the first archive in the folder `root` that cannot be read in place: what it is and what to do about it, as
    `DIR/train.tar.gz cannot be read in place; gunzip DIR/train.tar.gz`. Empty where there is none."""
    try:
        names = sorted(os.listdir(os.fsencode(root)))
    except OSError:
        return ""
    for name in names:
        for suffix, cure in UNREAD.items():
            if name.lower().endswith(suffix):
                path, folder = os.path.join(os.fspath(root), os.fsdecode(name)), os.fspath(root)
                return (
                    f"{path} cannot be read in place; {cure.format(path=shlex.quote(path), folder=shlex.quote(folder))}"
                )
    return ""


def _module(archive: bytes) -> ModuleType:
    """What reads archives of this name."""
    return next(module for module in (zips, tars, hdf5) if archive.lower().endswith(module.SUFFIXES))


def _members(archive: bytes) -> Members | None:
    """Of a zip or tar file; None for an HDF5 file, which has its own ways."""
    module = _module(archive)
    return None if module is hdf5 else module.members_of(archive)


def _is_hidden(name: bytes) -> bool:
    return name.startswith(b".") or name == b"__MACOSX"


def _walk_archive(here: bytes, name: bytes, path: bytes) -> Iterator[bytes]:
    """`path` itself, or what is in the archive of this name in the folder `here`."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in ARCHIVES:
        yield path
        return
    archive = os.path.join(here, name)
    try:
        members: Iterable[bytes] | None = _members(archive)
        members = list(hdf5.walk_members(archive)) if members is None else members
    except OSError:
        yield path
        return
    for member in members:
        if not any(map(_is_hidden, member.split(b"/"))):
            yield path + b"/" + member
