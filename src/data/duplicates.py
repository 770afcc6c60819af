"""Images that occur more than once, exactly or nearly, within the training rows and between them and the test rows.

Three sieves, each finer and dearer than the last: hashes of the files and of the thumbnails; a 63-bit perceptual hash
that is looked up in several tables, so that no step is quadratic; and a comparison of the candidates' fine detail,
aligned for a crop. Own code, because libraries of image hashes (imagehash, imagededup) stop at the second sieve: on
3,781 photographs of clothes laid on one floor that calls hundreds of different shirts copies of each other.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from src.archives import read_files, shown
from src.data.cache import fingerprint
from src.data.duplicate_search import DOUBTFUL, candidates, perceptual_bits
from src.data.image_distance import SIDE, image_distance
from src.data.spec import RGB, ImageSpec
from src.errors import MissingPackage, UserError
from src.files import DAMAGED, replacing

VERSION = 1  # of the method: stored results of another are not used
LEAST_ALIKE = 0.72  # correlation at 16 x 16: copies are above, most chance candidates below
WHOLE = 100_000  # a short side that no image has
CHUNK = 256  # rows or pairs per task of a worker process
READ_ERRORS = (UserError, cv2.error)


@dataclass(frozen=True)
class Duplicates:
    """P pairs of rows: 0 .. rows - 1 are the training rows, the test rows follow.

    A set of exact copies is listed as pairs of its first row with each other one, and only its first row is compared
    with other images. Ordered by `first`, then `second`; first < second.
    """

    rows: int  # N, number of training rows
    first: np.ndarray  # (P,) int64
    second: np.ndarray  # (P,) int64
    exact: np.ndarray  # (P,) bool: same file or same decoded pixels; else a near copy
    distance: np.ndarray  # (P,) float32, 1 - correlation of the fine detail; 0 if exact
    flipped: np.ndarray  # (P,) bool: the one is a copy of the other's mirror image
    unreadable: np.ndarray  # (U,) int64 rows that could not be decoded, and were left out

    @property
    def groups(self) -> np.ndarray:
        """(N,) int64 group number of each training row: rows with a chain of training pairs between them share it."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        own = self.second < self.rows
        ends = (self.first[own], self.second[own])
        graph = coo_array((np.ones(own.sum(), np.int8), ends), shape=(self.rows, self.rows))
        return connected_components(graph, directed=False)[1].astype(np.int64)


def open_duplicates(
    root: Path,
    paths: np.ndarray,
    test_paths: np.ndarray,
    folder: Path,
    workers: int = 0,
    say: Callable[[str], Any] = lambda text: None,
    spec: ImageSpec = RGB,
) -> Duplicates:
    """`find_duplicates`, kept in `folder` under a fingerprint of the files: it is searched once per state of the data.

    A search that begins is reported through `say`. Raises UserError if the disk refuses.
    """
    file = _kept(root, paths, test_paths, folder, spec)
    known = _read(file, len(paths))
    if known is not None:
        return known
    say(f"looking for duplicates among {len(paths) + len(test_paths)} images")
    found = find_duplicates(root, paths, test_paths, workers, spec)
    with replacing(file) as temporary, open(temporary, "wb") as handle:
        np.savez_compressed(handle, **{name: value for name, value in vars(found).items() if name != "rows"})
    return found


def stored_duplicates(
    root: Path, paths: np.ndarray, test_paths: np.ndarray, folder: Path, spec: ImageSpec = RGB
) -> Duplicates | None:
    """What an earlier `open_duplicates` has found and kept in `folder`; None if it has not searched these files as they
    are now."""
    return _read(_kept(root, paths, test_paths, folder, spec), len(paths))


def _read(file: Path, rows: int) -> Duplicates | None:
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as stored:
            return Duplicates(rows, **{name: stored[name] for name in stored.files})
    except DAMAGED:
        return None  # searched again and replaced


def _kept(root: Path, paths: np.ndarray, test_paths: np.ndarray, folder: Path, spec: ImageSpec) -> Path:
    """Where results are kept, by the state of the files and by what counts as unreadable."""
    both = _together(paths, test_paths)
    return folder / f"duplicates-{fingerprint(Path(root).resolve(), both)}-{len(paths)}{spec.suffix}-v{VERSION}.npz"


