"""Which images of a table cannot be read: found by decoding them all into the cache, on several processes."""

from __future__ import annotations

import copy
import os
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch

from src.data.cache import ImageStore
from src.data.loader import live_and_die_with_the_parent
from src.errors import MissingPackage, UserError

CHUNK = 32  # rows per message between processes


class _Reasons(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Item i: (row, reason) of each unreadable row in the i-th chunk of `rows`."""

    def __init__(self, store: ImageStore, rows: np.ndarray) -> None:
        self.store = copy.copy(store)  # the maps are opened by each process for itself
        self.store.unreadable = "error"
        self.chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, chunk: int) -> list[tuple[int, str]] | MissingPackage:
        cv2.setNumThreads(0)  # the processes are the parallelism
        found = []
        for row in self.chunks[chunk].tolist():
            try:
                self.store.pixels(row)
            except MissingPackage as error:  # returned, so that it crosses the process border in one line
                return error
            except UserError as error:
                found.append((row, str(error)))
        return found


def unreadable_rows(store: ImageStore, rows: np.ndarray, workers: int) -> list[tuple[int, str]]:
    """(row, message) of each of `rows` (N,) int64 whose image cannot be read, in their order.

    All others are in the store's cache afterwards, if it has one; what is there already is not decoded again. The
    message is the UserError's: file, reason, cure. workers: processes, 0 for this one. The store's own policy for
    unreadable images does not matter.
    """
    loader: Any = torch.utils.data.DataLoader(
        _Reasons(store, rows),
        batch_size=None,
        num_workers=min(workers, -(-len(rows) // CHUNK)),
        collate_fn=_as_it_is,
        worker_init_fn=partial(live_and_die_with_the_parent, os.getpid()),
    )
    found = []
    for chunk in loader:
        if isinstance(chunk, MissingPackage):
            raise chunk
        found += chunk
    return found


def _as_it_is(chunk: Any) -> Any:
    return chunk
