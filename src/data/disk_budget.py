"""How much of a disk decoded images may take: never more than they were given, and never the last of it."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

GB = 10**9
SPARE = GB  # bytes of the disk that are left for checkpoints and predictions
SLACK = 32 * 1024  # the blocks that a picture begins and ends in, and what the file system notes about them
COUNTED = (".pixels", ".shapes")
LOCK = "budget.lock"


@dataclass(frozen=True)
class DiskBudget:
    """most: bytes that the stores in the folders of `folder`, one of each competition, may take together; None: what
    the disk has.

    What is taken is asked of the file system each time, whose blocks of a sparse file are what is filled of it. So the
    budget holds for all processes that share the folder, and nothing has to be put right after one was killed.
    """

    folder: Path
    most: int | None = None

    def taken(self) -> int:
        """Bytes on disk of all stores."""
        blocks = 0
        for place in _folders(self.folder):
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name.endswith(COUNTED):
                        blocks += entry.stat().st_blocks
        return blocks * 512

    def left(self) -> int:
        """Bytes that may still be taken."""
        return min(self._left_by_key(), self._left_on_disk())

    def why_full(self) -> str:
        """What has no more room, and what to do about it."""
        if self.most is not None and self._left_by_key() < self._left_on_disk():
            return f"cache_gb={self.most / GB:g} is used up; raise it, or delete what is not needed in {self.folder}"
        return f"the disk of {self.folder} has less than {SPARE / GB:g} GB to spare; free some, or set paths.cache="

    def _left_by_key(self) -> int:
        return sys.maxsize if self.most is None else self.most - self.taken()

    def _left_on_disk(self) -> int:
        place = self.folder
        while not place.exists() and place != place.parent:
            place = place.parent
        return shutil.disk_usage(place).free - SPARE

    @contextmanager
    def room(self, size: int) -> Iterator[bool]:
        """Whether `size` more bytes may be taken, for as long as the block lasts: others wait that would take them."""
        size += SLACK
        if self.most is None:
            yield self.left() >= size
            return
        descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield self.left() >= size
        finally:
            os.close(descriptor)  # and with it the lock


def _folders(top: Path) -> list[str]:
    try:
        with os.scandir(top) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
