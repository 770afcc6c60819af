"""DICOM files, made here with pydicom: bits, curves, windows, inverted and coloured pixels, frames, odd files."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1

from src.data.cache import ImageStore
from src.data.spec import ImageSpec
from src.errors import MissingPackage, UserError

RNG = np.random.default_rng(0)
TWELVE = RNG.integers(0, 4096, (20, 24)).astype(np.uint16)


def dicom(
    array: np.ndarray,
    bits: int | None = None,
    syntax: Any = ExplicitVRLittleEndian,
    frame: bytes | None = None,
    preamble: bool = True,
    **tags: Any,
) -> bytes:
    """(H, W), (H, W, 3) or (frames, H, W, 1) numbers as a file; `bits` are stored. frame: compressed."""
    colour = array.ndim == 3
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    data.Rows, data.Columns = array.shape[-3:-1] if array.ndim > 2 else array.shape
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    data.BitsAllocated = array.dtype.itemsize * 8
    data.BitsStored = bits or data.BitsAllocated
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(array.dtype.kind == "i")
    if colour:
        data.PlanarConfiguration = 0
    if array.ndim == 4:
        data.NumberOfFrames = len(array)
    data.PixelData = array.tobytes() if frame is None else encapsulate([frame])
    for tag, value in tags.items():
        setattr(data, tag, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = data.SOPClassUID, "1.2.3"
    file = io.BytesIO()
    if preamble:
        data.save_as(file, enforce_file_format=True)
    else:
        del data.file_meta
        data.save_as(file, implicit_vr=True, little_endian=True, enforce_file_format=False)
    return file.getvalue()


def share(found: np.ndarray) -> np.ndarray:
    return found[..., 0] / np.iinfo(found.dtype).max


@pytest.mark.parametrize("samples", ["uint8", "uint16"])
def test_stored_bits_are_the_range(samples: Any) -> None:
    found = ImageSpec(1, samples).read(dicom(TWELVE, 12), 20)
    assert found.shape == (20, 24, 1) and found.dtype == samples
    np.testing.assert_allclose(share(found), TWELVE / 4095, atol=0.51 / np.iinfo(samples).max)
    assert (ImageSpec(3, samples).read(dicom(TWELVE, 12), 20) == found).all()


def test_a_window_is_the_formula_of_the_standard() -> None:
    """PS3.3 C.11.2.1.2: linear, between centre - 0.5 -+ (width - 1) / 2."""
    data = dicom(TWELVE, 12, WindowCenter=1800, WindowWidth=3200)
    exact = np.clip((TWELVE - (1800 - 0.5)) / (3200 - 1) + 0.5, 0, 1)
    np.testing.assert_allclose(share(ImageSpec(1, "uint16").read(data, 20)), exact, atol=1e-5)
    np.testing.assert_allclose(share(ImageSpec(1, "uint16", dicom="full").read(data, 20)), TWELVE / 4095, atol=1e-5)
    several = dicom(TWELVE, 12, WindowCenter=[1800, 7], WindowWidth=[3200, 9])  # the first counts
    np.testing.assert_allclose(share(ImageSpec(1, "uint16").read(several, 20)), exact, atol=1e-5)
    exactly = dicom(TWELVE, 12, WindowCenter=1800, WindowWidth=3200, VOILUTFunction="LINEAR_EXACT")
    exact = np.clip((TWELVE.astype(float) - 1800) / 3200 + 0.5, 0, 1)
    np.testing.assert_allclose(share(ImageSpec(1, "uint16").read(exactly, 20)), exact, atol=1e-5)
    curved = dicom(TWELVE, 12, WindowCenter=1800, WindowWidth=3200, VOILUTFunction="SIGMOID")
    exact = 1 / (1 + np.exp(-4 * (TWELVE.astype(float) - 1800) / 3200))
    np.testing.assert_allclose(share(ImageSpec(1, "uint16").read(curved, 20)), exact, atol=1e-5)
    for nothing in ({"WindowCenter": 100}, {"WindowCenter": 100, "WindowWidth": 0}, {"WindowWidth": None}):
        plain = ImageSpec(1, "uint16").read(dicom(TWELVE, 12, **nothing), 20)
        np.testing.assert_allclose(share(plain), TWELVE / 4095, atol=1e-5)


def test_monochrome1_is_inverted() -> None:
    one = dicom(TWELVE, 12, WindowCenter=1800, WindowWidth=3200)
    other = dicom(
        4095 - TWELVE, 12, PhotometricInterpretation="MONOCHROME1", WindowCenter=4095 - 1800, WindowWidth=3200
    )
    for spec in (ImageSpec(1), ImageSpec(1, dicom="full")):
        a, b = spec.read(one, 20).astype(int), spec.read(other, 20).astype(int)
        assert np.abs(a - b).max() <= 1
    for span in ((0, 4095), (300, 2000)):  # the same numbers are black and white in both
        spec = ImageSpec(1, range=span)
        np.testing.assert_array_equal(spec.read(other, 20), spec.read(one, 20))


def test_inverted_signed_numbers() -> None:
    stored = RNG.integers(-2048, 2048, (16, 18)).astype(np.int16)
    inverted = {"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": 1, "RescaleIntercept": 100}
    plain = {"RescaleSlope": 1, "RescaleIntercept": 100}
    for spec in (ImageSpec(1, dicom="full"), ImageSpec(1, range=(-500, 900))):
        found = spec.read(dicom(-1 - stored, 12, **inverted), 16)
        np.testing.assert_array_equal(found, spec.read(dicom(stored, 12, **plain), 16))


def test_a_range_counts_in_the_units_of_the_modality() -> None:
    """Hounsfield units of a CT: signed numbers, slope and intercept."""
    stored = RNG.integers(-500, 3000, (16, 18)).astype(np.int16)
    data = dicom(stored, 16, RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400)
    units = stored.astype(float) * 2 - 1024
    found = ImageSpec(1, "uint16", (-160.0, 240.0)).read(data, 16)
    np.testing.assert_allclose(share(found), np.clip((units + 160) / 400, 0, 1), atol=1e-5)
    found = ImageSpec(1, "uint16").read(data, 16)
    np.testing.assert_allclose(share(found), np.clip((units - 39.5) / 399 + 0.5, 0, 1), atol=1e-5)
    found = ImageSpec(1, "uint16", dicom="full").read(data, 16)
    np.testing.assert_allclose(share(found), (stored.astype(float) + 32768) / 65535, atol=1e-5)


def test_a_table_in_place_of_a_window() -> None:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4096, 0, 16])
    table.add_new("LUTData", "OW", (np.arange(4096)[::-1] * 16).astype(np.uint16).tobytes())
    found = ImageSpec(1, "uint16").read(dicom(TWELVE, 12, VOILUTSequence=Sequence([table])), 20)
    np.testing.assert_array_equal(found[..., 0], (4095 - TWELVE) * 16)


def test_colour() -> None:
    rgb = RNG.integers(0, 256, (12, 14, 3)).astype(np.uint8)
    np.testing.assert_array_equal(ImageSpec().read(dicom(rgb), 12), rgb)
    planes = dicom(rgb, PlanarConfiguration=1, PixelData=rgb.transpose(2, 0, 1).tobytes())
    np.testing.assert_array_equal(ImageSpec().read(planes, 12), rgb)
    luma = ImageSpec(1).read(dicom(rgb), 12)[..., 0]
    assert np.abs(luma - rgb @ np.array([0.299, 0.587, 0.114])).max() <= 1
    with pytest.raises(UserError, match=r"holds 3 channels, but competition\.channels=2"):
        ImageSpec(2).read(dicom(rgb), 12)


def test_palette() -> None:
    index = RNG.integers(0, 256, (12, 14)).astype(np.uint8)
    colours = RNG.integers(0, 256, (256, 3)).astype(np.uint16) * 257
    tags = {"PhotometricInterpretation": "PALETTE COLOR"}
    for k, name in enumerate(("Red", "Green", "Blue")):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = colours[:, k].tobytes()
    np.testing.assert_array_equal(ImageSpec(3, "uint16").read(dicom(index, **tags), 12), colours[index])


def test_of_several_frames_the_first() -> None:
    frames = RNG.integers(0, 256, (3, 9, 11, 1)).astype(np.uint8)
    np.testing.assert_array_equal(ImageSpec(1).read(dicom(frames), 9), frames[0])


def test_compressed_pixels() -> None:
    smooth = (np.add.outer(np.arange(32), np.arange(40)) * 3).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(smooth).save(file, "JPEG", quality=98)
    found = ImageSpec(1).read(dicom(smooth, syntax=JPEGBaseline8Bit, frame=file.getvalue()), 32)
    assert np.abs(found[..., 0].astype(int) - smooth).max() <= 3
    file = io.BytesIO()
    Image.fromarray(TWELVE).save(file, "JPEG2000", irreversible=False)
    frame = file.getvalue()
    data = dicom(TWELVE, 16, syntax=JPEG2000Lossless, frame=frame[frame.index(b"\xff\x4f\xff\x51") :])
    np.testing.assert_array_equal(ImageSpec(1, "uint16").read(data, 20)[..., 0], TWELVE)


def test_a_decoder_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.pixels.decoders import JPEGLosslessSV1Decoder

    monkeypatch.setattr(JPEGLosslessSV1Decoder, "_available", {})
    data = dicom(TWELVE, 12, syntax=JPEGLosslessSV1, frame=b"\xff\xd8 lossless \xff\xd9")
    with pytest.raises(
        MissingPackage, match=r"a\.dcm: JPEG Lossless.* needs a decoder; pip install 'pylibjpeg\[all\]'"
    ):
        ImageSpec(1).read(data, 20, name="a.dcm")


def test_without_pydicom(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dicom(TWELVE, 12)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingPackage, match=r"a\.dcm: reading DICOM needs a package; pip install"):
        ImageSpec(1).read(data, 20, name="a.dcm")


def test_without_a_preamble_and_without_an_extension(tmp_path: Path) -> None:
    bare = dicom(TWELVE, 12, preamble=False)
    assert bare[128:132] != b"DICM"
    (tmp_path / "bare").write_bytes(bare)
    (tmp_path / "full").write_bytes(dicom(TWELVE, 12))
    store = ImageStore(tmp_path, np.array([b"bare", b"full"]), 20, spec=ImageSpec(1))
    np.testing.assert_array_equal(store.pixels(0), store.pixels(1))
    np.testing.assert_allclose(share(store.pixels(0)), TWELVE / 4095, atol=0.51 / 255)


def test_what_is_too_large_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydicom.pixels, "pixel_array", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(UserError, match=r"x\.dcm: .*declares 24 x 20 pixels, above competition\.max_megapixels"):
        ImageSpec(1).read(dicom(TWELVE, 12), 20, max_megapixels=0.0004, name="x.dcm")
    file = io.BytesIO()
    Image.new("L", (900, 800)).save(file, "JPEG")
    small = dicom(TWELVE.astype(np.uint8), syntax=JPEGBaseline8Bit, frame=file.getvalue())
    with pytest.raises(UserError, match=r"declares 900 x 800 pixels"):
        ImageSpec(1).read(small, 20, max_megapixels=0.5)


@pytest.mark.parametrize("cut", [133, 200, 400, -100])
def test_damaged_files(cut: int) -> None:
    with pytest.raises(UserError) as error:
        ImageSpec(1).read(dicom(TWELVE, 12)[:cut], 20, name="x.dcm")
    assert str(error.value).startswith("x.dcm: not a readable DICOM image (") and "\n" not in str(error.value)


def test_a_report_is_no_picture() -> None:
    data = dicom(TWELVE, 12)
    header = pydicom.dcmread(io.BytesIO(data))
    del header.PixelData, header.Rows
    file = io.BytesIO()
    header.save_as(file)
    with pytest.raises(UserError, match=r"not a readable DICOM image"):
        ImageSpec(1).read(file.getvalue(), 20)
