"""Decoded images in a memory-mapped file: decoded once, shared by all folds, runs, stages and workers.

Each image has a slot of fixed capacity in one sparse file, so a slot costs disk space only once it is filled. Decoding
is deterministic, so two processes that fill one slot at the same time write the same bytes: no locks are needed. The
maps are only read; what is written goes through the file, because a full disk ends a process that writes to a map
(SIGBUS), whereas a write to the file fails like any other, and the image is then decoded each time. So are those
that a `DiskBudget` has no room for: the slots are filled as the rows come, until it is used up. A row's shape
is written after its pixels and is what marks the slot as filled: height and width as uint16, (0, 0) for an
empty slot, and the reserved value (0, 1) for an image that was found to be unreadable and need not be tried again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from src.archives import read_files, shown, stamp
from src.data.decode import WIDEST
from src.data.disk_budget import SPARE, DiskBudget
from src.data.spec import RGB, ImageSpec
from src.errors import MissingPackage, UserError

UNREADABLE = (0, 1)
TOLD = ".full"  # the end of the name of a file that is there once a full disk has been reported


class ImageStore:
    """Decoded images of one table by row number; `pixels(row)` decodes on the first call only.

    spec: what the images are. root: folder that `paths` ((N,) bytes, utf-8; see src/archives.py) are in.
    short_side, max_megapixels: see `decode`.
    folder: where the map lives, or None to decode each time. budget: of the disk; None: no more than the disk has.
    unreadable: what an image that cannot be read is: "error" raises, "blank" is a mid-grey picture, "mark" is one too
    and lets the evaluation batches mark the row, so that its prediction is NaN.
    Pickles as paths and file names only, so loader workers share the pages and hold no Python object per row.
    """

    def __init__(
        self,
        root: Path,
        paths: np.ndarray,
        short_side: int,
        folder: Path | None = None,
        unreadable: Literal["error", "blank", "mark"] = "error",
        max_megapixels: float = 100.0,
        spec: ImageSpec = RGB,
        budget: DiskBudget | None = None,
    ) -> None:
        self.spec, self.budget = spec, budget
        self.root, self.paths, self.short_side = Path(root).resolve(), paths, short_side
        self.unreadable, self.max_megapixels = unreadable, max_megapixels
        self.companions: list[ImageStore] = []  # of the same rows at other sizes, filled by the same read of a file
        self.file: Path | None = None
        self._bad: set[int] = set()  # the unreadable rows that this process has come across
        self._pixels: np.ndarray | None = None
        self._shapes: np.ndarray | None = None
        self._files: list[BinaryIO] = []  # of pixels and shapes, open for writing
        self._full = False
        self.capacity = int(WIDEST * short_side * short_side) * spec.channels  # samples
        if folder is not None and len(paths):
            self.file = folder / f"{fingerprint(self.root, paths, max_megapixels)}-{short_side}{spec.suffix}"
            _make_sparse(self.file.with_suffix(".shapes"), len(paths) * 4)
            _make_sparse(self.file.with_suffix(".pixels"), len(paths) * self.capacity * spec.dtype.itemsize)
            with suppress(OSError):
                self.file.with_suffix(TOLD).unlink()

    def __len__(self) -> int:
        return len(self.paths)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_pixels": None, "_shapes": None, "_files": []}

    def at_most(self, rows: np.ndarray) -> int:
        """Bytes that the images of rows (n,) int64 take, decoded: those in the cache by their size, others at most."""
        samples = np.full(len(rows), self.capacity)
        if self.file is not None and len(rows):
            if self._shapes is None:
                self._open()
            assert self._shapes is not None
            known = self._shapes[rows].astype(np.int64).prod(axis=1) * self.spec.channels
            samples = np.where(known > self.spec.channels, known, samples)  # (0, 1): one that cannot be read
        return int(samples.sum()) * self.spec.dtype.itemsize

    def path(self, row: int) -> str:
        """For messages."""
        return shown(self.root, self.paths[row])

    def pixels(self, row: int) -> np.ndarray:
        """(H, W, C) samples of a row. Where it cannot be read: UserError that names the file, or mid-grey."""
        if self.file is None:
            return self._decoded(row)
        if self._pixels is None or self._shapes is None:
            self._open()
        assert self._pixels is not None and self._shapes is not None
        height, width = self._shapes[row]
        if height and width:  # two writes: another process may have done, or been killed after, one of them
            channels = self.spec.channels
            return self._pixels[row, : int(height) * int(width) * channels].reshape(height, width, channels)
        if (height, width) == UNREADABLE and self.unreadable != "error":  # an error is to say why: it tries again
            return self._blank(row)
        return self._decoded(row)

    def is_marked(self, row: int) -> bool:
        """Whether `pixels(row)`, called before, gave the stand-in of a row that is to be marked."""
        return self.unreadable == "mark" and row in self._bad

    def is_blank(self, row: int) -> bool:
        """Whether `pixels(row)`, called before, gave the stand-in of an image that cannot be read."""
        return row in self._bad

    def _decoded(self, row: int) -> np.ndarray:
        """The image of a row from its file; written to its slot, if there is one."""
        try:
            files = read_files(self.root, self.paths[row])
        except MissingPackage:
            raise
        except UserError:  # not remembered: what is missing today may be there tomorrow
            if self.unreadable == "error":
                raise
            return self._blank(row)
        for other in self.companions:
            other.fill(row, files)
        try:
            image = self.spec.read_files(files, self.short_side, self.max_megapixels, self.path(row))
        except MissingPackage:
            raise
        except UserError:
            self._write(row, None, UNREADABLE)
            if self.unreadable == "error":
                raise
            return self._blank(row)
        self._write(row, image, image.shape[:2])
        return image

    def fill(self, row: int, files: list[bytes]) -> None:
        """Decode the contents of the files of a row into its slot, unless it is filled."""
        if self.file is None:
            return
        if self._pixels is None or self._shapes is None:
            self._open()
        assert self._shapes is not None
        if self._shapes[row].any():
            return
        try:
            image = self.spec.read_files(files, self.short_side, self.max_megapixels, self.path(row))
            self._write(row, image, image.shape[:2])
        except MissingPackage:
            raise
        except UserError:
            self._write(row, None, UNREADABLE)

    def _write(self, row: int, image: np.ndarray | None, shape: tuple[int, ...]) -> None:
        if not self._files or self._full:
            return
        pixels, shapes = self._files
        try:
            with self._room(0 if image is None else image.nbytes) as there_is:
                if not there_is:
                    raise OSError(self.budget.why_full() if self.budget is not None else "")
                # pwrite, because forked workers share the place that seek would move
                place = row * self.capacity * self.spec.dtype.itemsize
                if image is not None and os.pwrite(pixels.fileno(), image.tobytes(), place) < image.nbytes:
                    raise OSError("the disk is full")
                os.pwrite(shapes.fileno(), np.array(shape, np.uint16).tobytes(), row * 4)
        except OSError as error:
            self._full = True
            self._tell(error.strerror or str(error))

    def _room(self, size: int) -> AbstractContextManager[bool]:
        return nullcontext(True) if self.budget is None else self.budget.room(size)

    def _tell(self, why: str) -> None:
        """One line, whatever the number of processes that come across it: the first one makes a file."""
        assert self.file is not None and self._shapes is not None
        try:
            os.close(os.open(self.file.with_suffix(TOLD), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        except OSError:
            pass
        kept = np.count_nonzero(self._shapes[:, 0])
        text = f"{kept} of {len(self)} decoded images are kept, the others are decoded each time ({why})"
        print(f"{self.file}: {text}", flush=True)

    def share(self) -> float:
        """About which share of the images there is room for, those that are kept already among them."""
        if self.file is None or self.budget is None:
            return float(self.file is not None)
        needed = len(self) * usual_size(self.short_side, self.spec)
        held = self.file.with_suffix(".pixels").stat().st_blocks * 512
        return min(1.0, (held + max(0, self.budget.left())) / needed)

    def _blank(self, row: int) -> np.ndarray:
        self._bad.add(row)
        return np.full((self.short_side, self.short_side, self.spec.channels), self.spec.middle, self.spec.dtype)

    def _open(self) -> None:
        assert self.file is not None
        pixels, shapes = self.file.with_suffix(".pixels"), self.file.with_suffix(".shapes")
        self._files = [open(file, "r+b", buffering=0) for file in (pixels, shapes)]  # noqa: SIM115
        # as plain arrays, because each slice of a memmap goes through Python code of numpy (measure: fetch)
        self._pixels = np.asarray(np.memmap(pixels, self.spec.dtype, "r", shape=(len(self.paths), self.capacity)))
        self._shapes = np.asarray(np.memmap(shapes, np.uint16, "r", shape=(len(self.paths), 2)))


def has_room(folder: Path, rows: int, short_side: int, spec: ImageSpec = RGB) -> bool:
    """Whether the disk of `folder` has room for `rows` decoded images of usual shape (4:3) and 1 GB to spare.

    Asked before the map is made, so that checkpoints and predictions find room as well.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free > rows * usual_size(short_side, spec) + SPARE


