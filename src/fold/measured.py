"""Normalisation and augmentation of a fold, where keys ask for it measured on the fold's training rows."""

from __future__ import annotations

import dataclasses

import numpy as np

from src.config import AugmentConfig, Config
from src.data.augment import Augment
from src.data.cache import ImageStore
from src.data.spec import Normalisation
from src.data.statistics import pixel_statistics


def measure_pixels(
    config: Config, store: ImageStore, rows: np.ndarray, normalisation: Normalisation
) -> tuple[Normalisation, Augment]:
    """`normalisation` of the model, or with normalise=data that of the images of `rows` (N,); the ranges of augment.*,
    with brightness from the images if augment.fit_brightness."""
    if config.normalise == "model" and not config.augment.fit_brightness:
        return normalisation, ranges(config.augment)
    found = pixel_statistics(store, rows)
    if config.normalise == "data":
        normalisation = Normalisation(tuple(found.mean.tolist()), tuple(found.std.tolist()))
    return normalisation, ranges(config.augment, found.brightness_range())


def ranges(config: AugmentConfig, brightness: float | None = None) -> Augment:
    """The configured ranges; `brightness` takes that one's place if augment.fit_brightness."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    if values.pop("fit_brightness") and brightness is not None:
        values["brightness"] = brightness
    return Augment(**values)
