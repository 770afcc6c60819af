"""What reaches the loader's processes of a table with very many rows: arrays, and no object of Python per row.

An object's pages are copied into each process that looks at it, as its reference count changes there.
"""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from src import tars, zips
from src.competition.tables import Competition, load_competition
from src.config import CompetitionConfig
from src.data.cache import ImageStore
from src.data.disk_budget import DiskBudget
from src.data.loader import OrderedImages, evaluation_orders

N = 600


def reachable(thing: Any, seen: set[int]) -> Iterator[Any]:
    """`thing` and all that it holds, through attributes, containers and arrays of objects."""
    if id(thing) in seen or isinstance(thing, (str, bytes, int, float, type)):
        return
    seen.add(id(thing))
    yield thing
    parts: list[Any] = [getattr(thing, "__dict__", None)]
    if isinstance(thing, dict):
        parts += [*thing.keys(), *thing.values()]
    elif isinstance(thing, (list, tuple, set, frozenset)) or (isinstance(thing, np.ndarray) and thing.dtype == object):
        parts += list(thing)
    for part in parts:
        yield from reachable(part, seen)


def per_row(thing: Any) -> list[str]:
    """The containers and arrays of objects in it that have about as many elements as there are rows."""
    kinds = (dict, list, tuple, set, frozenset)
    return [
        f"{type(each).__name__} of {len(each)}"
        for each in reachable(thing, set())
        if (isinstance(each, kinds) or (isinstance(each, np.ndarray) and each.dtype == object and each.ndim))
        and len(each) > N // 4
    ]


@pytest.fixture(params=["folder", "zip", "tar"])
def competition(request: pytest.FixtureRequest, tmp_path: Path) -> Competition:
    """N rows whose pictures lie in a folder, or in two archives."""
    picture = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    names = [f"a{row:05}.png" for row in range(N)]
    kind = request.param
    for shard in range(2):
        if kind == "folder":
            (tmp_path / "train").mkdir(exist_ok=True)
            for name in names[shard::2]:
                (tmp_path / "train" / name).write_bytes(picture)
        elif kind == "zip":
            with zipfile.ZipFile(tmp_path / f"train-{shard}.zip", "w") as archive:
                for name in names[shard::2]:
                    archive.writestr(name, picture)
        else:
            with tarfile.open(tmp_path / f"train-{shard}.tar", "w") as archive:
                for name in names[shard::2]:
                    info = tarfile.TarInfo(name)
                    info.size = len(picture)
                    archive.addfile(info, io.BytesIO(picture))
    rows = "".join(f"a{row:05},c{row % 3}\n" for row in range(N))
    (tmp_path / "train.csv").write_text(f"id,label\n{rows}")
    (tmp_path / "sample_submission.csv").write_text("id,label\na00000,c0\n")
    images = "train" if kind == "folder" else f"train-*.{kind}/{{id}}"
    keys = CompetitionConfig(root=str(tmp_path), train_images=images, test_images=images)
    return load_competition(keys, say=lambda _: None)


def test_no_object_per_row_reaches_the_loader(competition: Competition, tmp_path: Path) -> None:
    store = ImageStore(
        competition.root, competition.train.images, 8, tmp_path / "cache", budget=DiskBudget(tmp_path / "cache", 10**6)
    )
    dataset = OrderedImages(store, workers=2)
    for order in evaluation_orders(np.arange(N), 64, 8, 1.0)[:2]:
        dataset[order]
    assert per_row(dataset) == [] and per_row(competition) == []
    assert per_row(["x"] * N) and per_row({"a": np.array([[]] * N + [None], dtype=object)})  # it would be seen
    for module, end in ((zips, "zip"), (tars, "tar")):
        for archive in competition.root.glob(f"*.{end}"):
            index = module._index(os.fsencode(archive))
            assert len(index.members) == N // 2 and per_row(index) == []
