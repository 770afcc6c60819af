"""Mean, deviation and brightness of pixels against numpy on the stacked images."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from src.config import AugmentConfig, build
from src.data.augment import Augment
from src.data.cache import ImageStore
from src.data.spec import Normalisation
from src.data.statistics import PixelStatistics, pixel_statistics
from src.fold.measured import fitted, ranges

LUMA = (0.299, 0.587, 0.114)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageStore, np.ndarray]:
    """Twelve images of 16 x 16 whose channels and brightness differ, and their pixels (12, 16, 16, 3) in 0..1."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    pixels = (rng.random((12, 16, 16, 3)) * [250, 120, 60] * rng.uniform(0.3, 1, (12, 1, 1, 1))).astype(np.uint8)
    for i, image in enumerate(pixels):
        cv2.imwrite(str(root / f"{i}.png"), image[:, :, ::-1])
    return ImageStore(root, np.array([f"{i}.png".encode() for i in range(12)]), 16), pixels / 255


def test_mean_and_std_are_numpys(images: tuple[ImageStore, np.ndarray]) -> None:
    store, pixels = images
    rows = np.array([1, 2, 4, 7, 8, 11])
    found = pixel_statistics(store, rows)
    np.testing.assert_allclose(found.mean, pixels[rows].mean((0, 1, 2)))
    np.testing.assert_allclose(found.std, pixels[rows].std((0, 1, 2)))
    np.testing.assert_allclose(found.brightness, (pixels[rows] @ LUMA).mean((1, 2)), rtol=1e-6)


def test_at_most_so_many_rows_evenly_spread(images: tuple[ImageStore, np.ndarray]) -> None:
    store, pixels = images
    found = pixel_statistics(store, np.arange(12), most=3)
    np.testing.assert_allclose(found.mean, pixels[[0, 6, 11]].mean((0, 1, 2)))


def test_a_channel_that_never_changes(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((8, 8, 3), 51, np.uint8))
    found = pixel_statistics(ImageStore(tmp_path, np.array([b"a.png"]), 8), np.arange(1))
    np.testing.assert_allclose(found.mean, 0.2)
    np.testing.assert_allclose(found.std, 1 / 255)
    assert found.brightness_range() == 0


def test_brightness_range() -> None:
    even = np.linspace(0.3, 0.5, 101)  # 5th and 95th percentile: 0.31 and 0.49, median 0.4
    assert PixelStatistics(even, even, even).brightness_range() == pytest.approx(0.18 / 0.8)
    assert PixelStatistics(even, even, np.array([0.0, 0.0, 0.01, 1.0])).brightness_range() == 0.9


def test_what_the_keys_ask_for(images: tuple[ImageStore, np.ndarray]) -> None:
    store, pixels = images
    own, rows = Normalisation((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)), np.arange(3, 9)
    assert fitted(build({}), store, rows, own) == (own, ranges(AugmentConfig()))
    normalisation, augment = fitted(build({"normalise": "data"}), store, rows, own)
    assert normalisation.mean == pytest.approx(pixels[rows].mean((0, 1, 2))) and augment.brightness == 0.4
    normalisation, augment = fitted(build({"augment": {"fit_brightness": True}}), store, rows, own)
    assert normalisation == own
    assert augment.brightness == pixel_statistics(store, rows).brightness_range() not in (0, 0.4)


def test_ranges_are_the_configured_ones() -> None:
    config = AugmentConfig(rotate=3.0, brightness=0.1)
    values = dataclasses.asdict(config)
    del values["fit_brightness"]
    assert ranges(config) == ranges(config, 0.7) == Augment(**values)
    assert ranges(dataclasses.replace(config, fit_brightness=True), 0.7).brightness == 0.7
