"""What zip and tar files have in common: an index of their members, read once. Names are one block of bytes, sorted:
millions of them without an object each.

Loader processes are forked from the one that opened the archive. Objects of Python would be copied into each of them,
page by page, as their reference counts change; a block of bytes and an array of numbers stay shared.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Members:
    """Paths as bytes with `/` between folders, numbered from 0 in sorted order.

    names: in any order; of one that comes twice the later counts. given: (n,) int64, the place of each in `names`.
    """

    def __init__(self, names: Sequence[bytes]) -> None:
        order = sorted(range(len(names)), key=names.__getitem__)  # stable
        following = [*order[1:], None]
        kept = [at for at, after in zip(order, following, strict=True) if after is None or names[at] != names[after]]
        self.given = np.array(kept, np.int64)
        self._text = b"".join(names[at] for at in kept)
        self._ends = np.cumsum(np.array([len(names[at]) for at in kept], np.int64))

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[bytes]:
        return map(self.name, range(len(self)))

    def name(self, number: int) -> bytes:
        start = int(self._ends[number - 1]) if number else 0
        return self._text[start : int(self._ends[number])]

    def find(self, path: bytes) -> int:
        """The number of the member of this path. Raises OSError if there is no such one."""
        number = self._before(path)
        if number == len(self) or self.name(number) != path:
            raise OSError("no such file in the archive")
        return number

    def is_folder(self, path: bytes) -> bool:
        """Whether there are members below `path`."""
        number = self._before(path + b"/")
        return number < len(self) and self.name(number).startswith(path + b"/")

    def in_folder(self, path: bytes) -> set[bytes]:
        """The names of the members in the folder `path` (empty: the top), not of those below it."""
        start = path + b"/" if path else b""
        found = set()
        for number in range(self._before(start), len(self)):
            name = self.name(number)
            if not name.startswith(start):
                break
            if b"/" not in (rest := name[len(start) :]):
                found.add(rest)
        return found

    def _before(self, path: bytes) -> int:
        """How many of the names come before `path`."""
        return bisect_left(range(len(self)), path, key=self.name)


def kept_while_unchanged(read: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """`read` of an archive's path, whose results stay in the process until the file has another size or time."""

    @lru_cache(maxsize=4096)
    def of_state(archive: bytes, size: int, changed: int) -> T:
        return read(archive)

    def found(archive: bytes) -> T:
        stat = os.stat(archive)
        return of_state(archive, stat.st_size, stat.st_mtime_ns)

    return found


def read_at(descriptor: int, start: int, size: int) -> bytes:
    """`size` bytes of an open file from `start`, fewer where it ends before. The file's own place, which forked
    processes share, stays out of it."""
    parts, left = [], size
    while left and (part := os.pread(descriptor, left, start + size - left)):
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