def find_duplicates(
    root: Path, paths: np.ndarray, test_paths: np.ndarray, workers: int = 0, spec: ImageSpec = RGB
) -> Duplicates:
    """Copies among the images of `paths` (N,) and `test_paths` (M,), both bytes (utf-8, relative to `root`).

    Found are the same bytes, the same pixels, and copies that were re-saved, resized, brightened, cropped by a few
    percent or mirrored. Decoding and comparing is done by `workers` processes (0: in this one). Unreadable images are
    left out and listed. Some hundred bytes of memory per row.
    """
    both = _together(paths, test_paths)
    root = Path(root).resolve()
    with _pool(workers) as run:
        jobs = [both[start : start + CHUNK] for start in range(0, len(both), CHUNK)]
        described = list(run(partial(_describe, root, spec), jobs))
        digests, looks, bits, doubt, tiles = (np.concatenate([part[k] for part in described]) for k in range(5))
        readable = looks.any(axis=1)

        # ---- exact: the same file, or the same thumbnail and then the same pixels -----------------------------------
        leader = _first_of_equals(digests)
        leader[~readable] = np.flatnonzero(~readable)
        own = np.flatnonzero((leader == np.arange(len(both))) & readable)
        alike = own[_first_of_equals(looks[own])]
        suspects = np.stack([alike, own], 1)[alike != own]
        same = np.concatenate(
            [np.zeros(0, bool), *run(partial(_same_pixels, root, spec), _path_chunks(both, suspects))]
        )
        pointed = np.arange(len(both))
        pointed[suspects[same, 1]] = suspects[same, 0]
        leader = pointed[leader]
        copies = np.flatnonzero(leader != np.arange(len(both)))

        # ---- near: among the first rows of what is left --------------------------------------------------------------
        own = np.flatnonzero((leader == np.arange(len(both))) & readable)
        first, second, mirrored = candidates(bits[own], doubt[own])
        pairs = np.stack([own[first], own[second]], 1)
        alike = _tile_correlation(tiles, pairs, mirrored) >= LEAST_ALIKE
        pairs, mirrored = pairs[alike], mirrored[alike]
        compared = run(partial(_compare, root, spec), _path_chunks(both, pairs, mirrored))
        distance = np.concatenate([np.zeros(0, np.float32), *compared])
    near = np.isfinite(distance)
    columns = {
        "first": np.concatenate([leader[copies], pairs[near, 0]]),
        "second": np.concatenate([copies, pairs[near, 1]]),
        "exact": np.arange(len(copies) + near.sum()) < len(copies),
        "distance": np.concatenate([np.zeros(len(copies), np.float32), distance[near]]),
        "flipped": np.concatenate([np.zeros(len(copies), bool), mirrored[near]]),
    }
    # a symmetric image is found twice, as it is and mirrored: the nearer of the two counts
    order = np.lexsort((columns["distance"], columns["second"], columns["first"]))
    columns = {name: values[order] for name, values in columns.items()}
    repeated = np.zeros(len(order), bool)
    repeated[1:] = np.logical_and(*(columns[end][1:] == columns[end][:-1] for end in ("first", "second")))
    columns = {name: values[~repeated] for name, values in columns.items()}
    return Duplicates(len(paths), **columns, unreadable=np.flatnonzero(~readable))


def _together(paths: np.ndarray, test_paths: np.ndarray) -> np.ndarray:
    return np.concatenate([paths.astype(np.bytes_), test_paths.astype(np.bytes_)])


def _first_of_equals(values: np.ndarray) -> np.ndarray:
    """For each of `values` (N, K) uint8 the first row that is equal to it, (N,) int64."""
    if not len(values):
        return np.zeros(0, np.int64)
    keys = np.ascontiguousarray(values).view(f"V{values.shape[1]}").reshape(-1)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)].astype(np.int64)