def usual_size(short_side: int, spec: ImageSpec) -> float:
    """Bytes of a decoded image of usual shape (4:3)."""
    return short_side**2 * 4 / 3 * spec.channels * spec.dtype.itemsize


def fingerprint(root: Path, paths: np.ndarray, max_megapixels: float = 100.0) -> str:
    """Changes with the table's paths and with the size or time of any file, or of the archive that it stands in, so
    that stale pixels are not served; and with the limit, so that an image which was too large is tried again under
    another one.

    Up to 50,000 rows every file is looked at (0.2 s on a local disk); above that, that many of them, evenly spread.
    """
    digest = hashlib.sha256(f"{root}\0{len(paths)}\0{max_megapixels}\0".encode())
    digest.update(np.ascontiguousarray(paths).tobytes())
    for row in np.unique(np.linspace(0, len(paths) - 1, min(len(paths), 50_000)).astype(int)):
        digest.update(stamp(root, paths[row]).encode())
    return digest.hexdigest()[:16]


def _make_sparse(file: Path, size: int) -> None:
    """A file of `size` zero bytes that occupies no disk until written; one that is there already is left alone."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "ab") as handle:
            if os.fstat(handle.fileno()).st_size < size:
                os.truncate(file, size)
    except OSError as error:
        raise UserError(
            f"{file}: cannot make the image cache ({error.strerror}); free some disk or set cache=false"
        ) from None
