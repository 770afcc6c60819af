"""Numbers of any kind as samples of 8 or 16 bits, and the channels of a picture as many as are asked for."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import cv2
import numpy as np

from src.errors import UserError, counted

Alpha = Literal["drop", "white", "black", "keep"]
Range = tuple[float, float]


def as_samples(image: np.ndarray, dtype: np.dtype, span: Range | None = None) -> np.ndarray:
    """Numbers of any kind as samples of `dtype` (uint8, uint16).

    span: the numbers that become 0 and the largest sample; what is beyond them is cut off, and what is no number
    becomes 0. None: by their type's range up to 16 bits, else as shares of 1, 255 or 65535, whichever holds the
    largest of them; below 0 is cut off.
    """
    image = image.astype(image.dtype.newbyteorder("="), copy=False)  # an array of another machine's byte order
    if span is not None:
        return _spread(image, dtype, span)
    if image.dtype == dtype:
        return image
    if image.dtype in (np.uint8, np.int8, np.uint16, np.int16):
        full = float(np.iinfo(image.dtype).max)
    else:
        image = np.nan_to_num(image.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        top = float(image.max())
        full = next((full for full in (1.0, 255.0, 65535.0) if top <= full), top)
    return (image.clip(0, full) / full * np.iinfo(dtype).max).round().astype(dtype)


def _spread(image: np.ndarray, dtype: np.dtype, span: Range) -> np.ndarray:
    if image.dtype == bool:
        image = image.view(np.uint8)
    if image.dtype.itemsize <= 2 and image.dtype.kind in "ui":
        return look_up(_table(image.dtype, dtype, span), image)
    low, high = span
    # float32 in place: a picture of 100 megapixels is large. Where it would lose the differences, doubles.
    fine = image.dtype.itemsize > 4 or (image.dtype.kind in "ui" and image.dtype.itemsize == 4)
    shares = image.astype(np.float64 if fine else np.float32)
    np.subtract(shares, low, out=shares)
    np.multiply(shares, np.iinfo(dtype).max / (high - low), out=shares)
    np.nan_to_num(shares, copy=False, nan=0.0, posinf=np.inf, neginf=-np.inf)
    return shares.clip(0, np.iinfo(dtype).max, out=shares).round(out=shares).astype(dtype)


@lru_cache(maxsize=16)
def _table(kind: np.dtype, dtype: np.dtype, span: Range) -> np.ndarray:
    return _spread(codes(kind).astype(np.float64), dtype, span)


def codes(kind: np.dtype) -> np.ndarray:
    """All numbers of an integer type of 8 or 16 bits, in the order of their bits as unsigned ones."""
    return np.arange(2 ** (8 * kind.itemsize)).astype(f"u{kind.itemsize}").view(kind)


def look_up(table: np.ndarray, image: np.ndarray) -> np.ndarray:
    """What the table, made of all `codes`, has for each integer of the image."""
    return table[np.ascontiguousarray(image).view(f"u{image.dtype.itemsize}")]


def without_alpha(image: np.ndarray, dtype: np.dtype, span: Range | None, alpha: Alpha) -> np.ndarray:
    """(H, W, B + 1) numbers, the last their opacity, as (H, W, B) samples: the colours as they are (`drop`), or over
    white or black; as (H, W, B + 1) with `keep`. The opacity counts by its type, whatever the span."""
    colours, opacity = as_samples(image[..., :-1], dtype, span), as_samples(image[..., -1:], dtype)
    if alpha == "drop":
        return np.ascontiguousarray(colours)
    if alpha == "keep":
        return np.concatenate([colours, opacity], axis=2)
    full = float(np.iinfo(dtype).max)
    over = colours.astype(np.float32)
    ground = full if alpha == "white" else 0.0
    over -= ground
    over *= opacity.astype(np.float32) / full
    over += ground
    return over.round(out=over).astype(dtype)


def fit_channels(image: np.ndarray, channels: int, name: str, alpha: Alpha = "drop") -> np.ndarray:
    """(H, W, B) samples as (H, W, channels): grey repeated as RGB, RGB as its luma, an opaque alpha added where others
    keep theirs. Raises UserError for any other number of channels."""
    bands = image.shape[2]
    if bands == channels:
        return image
    if alpha == "keep" and channels in (2, 4) and bands in (1, 3):
        image = fit_channels(image, channels - 1, name)
        return np.concatenate([image, np.full_like(image[..., :1], np.iinfo(image.dtype).max)], axis=2)
    if (bands, channels) == (1, 3):
        return np.repeat(image, 3, axis=2)
    if (bands, channels) == (3, 1):
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    raise UserError(
        f"{name}: holds {counted(bands, 'channel')}, but competition.channels={channels}; set it to what the "
        "pictures hold"
    )