def _tile_correlation(tiles: np.ndarray, pairs: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Of the (N, 16, 16) uint8 tiles of each pair, (P, 2) rows, the second `mirrored` or not: (P,) float32."""
    result = np.zeros(len(pairs), np.float32)
    for start in range(0, len(pairs), 65_536):  # a block at a time: 64 MB
        rows = slice(start, start + 65_536)
        a, b = tiles[pairs[rows].T].astype(np.float32)
        b[mirrored[rows]] = b[mirrored[rows], :, ::-1]
        a, b = (x - x.mean(axis=(1, 2), keepdims=True) for x in (a, b))
        norms = np.sqrt((a * a).sum((1, 2)) * (b * b).sum((1, 2)) + 1e-6)
        result[rows] = (a * b).sum((1, 2)) / norms
    return result


def _path_chunks(paths: np.ndarray, pairs: np.ndarray, *more: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    starts = range(0, len(pairs), CHUNK)
    return [(paths[pairs[s : s + CHUNK]], *(column[s : s + CHUNK] for column in more)) for s in starts]


@contextmanager
def _pool(workers: int) -> Iterator[Callable[[Any, list[Any]], Any]]:
    """`map` over processes, or in this one. Spawned, not forked: by now torch and OpenCV may have threads, and a
    forked child inherits their locks without the threads that would release them."""
    if not workers:
        yield map
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_worker) as pool:
        try:
            yield pool.map
        except BaseException:  # Ctrl-C should not wait for what is still queued
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    cv2.setNumThreads(0)  # the processes are the parallelism


# ---- what the workers do --------------------------------------------------------------------------------------------


def _describe(root: Path, spec: ImageSpec, paths: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of B files: digests (B, 16) uint8 of their bytes, digests (B, 16) uint8 of their thumbnails (0: unreadable),
    perceptual hashes (B,) uint64, the least certain of their bits (B, 16) uint8, and tiles (B, 16, 16) uint8."""
    digests, looks = np.zeros((2, len(paths), 16), np.uint8)
    bits, doubt = np.zeros(len(paths), np.uint64), np.zeros((len(paths), DOUBTFUL), np.uint8)
    tiles = np.zeros((len(paths), 16, 16), np.uint8)
    for i, path in enumerate(paths):
        try:
            files = read_files(root, path)
            grey = _thumbnail(files, spec, shown(root, path))
        except MissingPackage:
            raise
        except READ_ERRORS:
            continue
        digests[i] = _digest(b"".join(files))
        square = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        looks[i] = _digest(square.tobytes())
        bits[i], doubt[i] = perceptual_bits(square)
        tiles[i] = cv2.resize(square, (16, 16), interpolation=cv2.INTER_AREA)
    return digests, looks, bits, doubt, tiles


def _same_pixels(root: Path, spec: ImageSpec, job: tuple[np.ndarray]) -> np.ndarray:
    """Whether the two images of each pair, (B, 2) bytes, decode to the same pixels at full size, alpha and 16 bits
    included: (B,) bool."""
    result = np.zeros(len(job[0]), bool)
    for k, (one, other) in enumerate(job[0]):
        try:
            a, b = _whole(root, one, spec), _whole(root, other, spec)
        except READ_ERRORS:
            continue
        result[k] = len(a) == len(b) and all(map(np.array_equal, a, b))
    return result


def _whole(root: Path, path: bytes, spec: ImageSpec) -> list[np.ndarray]:
    """The pixels of each file as they are stored, or, of what OpenCV does not know, as the competition sees them."""
    files = read_files(root, path)
    images = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) for data in files]
    known = [image for image in images if image is not None]
    return known if len(known) == len(files) else [spec.read_files(files, WHOLE)]


def _compare(root: Path, spec: ImageSpec, job: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Distance of each pair, (B, 2) bytes and (B,) bool whether to mirror the second: (B,) float32, inf if they are
    no copies of each other."""
    result = np.full(len(job[0]), np.inf, np.float32)
    held: tuple[bytes, np.ndarray] | None = None
    for k, ((one, other), mirror) in enumerate(zip(*job, strict=True)):
        try:
            if held is None or held[0] != one:  # pairs come ordered by their first row
                held = (one, _thumbnail(read_files(root, one), spec, shown(root, one)))
            b = _thumbnail(read_files(root, other), spec, shown(root, other))
        except READ_ERRORS:
            continue
        away, limit = image_distance(held[1], b[:, ::-1] if mirror else b)
        if away <= limit:
            result[k] = away
    return result


def _thumbnail(files: list[bytes], spec: ImageSpec, name: str) -> np.ndarray:
    return cv2.cvtColor(spec.visible(spec.read_files(files, SIDE, name=name)), cv2.COLOR_RGB2GRAY)


def _digest(data: bytes) -> np.ndarray:
    return np.frombuffer(hashlib.blake2b(data, digest_size=16).digest(), np.uint8)
