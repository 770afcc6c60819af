"""Pictures that are NumPy arrays: `.npy` and `.npz` files of (H, W), (H, W, C) or (C, H, W) numbers."""

from __future__ import annotations

import io
import zipfile
from typing import IO

import numpy as np

from src.archives import CURE
from src.errors import UserError, first_few, nearest

NPY, NPZ = b"\x93NUMPY", b"PK\x03\x04"  # how the files begin


def read_array(data: bytes, max_megapixels: float = 100.0, name: str = "array", key: str | None = None) -> np.ndarray:
    """The array in an .npy file, or in an .npz file the one called `key` (None: the only one), as it is.

    Raises UserError that names the file for what is damaged, holds no plain numbers, or declares more than
    `max_megapixels` million pixels in its two longest sides: such an array is not unpacked at all.
    """
    try:
        if data.startswith(NPZ):
            with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(_member(archive, name, key)) as file:
                _refuse_large(_declared_shape(file), max_megapixels, name)
            with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(_member(archive, name, key)) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        else:
            array = np.load(io.BytesIO(data), allow_pickle=False)
    except UserError:
        raise
    except Exception as error:  # numpy's parser raises all kinds of errors on damaged files
        raise UserError(f"{name}: not a readable array ({' '.join(str(error).split())[:80]}); {CURE}") from None
    if array.dtype.kind not in "buif":
        raise UserError(f"{name}: holds {array.dtype} instead of plain numbers; {CURE}")
    _refuse_large(array.shape, max_megapixels, name)
    return array


def lay_out(array: np.ndarray, channels: int, name: str) -> np.ndarray:
    """An array as (H, W, channels): its channels are the last axis, or else the first; one is repeated as RGB.

    Axes of length 1 in front of three others are taken off. Raises UserError for any other shape.
    """
    shape = array.shape
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 3 and array.shape[2] != channels:
        if array.shape[0] == channels:
            array = array.transpose(1, 2, 0)
        elif channels == 3 and 1 in (array.shape[0], array.shape[2]):
            array = array if array.shape[2] == 1 else array.transpose(1, 2, 0)
            array = np.repeat(array, 3, axis=2)
    if array.ndim != 3 or array.shape[2] != channels or not array.size:
        raise UserError(
            f"{name}: holds an array of {' x '.join(map(str, shape))}, but competition.channels={channels}; {CURE}"
        )
    return array


def array_names(data: bytes) -> list[str]:
    """The names of the arrays in an .npz file; empty for what is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except zipfile.BadZipFile:
        return []


def _member(archive: zipfile.ZipFile, name: str, key: str | None) -> str:
    names = [member.removesuffix(".npy") for member in archive.namelist() if member.endswith(".npy")]
    if key is None and len(names) == 1:
        key = names[0]
    if key not in names:
        there = first_few(names, 10) or "none"
        if key is None:
            raise UserError(f"{name}: holds {len(names)} arrays ({there}); set competition.array= to the picture's")
        raise UserError(f"{name}: holds no array {key!r} (competition.array){nearest(key, names)} (arrays: {there})")
    return f"{key}.npy"


def _declared_shape(file: IO[bytes]) -> tuple[int, ...]:
    """As the header of an .npy file says. Headers of version 3 are only written for structured arrays."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    return readers[np.lib.format.read_magic(file)](file)[0]


def _refuse_large(shape: tuple[int, ...], max_megapixels: float, name: str) -> None:
    sides = sorted((1, 1, *shape))[-2:]
    if sides[0] * sides[1] > max_megapixels * 1e6:
        raise UserError(f"{name}: an array of {shape}, above competition.max_megapixels; {CURE}")
