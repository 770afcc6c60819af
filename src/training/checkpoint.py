"""The state of an unfinished fold on disk: written atomically, the last few kept, the newest readable one loaded."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.files import replacing
from src.log import say

NAME = re.compile(r"step(\d+)\.ckpt")


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], keep: int = 2) -> Path:
    """Write `state` (tensors, numbers, strings, dicts, lists) as step<step>.ckpt and drop all but the newest `keep`.

    Written to a temporary name, flushed to disk, then renamed: a kill at any moment leaves the previous one whole.
    """
    import torch  # here, because recipes that only tidy up do without

    path = folder / f"step{step:08d}.ckpt"
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:  # what torch makes of a disk that is full
        reason = str(error).splitlines()[0][:120]
        raise UserError(f"{path}: cannot be written ({reason}); free some disk, the one before it is kept") from None
    there = checkpoints(folder)
    later = [other for other in there if other.name > path.name]  # damaged ones, or we would not be at this step
    for old in [*later, *there[len(later) :][keep:]]:
        old.unlink(missing_ok=True)
    return path


class CheckpointWriter:
    """Writes checkpoints of one folder in the background, one at a time, so that training does not wait for the disk.

    A checkpoint that cannot be written is reported and the one before it kept: nine hours of training should not end
    for a full disk. Reported once, until one can be written again. `keep`: see `save_checkpoint`.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None
        self._failing = False

    def write(self, step: int, state: Mapping[str, Any]) -> None:
        """Start to write `state`, which must not change from now on; waits for the one before, if need be."""
        self.wait()
        self._writing = self._thread.submit(save_checkpoint, self.folder, step, state, self.keep)

    def wait(self, strict: bool = False) -> None:
        """Until the disk has it. Raises UserError if it could not be written and `strict`."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
            self._failing = False
        except UserError as error:
            if strict:
                raise
            if not self._failing:
                say(f"warning: {error}; training goes on")
            self._failing = True


def checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    found = [path for path in folder.glob("step*.ckpt") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name, reverse=True)


def load_checkpoint(folder: Path, needed: Sequence[str] = ()) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, or None. Damaged ones are reported and passed over, and so
    are those that lack an entry of `needed` (of another version, or a stranger's).

    weights_only: a checkpoint file from a stranger cannot run code.
    """
    import torch

    there = checkpoints(folder)
    for path in there:
        try:
            with zipfile.ZipFile(path) as archive:  # torch does not compare the checksums that it writes
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(damaged)
            state = torch.load(path, map_location="cpu", weights_only=True)
            if missing := [key for key in needed if key not in state]:
                raise KeyError(missing)
            return state
        except Exception as error:  # truncated or foreign: the one before it is still good
            say(f"{path} cannot be read ({type(error).__name__}) and is passed over")
    if there:
        say(f"{folder}: no checkpoint can be read; starting afresh")
    return None


def remove_checkpoints(folder: Path) -> None:
    for path in [*folder.glob("step*.ckpt"), *folder.glob(".step*.tmp")]:
        path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
