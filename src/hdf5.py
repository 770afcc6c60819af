"""Datasets of HDF5 files as files in folders: a group is a folder, a dataset an image or a folder of numbered ones.

A file that cannot be read raises OSError, a missing package MissingPackage.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from src.errors import MissingPackage

SUFFIXES = (b".h5", b".hdf5")
# A group of more members than this is taken for one kind, that of its first ones: to ask each takes 20 us.
ASKED = 20_000
SHORT = 16  # three axes, of which the first or last is at most this long, are one image with its channels


def list_members(archive: bytes, name: bytes) -> Iterator[tuple[bytes, bool]]:
    """The name of each member of the group or dataset of images `name` (empty: the file's root), and whether it is an
    image. Nothing where there is no such group."""
    item = _item(archive, name)
    if item is None:
        return
    if not hasattr(item, "keys"):
        yield from ((b"%d" % row, True) for row in range(_count(item) or 0))
        return
    import h5py

    names = list(item.keys())
    kinds = [issubclass(item.get(key, getclass=True), h5py.Dataset) for key in names[:ASKED]]
    kinds += [all(kinds)] * (len(names) - len(kinds))
    yield from ((key.encode("utf-8", "surrogateescape"), kind) for key, kind in zip(names, kinds, strict=True))


def walk_members(archive: bytes, name: bytes = b"") -> Iterator[bytes]:
    """The paths of all datasets below `name`; of a dataset of many images the dataset."""
    for member, is_image in list_members(archive, name):
        path = name + b"/" + member if name else member
        if is_image:
            yield path
        else:
            yield from walk_members(archive, path)


def is_folder(archive: bytes, name: bytes) -> bool:
    """Whether `name` is a group or a dataset of many images."""
    item = _item(archive, name)
    return item is not None and (hasattr(item, "keys") or _count(item) is not None)


def read_member(archive: bytes, name: bytes) -> bytes:
    """The bytes that a dataset, or the image of that number in one, holds; numbers as an .npy file."""
    item = _item(archive, name)
    if item is not None and hasattr(item, "keys"):
        raise OSError("a group, not a dataset")
    if item is not None:
        value = np.asarray(item[...])
    else:
        above, _, row = name.rpartition(b"/")
        many = _item(archive, above) if above and row.isdigit() else None
        if many is None or int(row) >= (_count(many) or 0):
            raise OSError("no such dataset in the file")
        value = np.asarray(many[int(row)])
    if value.dtype.kind == "O" and not value.shape:  # encoded bytes of any length
        content = value.item()
        return content.encode() if isinstance(content, str) else bytes(content)
    if value.dtype.kind in "SV" or (value.dtype == np.uint8 and value.ndim == 1):
        return value.tobytes()
    if value.dtype.kind not in "buif" or value.ndim < 2:
        raise OSError(f"a dataset of {value.dtype} in {value.ndim} dimensions is no image")
    file = io.BytesIO()
    np.save(file, value)
    return file.getvalue()


def _item(archive: bytes, name: bytes) -> Any:
    """The group or dataset, or None."""
    stat = os.stat(archive)
    file = _open(archive, stat.st_size, stat.st_mtime_ns, os.getpid())
    return file.get(name.decode(errors="surrogateescape")) if name else file


@lru_cache(maxsize=64)
def _open(archive: bytes, size: int, changed: int, process: int) -> Any:
    """process: a forked one opens the file for itself."""
    try:
        import h5py
    except ImportError:
        raise MissingPackage(f"{os.fsdecode(archive)}: reading HDF5 needs a package; pip install h5py") from None
    return h5py.File(os.fsdecode(archive), "r", locking=False)  # a read-only disk has no locks


def _count(item: Any) -> int | None:
    """The number of images in a dataset of many, along its first axis: (N, H, W[, C]) numbers or (N,) encoded images;
    None for any other item."""
    if hasattr(item, "keys") or not item.shape:
        return None
    if item.dtype.kind not in "buif":
        return int(item.shape[0]) if len(item.shape) == 1 else None
    one = len(item.shape) < 3 or (len(item.shape) == 3 and min(item.shape[0], item.shape[2]) <= SHORT)
    return None if one else int(item.shape[0])
