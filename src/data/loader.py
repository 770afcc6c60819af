"""Batches by work order: each order names its rows, their size and the random seed.

One loader lives as long as the run: the stage's size and strength travel in the order, so workers are never rebuilt
and prefetching runs on across stages. Nothing here knows epochs; `training/stages.py` writes the orders.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from src.data.augment import Augment, centre_view, geometry, sample
from src.data.cache import ImageStore
from src.data.resizing import resize
from src.data.transforms import albumentations_pipeline, made_by, refuse_other_pictures
from src.errors import UserError
from src.log import say_once
from src.parent import signalled_without

if TYPE_CHECKING:  # it makes the batches of this file
    from src.data.on_device import Resident

_OWNER = os.getpid()


class Window(NamedTuple):
    """One evaluation crop: its position (y, x) and zoom, the factor on `size` that the short side gets.

    squash: the whole image, squeezed into the square instead of cut.
    """

    position: tuple[float, float] = (0.5, 0.5)
    zoom: float = 1.0
    squash: bool = False


class Order(NamedTuple):
    """What a worker needs to make one batch.

    rows: (B,) int64 rows of the table; -1 pads the last batch to a full one. size: pixels.
    augment: ranges for training, or None for the evaluation windows. seed: of this batch's random draws.
    """

    rows: np.ndarray
    size: int
    augment: Augment | None = None
    seed: tuple[int, ...] = (0,)
    crop: float = 1.0
    windows: tuple[Window, ...] = (Window(),)


class Batch(NamedTuple):
    """images (W, B, S, S, C) samples by window (W = 1 in training), colour (B, C, C + 1) float32 or None, rows (B,)
    int64, -1 where padding fills the batch, readable (B,) bool: False for a row whose image could not be read and is
    mid-grey (a store with "mark")."""

    images: Tensor
    colour: Tensor | None
    rows: Tensor
    readable: Tensor


class Orders(torch.utils.data.Sampler):  # type: ignore[type-arg]
    """The orders of the present pass of a loader whose workers outlive it."""

    orders: Iterable[Order] = ()

    def __iter__(self) -> Iterator[Order]:
        return iter(self.orders)


class OrderedImages(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Dataset whose index is an `Order`. A UserError (an unreadable image) is returned, not raised, so that it
    crosses the process border in one line instead of as a worker's traceback."""

    def __init__(self, store: ImageStore, workers: int = 0) -> None:
        self.store, self.workers = store, workers

    def __getitem__(self, order: Order) -> Batch | PipedBatch | UserError:
        cv2.setNumThreads(0)  # workers are the parallelism; nested threads would fight for the same cores
        try:
            batch = training_batch(self.store, order) if order.augment else evaluation_batch(self.store, order)
        except UserError as error:
            return error
        if self.workers and not has_shared_room(batch, self.workers):
            return by_pipe(batch)
        return batch


class PipedBatch(NamedTuple):
    """A batch as bytes, for which there is no room in the shared memory."""

    arrays: tuple[Any, ...]


SHARED = "/dev/shm"


def has_shared_room(batch: Batch, workers: int) -> bool:
    """Whether the shared memory has room for this batch, and for one more of each worker, also of another loader: torch
    passes tensors between processes there, and a worker that finds it full is killed by the system. Containers often
    have 64 MB."""
    try:
        room = os.statvfs(SHARED)
    except OSError:  # not on this system
        return True
    size = sum(tensor.nbytes for tensor in batch if tensor is not None)
    return room.f_bavail * room.f_frsize > 2 * (workers + 1) * size + (1 << 20)


def by_pipe(batch: Batch) -> PipedBatch:
    return PipedBatch(tuple(None if tensor is None else tensor.numpy() for tensor in batch))


def from_pipe(passed: PipedBatch) -> Batch:
    say_once(f"{SHARED} has no room for batches of this size: they come through pipes, which takes longer (workers=0?)")
    return Batch(*(None if array is None else torch.from_numpy(array) for array in passed.arrays))  # type: ignore[arg-type]


def training_batch(store: ImageStore, order: Order) -> Batch:
    """Augmented crops of `order.rows`, a function of the order alone."""
    assert order.augment is not None
    spec, count = store.spec, len(order.rows)
    draws = sample(order.augment, count, np.random.default_rng(order.seed), spec.channels)
    pipeline = albumentations_pipeline(order.augment.albumentations)
    if pipeline is not None:
        pipeline.set_random_seed(int(np.random.default_rng(order.seed).integers(2**31)))
    images = np.empty((count, order.size, order.size, spec.channels), spec.dtype)
    for i, row in enumerate(order.rows):
        if pipeline is None:
            geometry(store.pixels(int(row)), order.size, draws, i, images[i])
        else:
            image = geometry(store.pixels(int(row)), order.size, draws, i)
            made = made_by(pipeline, image, "one of them")
            refuse_other_pictures(made, image, "one of them")
            images[i] = made
    for erased in np.flatnonzero(draws.erase[:, 2]):
        top, left, bottom, right = (draws.erase[erased] * order.size).round().astype(int)
        images[erased, top:bottom, left:right] = spec.grey
    tensors = (torch.from_numpy(each) for each in (images[None], draws.colour, order.rows, np.ones(count, bool)))
    return Batch(*tensors)


