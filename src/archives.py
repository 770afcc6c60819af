"""Files in archives, read in place: a zip or HDF5 file is a folder on the way to its members.

A path is bytes, utf-8, relative to a root or absolute. `train.zip/train/a.jpg` is a member of train.zip, and
`train.hdf5/ISIC_1` a dataset; a folder that is called so is a folder. A path may name several files, with line breaks
between them: the channels of one picture.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from src import hdf5
from src.errors import UserError

ZIP = b".zip"
ARCHIVES = (ZIP, *hdf5.SUFFIXES)
BETWEEN = b"\n"  # the files of one picture
CURE = "replace the file or remove its row; ./run.sh prepare lists every such file, competition.on_bad_image=skip or "
CURE += "=blank goes on without them"


def list_files(root: str | os.PathLike[str], directory: bytes) -> set[bytes]:
    """The names of the files in a folder, not below it: of a plain one, of one in a zip file, of an HDF5 group (its
    datasets) or of a dataset of many images (`0`, `1` …).

    Empty where there is no such folder. Raises UserError for a folder or archive that cannot be read.
    """
    inside = _in_archive(root, directory)
    try:
        if inside is not None:
            archive, name = inside
            if archive.lower().endswith(ZIP):
                return set(_zip(archive).folders.get(name, ()))
            return {member for member, is_image in hdf5.list_members(archive, name) if is_image}
        with os.scandir(os.path.join(os.fsencode(root), directory) or b".") as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        kind, why = ("folder", error.strerror) if inside is None else ("archive", str(error))
        raise UserError(f"{shown(root, directory)}: the {kind} cannot be read ({why})") from None


def is_folder(root: str | os.PathLike[str], directory: bytes) -> bool:
    """Whether there is such a folder, or an archive, a folder in a zip file, an HDF5 group or a dataset of images."""
    inside = _in_archive(root, directory)
    if inside is None:
        return os.path.isdir(os.path.join(os.fsencode(root), directory))
    archive, name = inside
    if not name:
        return True
    try:
        if archive.lower().endswith(ZIP):
            folders = _zip(archive).folders
            return name in folders or any(folder.startswith(name + b"/") for folder in folders)
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
    """The content of one file, a member of a zip file, or a dataset: the bytes that it holds, or its numbers as an
    .npy file.

    Archives stay open in the process; a forked one may go on reading them. Raises UserError that names the file.
    """
    inside = _in_archive(root, path)
    try:
        if inside is None or not inside[1]:
            with open(os.path.join(os.fsencode(root), path), "rb") as file:
                return file.read()
        archive, name = inside
        return _from_zip(archive, name) if archive.lower().endswith(ZIP) else hdf5.read_member(archive, name)
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
            elif inside[0].lower().endswith(ZIP):
                info = _zip(inside[0]).members[inside[1]]
                extents.append(f"{info.file_size}:{info.CRC};")
            else:
                extents.append("dataset;")
        except (OSError, KeyError):
            extents.append("missing;")
    return "".join(extents)


def beginning(root: str | os.PathLike[str], path: bytes, most: int) -> bytes:
    """The first `most` bytes of each of the files that a path names, one after the other; nothing of one that cannot be
    read."""
    found = []
    for part in path.split(BETWEEN):
        try:
            if _in_archive(root, part) is None:
                with open(os.path.join(os.fsencode(root), part), "rb") as file:
                    found.append(file.read(most))
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
        members = _zip(archive).members if suffix == ZIP else list(hdf5.walk_members(archive))
    except OSError:
        yield path
        return
    for member in members:
        if not any(map(_is_hidden, member.split(b"/"))):
            yield path + b"/" + member


# ---- zip ------------------------------------------------------------------------------------------------------------


class _Positioned(io.RawIOBase):
    """A file whose place is this object's own: forked processes share the descriptor, and with it the place that
    read and seek would move under each other."""

    def __init__(self, path: bytes) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self._descriptor, len(buffer), self._place)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: os.fstat(self._descriptor).st_size}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


class _Zip:
    """An open zip file. members: by path; folders: the names of the files in each."""

    def __init__(self, archive: bytes) -> None:
        self.file = zipfile.ZipFile(io.BufferedReader(_Positioned(archive)))
        self.members = {_member_path(info): info for info in self.file.infolist() if not info.is_dir()}
        self.folders: dict[bytes, list[bytes]] = {}
        for path in self.members:
            directory, _, name = path.rpartition(b"/")
            self.folders.setdefault(directory, []).append(name)


def _member_path(info: zipfile.ZipInfo) -> bytes:
    """Of a member, utf-8. Names without a mark of their encoding are utf-8 where they can be: zipfile reads them as
    cp437. Old Windows programs write backslashes."""
    path = info.filename.replace("\\", "/")
    if info.flag_bits & 0x800 or path.isascii():
        return path.encode("utf-8", "surrogateescape")
    raw = path.encode("cp437")
    try:
        raw.decode("utf-8")
        return raw
    except UnicodeDecodeError:
        return path.encode("utf-8")


def _zip(archive: bytes) -> _Zip:
    stat = os.stat(archive)
    return _open_zip(archive, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _open_zip(archive: bytes, size: int, changed: int) -> _Zip:
    try:
        return _Zip(archive)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise OSError(f"no zip file, or damaged: {error}") from None


def _from_zip(archive: bytes, name: bytes) -> bytes:
    opened = _zip(archive)
    info = opened.members.get(name)
    if info is None:
        raise OSError("no such file in the archive")
    try:
        return opened.file.read(info)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        raise OSError(" ".join(str(error).split()) or "damaged") from None  # RuntimeError: it is encrypted
