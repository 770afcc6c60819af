"""Batches by work order: a loader that is told which rows, at which size, with which random seed.

One loader lives as long as the run: the stage's size and strength travel in the order, so workers are never rebuilt
and prefetching runs on across stages. Nothing here knows epochs; `training/stages.py` writes the orders.
"""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from src.data.augment import Augment, albumentations_pipeline, centre_view, geometry, sample
from src.data.cache import ImageStore
from src.data.resizing import resize
from src.errors import UserError

_OWNER = os.getpid()
GREY = (124, 116, 104)  # ImageNet's mean colour


class View(NamedTuple):
    """One evaluation crop: position (y, x) of the window and zoom, the factor on `size` that the short side gets.

    squash: the whole image, squeezed into the square instead of cut.
    """

    position: tuple[float, float] = (0.5, 0.5)
    zoom: float = 1.0
    squash: bool = False


class Order(NamedTuple):
    """What a worker needs to make one batch.

    rows: (B,) int64 rows of the table; -1 pads the last batch to a full one. size: pixels.
    augment: ranges for training, or None for the evaluation views. seed: of this batch's random draws.
    """

    rows: np.ndarray
    size: int
    augment: Augment | None = None
    seed: tuple[int, ...] = (0,)
    crop: float = 1.0
    views: tuple[View, ...] = (View(),)


class Batch(NamedTuple):
    """images (V, B, S, S, 3) uint8 (V = 1 in training), colour (B, 3, 4) float32 or None, rows (B,) int64.

    In `rows`, -1 is padding and -2 - row a row whose image could not be read and is mid-grey (a store with "mark").
    """

    images: Tensor
    colour: Tensor | None
    rows: Tensor


class Orders(torch.utils.data.Sampler):  # type: ignore[type-arg]
    """The orders of the present pass of a loader whose workers outlive it."""

    orders: Iterable[Order] = ()

    def __iter__(self) -> Iterator[Order]:
        return iter(self.orders)


class OrderedImages(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Dataset whose index is an `Order`. A UserError (an unreadable image) is returned, not raised, so that it
    crosses the process border in one line instead of as a worker's traceback."""

    def __init__(self, store: ImageStore) -> None:
        self.store = store

    def __getitem__(self, order: Order) -> Batch | UserError:
        cv2.setNumThreads(0)  # workers are the parallelism; nested threads would fight for the same cores
        try:
            return training_batch(self.store, order) if order.augment else evaluation_batch(self.store, order)
        except UserError as error:
            return error


def training_batch(store: ImageStore, order: Order) -> Batch:
    """Augmented crops of `order.rows`, a function of the order alone."""
    assert order.augment is not None
    draws = sample(order.augment, len(order.rows), np.random.default_rng(order.seed))
    pipeline = albumentations_pipeline(order.augment.albumentations)
    if pipeline is not None:
        pipeline.set_random_seed(int(np.random.default_rng(order.seed).integers(2**31)))
    images = np.empty((len(order.rows), order.size, order.size, 3), np.uint8)
    for i, row in enumerate(order.rows):
        if pipeline is None:
            geometry(store.pixels(int(row)), order.size, draws, i, images[i])
        else:
            image = geometry(store.pixels(int(row)), order.size, draws, i)
            images[i] = pipeline(image=np.ascontiguousarray(image))["image"]
    for erased in np.flatnonzero(draws.erase[:, 2]):
        top, left, bottom, right = (draws.erase[erased] * order.size).round().astype(int)
        images[erased, top:bottom, left:right] = GREY
    return Batch(torch.from_numpy(images)[None], torch.from_numpy(draws.colour), torch.from_numpy(order.rows))


def evaluation_batch(store: ImageStore, order: Order) -> Batch:
    """All views of `order.rows`, each image fetched once; padding (-1) stays black. Marks rows, see `Batch`."""
    rows = order.rows.copy()
    images = np.zeros((len(order.views), len(order.rows), order.size, order.size, 3), np.uint8)
    for i, row in enumerate(order.rows[order.rows >= 0]):  # padding is at the end
        pixels = store.pixels(int(row))
        if store.is_marked(int(row)):
            rows[i] = -2 - row
        for v, view in enumerate(order.views):
            if view.squash:
                images[v, i] = resize(pixels, order.size, order.size)
            else:
                images[v, i] = centre_view(pixels, order.size, order.crop / view.zoom, view.position)
    return Batch(torch.from_numpy(images), None, torch.from_numpy(rows))


def batches(
    store: ImageStore, orders: Iterable[Order], workers: int, device: torch.device | None = None
) -> Iterator[Batch]:
    """The batches of `orders`, in order, made by `workers` processes (0: in this one), for a consumer on `device`.

    Within `kept_workers` the processes of an earlier call for this store are used again.
    Raises UserError for the first image that cannot be read.
    """
    pin = device is not None and device.type == "cuda"
    loader = _idle_loader(store, workers, pin)
    if loader is None:
        loader = _make_loader(store, workers, pin)
    loader.sampler.orders = orders
    try:
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            yield batch
            if device is not None and device.type == "xla":
                # XLA records operations until told to run them: asking for the next batch ends a step, as in
                # torch_xla's own MpDeviceLoader (which cannot carry our named tuples)
                import torch_xla

                torch_xla.sync()
    finally:  # a pass that is left early as well: the next one discards what is still on its way
        loader.sampler.orders = ()
        if workers and _idle is not None:
            _idle.append(loader)


@contextmanager
def kept_workers() -> Iterator[None]:
    """While it is open, the processes of a pass wait for the next one over the same store, instead of being started
    anew for every validation. At its end they end. Passes that overlap (validation amid training) have their own."""
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
        OrderedImages(store),
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
    views: tuple[View, ...] = (View(),),
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
    return [Order(share, size, crop=crop, views=views) for share in shares]


def live_and_die_with_the_parent(parent: int, worker: int) -> None:
    """Ctrl-C and `timeout` signal the whole process group: a worker that died of it would take the run along, before
    it has written its checkpoint.

    When the parent is killed, so is the worker: by itself it would look for its parent every 5 s only, and until then
    it keeps the memory and, having inherited it, the lock of the fold, so that nobody could go on with it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it was quicker
            os._exit(1)


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


def to_input(images: Tensor, mean: Tensor, std: Tensor, colour: Tensor | None = None) -> Tensor:
    """uint8 (B, S, S, 3) -> normalised float32 (B, 3, S, S), channels_last, with the colour jitter folded in.

    mean, std: (3,) on the device of `images`, for pixels in 0..1. colour: (B, 3, 4) from `augment.colour_matrix`.
    Colour jitter and normalisation are one matrix per image: (M rgb/255 + t - mean) / std.
    """
    count, size = images.shape[:2]
    # What is the same for all pixels is repeated to whole rows of values: with its three values at the end, torch
    # would loop over three numbers at a time. (measure: benchmarks/profile_loader.py)
    pixels = images.reshape(count, size, 3 * size)
    if colour is None:
        x = pixels.float().sub_((255 * mean).repeat(size)).div_((255 * std).repeat(size))
    else:
        linear = (colour[:, :, :3] / (255 * std[:, None])).transpose(1, 2)
        x = torch.bmm(pixels.view(count, -1, 3).float(), linear).view(count, size, 3 * size)
        x.add_(((colour[:, :, 3] - mean) / std).repeat(1, size)[:, None])
    return x.view(count, size, size, 3).permute(0, 3, 1, 2)
