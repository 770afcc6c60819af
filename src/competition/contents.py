"""What a competition's data are, as short lines that are the same wherever the folder lies."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

import numpy as np

from src.archives import beginning, extent
from src.competition.tables import Competition, Rows
from src.ids import in_parts

# Of a million pictures, so many are asked for their sizes (0.2 s on a local disk), and of so many the first bytes read.
ASKED, READ, BYTES = 50_000, 32, 1 << 20
FOLDS = "folds"  # the part of the data that is no file of the competition


def contents_of_data(competition: Competition, folds: np.ndarray | None = None) -> dict[str, str]:
    """A checksum of each part of the data that decides a run: training and test rows (ids, targets, groups), their
    pictures, and `folds` (N,) int64.

    Of the pictures: their names below the root, sizes and some of their bytes; neither times nor the root, so that a
    folder that was moved or copied is the same data.
    """
    train, test = competition.train, competition.test
    cells = competition.task.cells(competition.y)
    found = {
        "training rows": _digest([train.ids, cells, *_there(train.groups, train.submitted)]),
        "training pictures": _pictures(competition, train),
        "test rows": _digest([test.ids]),
        "test pictures": _pictures(competition, test),
    }
    if folds is not None:
        found[FOLDS] = _digest([train.ids, folds])
    return found


def contents_of_pictures(competition: Competition) -> str:
    """A checksum of the ids and pictures of all rows, whatever their targets are."""
    train, test = competition.train, competition.test
    return f"{_digest([train.ids, test.ids])} {_pictures(competition, train)} {_pictures(competition, test)}"


def _there(*columns: np.ndarray | None) -> list[np.ndarray]:
    return [column for column in columns if column is not None]


def _digest(columns: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for column in columns:
        digest.update(f"{len(column)}\0".encode())
        for number, part in enumerate(in_parts(column)):
            text = "\0" * (number > 0) + "\0".join(map(str, part))
            digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def _pictures(competition: Competition, rows: Rows) -> str:
    root, paths = competition.root, rows.images
    digest = hashlib.sha256(f"{len(paths)}\0".encode())
    for part in in_parts(paths):
        # what is unpacked from a table lies in the cache, under a name of its own
        digest.update(b"".join((os.path.basename(p) if p.startswith(b"/") else p) + b"\0" for p in part))
    for row in _spread(len(paths), ASKED):
        digest.update(extent(root, paths[row]).encode())
    for row in _spread(len(paths), READ):
        digest.update(beginning(root, paths[row], BYTES))
    return digest.hexdigest()[:16]


def _spread(count: int, most: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist() if count else []