def evaluation_batch(store: ImageStore, order: Order) -> Batch:
    """All windows of `order.rows`, each image fetched once; padding (-1) stays black."""
    spec, count = store.spec, len(order.rows)
    readable = np.ones(count, bool)
    images = np.zeros((len(order.windows), count, order.size, order.size, spec.channels), spec.dtype)
    for i, row in enumerate(order.rows[order.rows >= 0]):  # padding is at the end
        pixels = store.pixels(int(row))
        readable[i] = not store.is_marked(int(row))
        for w, window in enumerate(order.windows):
            if window.squash:
                images[w, i] = resize(pixels, order.size, order.size)
            else:
                images[w, i] = centre_view(pixels, order.size, order.crop / window.zoom, window.position)
    return Batch(torch.from_numpy(images), None, torch.from_numpy(order.rows), torch.from_numpy(readable))


def batches(
    store: ImageStore,
    orders: Iterable[Order],
    workers: int,
    device: torch.device | None = None,
    resident: Resident | None = None,
) -> Iterator[Batch]:
    """The batches of `orders`, in order, made by `workers` processes (0: in this one), for a consumer on `device`; or
    where they are `resident`, there. These are training batches, of rows that are there.

    Within `kept_workers` the processes of an earlier call for this store are used again.
    Raises UserError for the first image that cannot be read.
    """
    if resident is not None:
        yield from map(resident.training_batch, orders)
        return
    pin = device is not None and device.type == "cuda"
    loader = _idle_loader(store, workers, pin)
    if loader is None:
        loader = _make_loader(store, workers, pin)
    loader.sampler.orders = orders
    try:
        for batch in handed_over(loader) if workers else loader:
            if isinstance(batch, UserError):
                raise batch
            yield from_pipe(batch) if isinstance(batch, PipedBatch) else batch
            if device is not None and device.type == "xla":
                # XLA records operations until it is asked to run them: asking for the next batch ends a step, as in
                # torch_xla's own MpDeviceLoader (which cannot carry our named tuples)
                import torch_xla

                torch_xla.sync()
    finally:  # a pass that is left early as well: the next one discards what is still on its way
        loader.sampler.orders = ()
        if workers and _idle is not None:
            _idle.append(loader)


def handed_over(loader: Iterable[Batch | UserError]) -> Iterator[Batch | UserError]:
    """The batches of a loader; a process of it that is killed while it hands one over ends it in torch's own words for
    one that is killed at any other time."""
    try:
        yield from loader
    except (ConnectionError, EOFError) as error:
        raise RuntimeError(f"DataLoader worker is killed while it hands over a batch ({error})") from error


@contextmanager
def kept_workers() -> Iterator[None]:
    """While it is open, the processes of a pass wait for the next one over the same store, instead of being started
    again for every validation. At its end they end. Passes that overlap (validation amid training) have their own."""
    global _idle
    outer, _idle = _idle, []
    try:
        yield
    finally:
        _idle = outer


# The loaders whose processes wait for a next pass, or None outside of `kept_workers`.
_idle: list[Any] | None = None


def _idle_loader(store: ImageStore, workers: int, pin: bool) -> Any:
    for loader in _idle or ():
        if loader.dataset.store is store and (loader.num_workers, loader.pin_memory) == (workers, pin):
            assert _idle is not None
            _idle.remove(loader)
            return loader
    return None


def _make_loader(store: ImageStore, workers: int, pin: bool) -> Any:
    return torch.utils.data.DataLoader(
        OrderedImages(store, workers),
        batch_size=None,  # an order is a whole batch already
        sampler=Orders(),
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        persistent_workers=bool(workers) and _idle is not None,
        worker_init_fn=partial(live_and_die_with_the_parent, os.getpid()),
    )


def evaluation_orders(
    rows: np.ndarray,
    batch_size: int,
    size: int,
    crop: float,
    windows: tuple[Window, ...] = (Window(),),
    rank: int = 0,
    world: int = 1,
) -> list[Order]:
    """Orders that visit each of `rows` once, this process' share, every batch full (padded with -1).

    All processes get the same number of batches, so that collective calls match.
    """
    total = batch_size * world
    padded = np.full(-(-len(rows) // total) * total, -1, np.int64)
    padded[: len(rows)] = rows
    shares = padded.reshape(-1, world, batch_size)[:, rank]
    return [Order(share, size, crop=crop, windows=windows) for share in shares]


def live_and_die_with_the_parent(parent: int, worker: int) -> None:
    """Ctrl-C and `timeout` signal the whole process group: a worker that died of it would take the run along, before
    it has written its checkpoint.

    When the parent is killed, so is the worker: by itself it would look for its parent every 5 s only, and until then
    it keeps the memory and, having inherited it, the lock of the fold, so that nobody could go on with it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signalled_without(parent, signal.SIGKILL)


@atexit.register
def _end_workers() -> None:
    """Kill workers that are left when Python ends, after a bug for instance: multiprocessing would ask them to stop
    with the SIGTERM that they ignore, and wait for ever."""
    if os.getpid() != _OWNER:  # a fork of this process has inherited the hook, but not the workers
        return
    left = [child for child in multiprocessing.active_children() if child.daemon]
    if left:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would complain of their end
    for child in left:
        child.kill()


def _as_it_is(batch: Any) -> Any:
    return batch
