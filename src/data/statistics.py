"""What the pixels of some rows are like: mean and standard deviation of the channels, and how bright each image is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from src.data.augment import LUMA
from src.data.cache import ImageStore


class PixelStatistics(NamedTuple):
    """Of samples in 0..1: mean and std (C,) of the channels; brightness (n,), the mean luma of each image, or the mean
    of its channels where there are not three. float64."""

    mean: np.ndarray
    std: np.ndarray
    brightness: np.ndarray

    def brightness_range(self) -> float:
        """b such that factors 1 ± b on a median image reach from the darkest twentieth of the images to the brightest.

        Half of the distance between the 5th and 95th percentile over the median, up to 0.9.
        """
        low, middle, high = np.percentile(self.brightness, [5, 50, 95])
        return float(min(0.9, (high - low) / (2 * max(middle, 1 / 255))))


def pixel_statistics(store: ImageStore, rows: np.ndarray, most: int = 5000) -> PixelStatistics:
    """Over whole images of `rows` (N,), each with the same weight whatever its shape; of at most `most` rows, spread
    evenly.

    Deterministic, so that a resumed run and every process find the same. A channel that never changes has a std of
    1/255. Raises UserError for an unreadable image, as the store does.
    """
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).round().astype(int))]
    spec = store.spec
    levels = np.arange(256) / 255
    means, squares = (np.empty((len(chosen), spec.channels)) for _ in range(2))
    for i, row in enumerate(chosen):
        channels = store.pixels(int(row)).reshape(-1, spec.channels).T
        if spec.dtype != np.uint8:  # counting 65,536 levels costs more than it saves
            shares = channels / spec.full
            means[i], squares[i] = shares.mean(1), (shares**2).mean(1)
            continue
        counts = np.stack([np.bincount(channel, minlength=256) for channel in channels])
        means[i], squares[i] = counts @ levels / counts[0].sum(), counts @ levels**2 / counts[0].sum()
    mean = means.mean(0)
    std = np.sqrt(np.maximum(squares.mean(0) - mean**2, 0))
    bright = means @ LUMA.astype(float) if spec.channels == 3 else means.mean(1)
    return PixelStatistics(mean, np.maximum(std, 1 / 255), bright)
