"""The survey of a competition's pixels: each kind of file gets the keys that read it well, and a sentence why."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image

from src.data.spec import ImageSpec
from src.data.survey import PixelSurvey, survey_pixels
from src.errors import MissingPackage, UserError
from tests.unit.test_dicom import dicom
from tests.unit.test_pixels import as_npy, as_npz, encoded, saved, tiff

RNG = np.random.default_rng(1)


def survey(root: Path, contents: list[bytes], suffix: str = "", most: int = 64) -> PixelSurvey:
    for k, data in enumerate(contents):
        (root / f"{k}{suffix}").write_bytes(data)
    found = survey_pixels(root, [b"%d%s" % (k, suffix.encode()) for k in range(len(contents))], most)
    assert found.why and all("\n" not in sentence for sentence in found.why)
    spec = ImageSpec(found.channels, found.samples, found.range, found.alpha, found.dicom, found.array)
    for data in contents[:3]:  # what it advises can be read
        assert spec.read(data, 8).shape[2] == found.channels
    return found


def keys(found: PixelSurvey) -> tuple[Any, ...]:
    return found.channels, found.samples, found.range, found.alpha, found.dicom, found.array


DEFAULTS = (3, "uint8", None, "drop", "window", None)


@pytest.mark.parametrize(
    "form", ["colour.jpg", "colour.png", "grey.jpg", "grey.png", "colour.tif", "one bit", "palette"]
)
def test_pictures_of_eight_bits_are_the_defaults(tmp_path: Path, form: str) -> None:
    shape = (40, 50) if form.startswith("grey") else (40, 50, 3)
    images = [RNG.integers(0, 256, shape).astype(np.uint8) for _ in range(3)]
    if form in ("one bit", "palette"):
        mode = {"one bit": "1", "palette": "P"}[form]
        contents = [saved(Image.fromarray(image).convert(mode), "PNG") for image in images]
    else:
        contents = [encoded(image, form[-4:]) for image in images]
    found = survey(tmp_path, contents)
    assert keys(found) == DEFAULTS == keys(PixelSurvey(*DEFAULTS, []))
    assert any("grey pictures of 8 bits are read as RGB" in each for each in found.why) == (
        form.startswith("grey") or form == "one bit"
    )


def test_twelve_bits_in_sixteen(tmp_path: Path) -> None:
    found = survey(tmp_path, [encoded(RNG.integers(0, 4096, (30, 30)).astype(np.uint16)) for _ in range(5)])
    assert keys(found) == (1, "uint16", (0.0, 4095.0), "drop", "window", None)
    assert any(each.startswith("12 bits in 16: values up to 409") for each in found.why)
    assert any("5 pictures of the training rows" in each for each in found.why)


def test_sixteen_bits(tmp_path: Path) -> None:
    colour = [encoded(RNG.integers(0, 65536, (30, 30, 3)).astype(np.uint16)) for _ in range(3)]
    assert keys(survey(tmp_path, colour)) == (3, "uint16", None, "drop", "window", None)


def test_a_few_bright_points_do_not_make_the_range(tmp_path: Path) -> None:
    """Nearly all of a 16-bit picture below 900, as in fluorescence microscopes."""
    images = [RNG.integers(100, 900, (64, 64)).astype(np.uint16) for _ in range(4)]
    for image in images:
        image[0, 0] = 60_000
    found = survey(tmp_path, [encoded(image) for image in images])
    low, high = found.range or (0, 0)
    assert 0 <= low <= 100 and 900 <= high < 1100 and found.samples == "uint16"


def test_decibels_in_two_bands(tmp_path: Path) -> None:
    arrays = [RNG.normal(-24, 3, (40, 40, 2)).astype(np.float32) for _ in range(10)]
    found = survey(tmp_path, [as_npy(array) for array in arrays])
    pool = np.concatenate([array.ravel() for array in arrays])
    low, high = found.range or (0, 0)
    inside = ((pool > low) & (pool < high)).mean()
    assert found.channels == 2 and found.samples == "uint16" and inside > 0.998
    assert pool.min() - 0.1 <= low < np.percentile(pool, 0.1) and np.percentile(pool, 99.9) < high <= pool.max() + 0.1


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: RNG.random((9, 12, 12)), (9, "uint16", (0.0, 1.0))),
        (lambda: RNG.random((12, 12, 5)).astype(np.float16) * 255, (5, "uint16", (0.0, 255.0))),
        (lambda: RNG.integers(0, 256, (12, 12, 3)).astype(np.float64), (3, "uint8", (0.0, 255.0))),
        (lambda: RNG.integers(0, 256, (12, 12)).astype(np.uint8), (1, "uint8", None)),
        (lambda: RNG.integers(0, 256, (4, 12, 12)).astype(np.uint8), (4, "uint8", None)),
        (lambda: RNG.integers(0, 1024, (1, 12, 12, 3)).astype(np.int32), (3, "uint16", (0.0, 1023.0))),
        (lambda: RNG.random((12, 12)) > 0.5, (1, "uint8", None)),
        (lambda: np.full((12, 12), 3.5), (1, "uint16", None)),
        (lambda: np.full((12, 12), np.nan), (1, "uint16", None)),
    ],
)
def test_arrays(tmp_path: Path, make: Any, expected: tuple[Any, ...]) -> None:
    found = survey(tmp_path, [as_npy(make()) for _ in range(4)], ".npy")
    assert keys(found)[:3] == expected


def test_numbers_that_are_none_do_not_count(tmp_path: Path) -> None:
    array = RNG.normal(0, 1, (50, 50)).astype(np.float32)
    array[0, :5] = [np.nan, np.inf, -np.inf, np.nan, np.nan]
    low, high = survey(tmp_path, [as_npy(array)]).range or (0, 0)
    assert -5 < low < -2 and 2 < high < 5


def test_several_arrays(tmp_path: Path) -> None:
    image, mask = RNG.integers(0, 256, (20, 20, 3)).astype(np.uint8), np.zeros((20, 20), np.uint8)
    assert survey(tmp_path, [as_npz(mask=mask, image=image)] * 2).array == "image"
    assert survey(tmp_path, [as_npz(mask=mask, other=image)] * 2).array == "other"
    assert survey(tmp_path, [as_npz(mask=image)] * 2).array is None


def test_bands_of_a_tiff(tmp_path: Path) -> None:
    found = survey(tmp_path, [tiff(RNG.integers(0, 10_000, (20, 20, 6)).astype(np.uint16)) for _ in range(3)])
    assert keys(found)[:3] == (6, "uint16", (0.0, 16383.0)) and any("6 bands" in each for each in found.why)


def test_near_infrared_is_no_alpha(tmp_path: Path) -> None:
    contents = [tiff(RNG.integers(0, 9000, (20, 20, 4)).astype(np.uint16), colour=True) for _ in range(3)]
    assert keys(survey(tmp_path, contents)) == (4, "uint16", (0.0, 16383.0), "drop", "window", None)


def test_dicom_with_windows(tmp_path: Path) -> None:
    window = {"WindowCenter": 1800, "WindowWidth": 3200}
    twelve = [RNG.integers(0, 4096, (20, 24)).astype(np.uint16) for _ in range(4)]
    contents = [dicom(array, 12, **window) for array in twelve[:3]]
    contents += [dicom(twelve[3], 12, PhotometricInterpretation="MONOCHROME1", **window)]
    found = survey(tmp_path, contents)
    assert keys(found) == (1, "uint16", None, "drop", "window", None)
    assert any("1 of 4 are MONOCHROME1" in each for each in found.why)


def test_dicom_of_which_some_have_windows(tmp_path: Path) -> None:
    """Read by one range: else the same number would be bright in one and dark in another."""
    twelve = [RNG.integers(0, 4096, (20, 24)).astype(np.uint16) for _ in range(4)]
    contents = [dicom(twelve[0], 16, WindowCenter=1800, WindowWidth=3200), *(dicom(array, 16) for array in twelve[1:])]
    found = survey(tmp_path, contents)
    assert keys(found) == (1, "uint16", (0.0, 4095.0), "drop", "full", None)
    assert any("3 of 4 have no window" in each for each in found.why)


def test_dicom_without_windows_by_what_they_use(tmp_path: Path) -> None:
    ct = [RNG.normal(40, 200, (30, 30)).astype(np.int16) for _ in range(4)]
    found = survey(tmp_path, [dicom(array + 1024, 16, RescaleSlope=1, RescaleIntercept=-1024) for array in ct])
    low, high = found.range or (0, 0)
    assert found.dicom == "full" and -900 < low < -450 and 500 < high < 1000
    x_rays = [dicom(RNG.integers(0, 4096, (20, 24)).astype(np.uint16), 16) for _ in range(3)]
    assert keys(survey(tmp_path, x_rays))[:3] == (1, "uint16", (0.0, 4095.0))
    colour = [dicom(RNG.integers(0, 256, (20, 24, 3)).astype(np.uint8)) for _ in range(3)]
    assert keys(survey(tmp_path, colour))[:3] == (3, "uint8", None)


@pytest.mark.parametrize(
    ("shape", "below", "opacity", "alpha"),
    [
        (40, 0, 255, "drop"),  # opaque
        (40, 0, 0, "white"),  # dark shapes on nothing
        (230, 0, 0, "black"),  # bright ones
        (40, None, 0, "drop"),  # a whole picture below
    ],
)
def test_alpha(tmp_path: Path, shape: int, below: int | None, opacity: int, alpha: str) -> None:
    rgba = np.full((30, 30, 4), shape, np.uint8)
    rgba[..., 3] = 255
    rgba[:10] = 0 if below is not None else RNG.integers(0, 256, (10, 30, 4))
    rgba[:10, :, 3] = opacity
    found = survey(tmp_path, [saved(Image.fromarray(rgba, "RGBA"), "PNG")] * 2)
    assert keys(found) == (3, "uint8", None, alpha, "window", None) and any("alpha" in each for each in found.why)


def test_several_files_per_image(tmp_path: Path) -> None:
    for k in range(3):
        for colour in ("red", "green", "blue", "yellow"):
            (tmp_path / f"{k}_{colour}.png").write_bytes(encoded(RNG.integers(0, 256, (20, 20)).astype(np.uint8)))
    paths = [b"\n".join(b"%d_%s.png" % (k, c) for c in (b"red", b"green", b"blue", b"yellow")) for k in range(3)]
    found = survey_pixels(tmp_path, paths)
    assert keys(found) == (4, *DEFAULTS[1:]) and any("4 files to an image, the luma of each" in e for e in found.why)


def test_archives(tmp_path: Path) -> None:
    image = encoded(RNG.integers(0, 4096, (20, 20)).astype(np.uint16))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/1.png", image)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["2"] = np.void(image)
    found = survey_pixels(tmp_path, [b"a.zip/x/1.png", b"b.h5/2"])
    assert found.range == (0.0, 4095.0)


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = encoded(RNG.integers(0, 256, (20, 20, 3)).astype(np.uint8))
    found = survey(tmp_path, [good, good, good, b"torn", b""])
    assert keys(found) == DEFAULTS and found.why[0].startswith("2 of 5 pictures cannot be read, the first: ")
    with pytest.raises(UserError, match=r"no known image format"):
        survey_pixels(tmp_path, [b"3", b"4"])
    with pytest.raises(UserError, match="no pictures"):
        survey_pixels(tmp_path, [])
    import sys

    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 50)
    with pytest.raises(MissingPackage):
        survey_pixels(tmp_path, [b"0", b"a"])


def test_only_so_many_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encoded(np.zeros((4, 4, 3), np.uint8)))
    looked = []
    from src.data import survey as module

    monkeypatch.setattr(module, "look_at", lambda *given, real=module.look_at: looked.append(1) or real(*given))
    survey_pixels(tmp_path, [b"a.png"] * 100_000, most=16)
    assert len(looked) == 16


def test_rarer_kinds_do_not_count(tmp_path: Path) -> None:
    array = as_npy(RNG.normal(size=(6, 20, 20)).astype(np.float32))
    found = survey(tmp_path, [array, array, array, encoded(np.zeros((4, 4, 3), np.uint8))])
    assert found.channels == 6 and any("3 of 4 files are of one kind (array)" in each for each in found.why)


def test_pictures_of_any_size_and_a_numpy_array_of_paths(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(cv2.resize(RNG.integers(0, 256, (4, 4, 3)).astype(np.uint8), (1, 900))).save(file, "JPEG")
    (tmp_path / "a.jpg").write_bytes(file.getvalue())
    assert keys(survey_pixels(tmp_path, np.array([b"a.jpg"] * 3))) == DEFAULTS
