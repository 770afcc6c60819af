"""How uint8 pixels are resized: area averages where much is lost, linear where two neighbours cover every pixel."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

# What shrinks by less may be resized linearly: its two neighbours still cover every pixel, so little can alias. OpenCV
# has vector code for it and none for area averages by broken factors: 0.18 ms against 1.17 for 533 x 400 to 341 x 256
# pixels, where photographs then differ by 0.9 of 255 levels in the mean.
LINEAR_BELOW = 2.0


def resize(
    image: np.ndarray, height: int, width: int, out: np.ndarray | None = None, area_from: float = 1.0
) -> np.ndarray:
    """(H, W, C) samples: area averaging when shrinking (no aliasing), linear when enlarging. Into `out` if given.

    area_from: linear as well where neither side shrinks by as much as this factor.
    """
    if image.shape[:2] == (height, width):
        if out is None:
            return image
        out[:] = image
        return out
    kind = cv2.INTER_AREA if averages(image.shape[:2], (height, width), area_from) else cv2.INTER_LINEAR
    return by_fours(lambda part, place: cv2.resize(part, (width, height), place, interpolation=kind), image, out)


def averages(before: tuple[int, ...], after: tuple[int, int], area_from: float = 1.0) -> bool:
    """Whether `resize` averages areas between these (height, width), instead of interpolating linearly."""
    shrinks = before[0] > after[0] and before[1] > after[1]
    return shrinks and max(before[0] / after[0], before[1] / after[1]) >= area_from


def by_fours(
    work: Callable[[np.ndarray, np.ndarray | None], np.ndarray], image: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """`work` (image, out) of OpenCV's on an (H, W, C) image of any number of channels: it takes four at a time at the
    most where it averages areas (OpenCV 5), and leaves out the axis of one channel. Never two at a time, which it would
    warp from places rounded to 1/32 pixel, and thus away from the other channels."""
    channels = image.shape[2]
    if channels in (1, 3, 4):
        made = work(image, out)
        return made if made.ndim == 3 else made[..., None]
    parts, done = [], 0
    while done < channels:
        count = {2: 1, 6: 3}.get(channels - done, 4)
        parts.append(work(np.ascontiguousarray(image[..., done : done + count]), None))
        done += count
    whole = np.concatenate([part if part.ndim == 3 else part[..., None] for part in parts], axis=2)
    if out is None:
        return whole
    out[:] = whole
    return out
