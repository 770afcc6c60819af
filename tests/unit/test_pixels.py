"""Whatever pixels a file holds: ranges, alpha, bands, arrays, several files per image, packages that are missing."""

from __future__ import annotations

import io
import os
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image

from src.data.bad_images import unreadable_rows
from src.data.cache import ImageStore
from src.data.duplicates import find_duplicates
from src.data.loader import batches, evaluation_orders
from src.data.samples import as_samples
from src.data.spec import ImageSpec
from src.data.tiff import read_bands
from src.errors import MissingPackage, UserError

RNG = np.random.default_rng(0)


def as_npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def as_npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def encoded(image: np.ndarray, suffix: str = ".png") -> bytes:
    bgr = image if image.ndim == 2 or image.shape[2] == 1 else image[..., [2, 1, 0, 3][: image.shape[2]]]
    return cv2.imencode(suffix, bgr)[1].tobytes()


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "float16", "float32", "float64", ">i2"])
@pytest.mark.parametrize("samples", ["uint8", "uint16"])
@pytest.mark.parametrize("span", [(-22.5, 80.25), (10.0, 4095.0), (-3000.0, -5.0)])
def test_a_range_is_the_formula(kind: str, samples: str, span: tuple[float, float]) -> None:
    low, high = span
    dtype, full = np.dtype(kind), np.iinfo(samples).max
    limit = 6000 if dtype.kind == "f" else np.iinfo(dtype).max
    values = RNG.uniform(0 if dtype.kind == "u" else -min(limit, 5000), min(limit, 5000), (40, 30, 2)).astype(dtype)
    found = ImageSpec(2, samples, span).read(as_npy(values), 30)
    exact = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * full
    assert found.dtype == samples and np.abs(found - exact).max() <= 0.5 + 1e-2


def test_a_range_of_what_is_no_number() -> None:
    values = np.array([[np.nan, -np.inf, np.inf, 1.0]], np.float32)
    assert as_samples(values, np.dtype(np.uint8), (-1.0, 3.0)).tolist() == [[0, 0, 255, 128]]
    assert as_samples(np.array([[True, False]]), np.dtype(np.uint8), (0.0, 1.0)).tolist() == [[255, 0]]


def test_without_a_range_all_is_as_it_was() -> None:
    values = np.array([[-7, 0, 16000, 32767]], np.int16)
    assert as_samples(values, np.dtype(np.uint8)).tolist() == [[0, 0, 125, 255]]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_twelve_bits_in_sixteen(suffix: str, channels: int) -> None:
    grey = RNG.integers(0, 4096, (20, 24)).astype(np.uint16)
    for samples in ("uint8", "uint16"):
        found = ImageSpec(channels, samples, (0, 4095)).read(encoded(grey, suffix), 20)
        exact = grey / 4095 * np.iinfo(samples).max
        assert found.shape == (20, 24, channels) and np.abs(found - exact[..., None]).max() <= 0.5 + 1e-6
    dark = ImageSpec(channels).read(encoded(grey, suffix), 20)
    assert dark.max() <= 16, "without it, by the range of the type"


def test_equal_values_of_different_pictures_stay_equal() -> None:
    """A picture is never scaled by its own extremes."""
    spec = ImageSpec(1, "uint8", (-30.0, 10.0))
    dark, light = np.full((4, 4), -20.0), np.full((4, 4), -20.0)
    light[0, 0] = 500.0
    assert (spec.read(as_npy(dark), 4)[1] == spec.read(as_npy(light), 4)[1]).all()


def test_the_range_is_part_of_what_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(as_npy(np.full((8, 8), 100.0)))
    names = np.array([b"a.npy"])
    specs = [ImageSpec(1, range=span) for span in (None, (0, 400), (0, 100), (-0.25, 100), (-0.5, 100.0))]
    specs += [ImageSpec(1, alpha="white"), ImageSpec(1, dicom="full")]
    specs += [ImageSpec(1, array="a"), ImageSpec(1, array="b/")]
    stores = [ImageStore(tmp_path, names, 8, tmp_path / "cache", spec=spec) for spec in specs]
    assert len({store.file.with_suffix(".pixels") for store in stores}) == len(stores)
    assert [int(store.pixels(0)[0, 0, 0]) for store in stores[:3]] == [100, 64, 255]


# ---- arrays ---------------------------------------------------------------------------------------------------------


def test_npz() -> None:
    image = RNG.integers(0, 256, (12, 14, 3)).astype(np.uint8)
    np.testing.assert_array_equal(ImageSpec().read(as_npz(anything=image), 12), image)
    two = as_npz(image=image, mask=image[..., 0])
    np.testing.assert_array_equal(ImageSpec(array="image").read(two, 12), image)
    np.testing.assert_array_equal(ImageSpec(1, array="mask").read(two, 12), image[..., :1])
    with pytest.raises(UserError, match=r"x\.npz: holds 2 arrays \(image, mask\); set competition\.array="):
        ImageSpec().read(two, 12, name="x.npz")
    with pytest.raises(UserError, match=r"no array 'imag' \(competition\.array\); did you mean 'image'"):
        ImageSpec(array="imag").read(two, 12)
    with pytest.raises(UserError, match=r"not a readable array"):
        ImageSpec().read(two[:200], 12)


def test_a_large_npz_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = as_npz(x=np.zeros((3000, 3000), np.uint8))
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("unpacked"))
    with pytest.raises(UserError, match=r"above competition\.max_megapixels"):
        ImageSpec(1).read(bomb, 12, max_megapixels=4)


@pytest.mark.parametrize("shape", [(12, 14), (12, 14, 1), (1, 12, 14), (1, 12, 14, 1)])
def test_grey_arrays_as_rgb(shape: tuple[int, ...]) -> None:
    image = RNG.integers(0, 256, shape).astype(np.uint8)
    np.testing.assert_array_equal(ImageSpec().read(as_npy(image), 12), np.repeat(image.reshape(12, 14, 1), 3, axis=2))


def test_scans_of_half_precision(tmp_path: Path) -> None:
    scans = RNG.normal(0, 1, (6, 27, 25)).astype(np.float16)
    found = ImageSpec(6, "uint16", (-4.0, 6.0)).read(as_npy(scans), 100)
    exact = np.clip((np.moveaxis(scans, 0, 2).astype(float) + 4) / 10, 0, 1) * 65535
    assert found.shape == (27, 25, 6) and np.abs(found - exact).max() <= 0.51


# ---- alpha ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["png", "png16", "la", "palette", "webp", "tiff"])
def test_alpha_as_a_choice(form: str) -> None:
    rgba = RNG.integers(0, 256, (16, 20, 4)).astype(np.uint8)
    if form == "la":
        rgba[..., :3] = rgba[..., :1]
        data = saved(Image.fromarray(rgba[..., [0, 3]], "LA"), "PNG")
    elif form == "palette":
        rgba = RNG.integers(0, 256, (4, 4, 4)).astype(np.uint8).repeat(4, 0).repeat(5, 1)
        rgba[..., 3] = np.where(rgba[..., 3] > 128, 255, 0)
        rgba[rgba[..., 3] == 0, :3] = 7
        palette = Image.fromarray(rgba[..., :3]).quantize(17)
        data = saved(palette, "PNG", transparency=int(np.asarray(palette)[rgba[..., 3] == 0][0]))
    elif form == "png16":
        data = encoded(rgba.astype(np.uint16) * 257)
    else:
        options = {"lossless": True, "exact": True} if form == "webp" else {}
        data = saved(Image.fromarray(rgba, "RGBA"), form.upper(), **options)
    colours, share = rgba[..., :3].astype(float), rgba[..., 3:] / 255
    for alpha, expected in {
        "drop": colours,
        "white": colours * share + 255 * (1 - share),
        "black": colours * share,
    }.items():
        found = ImageSpec(alpha=alpha).read(data, 16)
        assert found.shape == (16, 20, 3) and np.abs(found - expected).max() <= 1, alpha
    np.testing.assert_array_equal(ImageSpec(4, alpha="keep").read(data, 16), rgba)
    np.testing.assert_array_equal(ImageSpec(4).read(data, 16), rgba)
    luma = ImageSpec(1, alpha="white").read(data, 16)
    assert np.abs(luma - (colours * share + 255 * (1 - share)) @ [[0.299], [0.587], [0.114]]).max() <= 2


def test_grey_and_alpha_are_two_channels() -> None:
    both = RNG.integers(0, 256, (9, 10, 2)).astype(np.uint8)
    np.testing.assert_array_equal(ImageSpec(2).read(saved(Image.fromarray(both, "LA"), "PNG"), 9), both)


def test_pictures_without_alpha_are_opaque_where_others_keep_theirs() -> None:
    rgb = RNG.integers(0, 256, (9, 10, 3)).astype(np.uint8)
    found = ImageSpec(4, alpha="keep").read(encoded(rgb), 9)
    np.testing.assert_array_equal(found[..., :3], rgb)
    assert (found[..., 3] == 255).all()
    with pytest.raises(UserError, match=r"holds 3 channels, but competition\.channels=4"):
        ImageSpec(4).read(encoded(rgb), 9)
    for alpha in ("white", "black"):
        np.testing.assert_array_equal(ImageSpec(alpha=alpha).read(encoded(rgb), 9), rgb)


def test_alpha_does_not_follow_the_range() -> None:
    rgba = np.full((4, 4, 4), 1000, np.uint16)
    rgba[..., 3] = 65535
    assert (ImageSpec(range=(0, 2000), alpha="white").read(encoded(rgba), 4) == 128).all()


# ---- TIFF -----------------------------------------------------------------------------------------------------------


def tiff(
    image: np.ndarray,
    *,
    colour: bool = False,
    planes: bool = False,
    packed: bool = False,
    extra: int = 0,
    order: str = "<",
    lzw: bytes | None = None,
) -> bytes:
    """A plain writer by the specification: (H, W, B) grey bands in strips of 5 rows, deflated with a horizontal
    predictor if packed, or all in one strip that is there already."""
    height, width, bands = image.shape
    data = image.astype(image.dtype.newbyteorder(order))
    layers = [data[..., k : k + 1] for k in range(bands)] if planes else [data]
    strips = []
    for layer in layers:
        for top in range(0, height, 5):
            strip = layer[top : top + 5]
            if packed:
                left = np.concatenate([np.zeros_like(strip[:, :1]), strip[:, :-1]], axis=1)
                strip = (strip.astype(np.int64) - left.astype(np.int64)).astype(data.dtype)
            raw = strip.tobytes()
            strips.append(zlib.compress(raw) if packed else raw)
    strips = strips if lzw is None else [lzw]
    offsets, place = [], 8
    for strip in strips:
        offsets.append(place)
        place += len(strip)
    body = b"".join(strips) + b"\0" * (place % 2)
    format_ = {"u": 1, "i": 2, "f": 3}[image.dtype.kind]
    bits, counts = image.dtype.itemsize * 8, [len(strip) for strip in strips]
    code, rows = (5, height) if lzw else (8 if packed else 1, 5)
    tags: dict[int, tuple[str, list[int]]] = {
        256: ("L", [width]), 257: ("L", [height]), 258: ("H", [bits] * bands), 259: ("H", [code]),
        262: ("H", [2 if colour else 1]), 273: ("L", offsets), 277: ("H", [bands]), 278: ("L", [rows]),
        279: ("L", counts), 284: ("H", [2 if planes else 1]), 317: ("H", [2 if packed else 1]),
        338: ("H", [0] * (bands - 2 - 2 * colour) + [extra]), 339: ("H", [format_] * bands),
    }  # fmt: skip
    at, entries, behind = 8 + len(body), b"", b""
    start = at + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        raw = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(raw) > 4:
            raw, behind = struct.pack(order + "L", start + len(behind)), behind + raw
        entries += struct.pack(order + "HHL", tag, {"H": 3, "L": 4}[kind], len(values)) + raw.ljust(4, b"\0")
    head = b"II*\0" if order == "<" else b"MM\0*"
    head += struct.pack(order + "L", at)
    return head + body + struct.pack(order + "H", len(tags)) + entries + b"\0" * 4 + behind


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("bands", [2, 4, 6, 13])
@pytest.mark.parametrize("planes", [False, True])
def test_tiffs_of_any_bands(kind: str, bands: int, planes: bool) -> None:
    dtype = np.dtype(kind)
    image = RNG.uniform(0 if dtype.kind == "u" else -250, 250, (23, 31, bands)).astype(dtype)
    spec = ImageSpec(bands, "uint16", (-300.0, 300.0))
    exact = np.clip((image.astype(float) + 300) / 600, 0, 1) * 65535
    for packed in (False, True) if dtype.kind != "f" else (False,):
        for order in "<>":
            found = spec.read(tiff(image, planes=planes, packed=packed, order=order), 23)
            assert found.shape == (23, 31, bands) and np.abs(found - exact).max() <= 0.51


def test_planes_of_sixteen_bits_are_not_mixed_up() -> None:
    image = RNG.integers(0, 65536, (11, 17, 3)).astype(np.uint16)
    np.testing.assert_array_equal(ImageSpec(3, "uint16").read(tiff(image, planes=True), 11), image)


def test_lzw_of_six_bands() -> None:
    image = RNG.integers(0, 50, (20, 16, 6)).astype(np.uint8)
    wide = saved(Image.fromarray(image.reshape(20, 96)), "TIFF", compression="tiff_lzw")
    with Image.open(io.BytesIO(wide)) as written:  # the same samples in the same order, as one grey picture
        (start,), (count,) = written.tag_v2[273], written.tag_v2[279]
    data = tiff(image, lzw=wide[start : start + count])
    np.testing.assert_array_equal(ImageSpec(6).read(data, 20), image)


def test_tiffs_that_are_damaged_or_of_other_channels() -> None:
    image = RNG.integers(0, 256, (20, 30, 6)).astype(np.uint8)
    data = tiff(image)
    with pytest.raises(UserError, match=r"x\.tif: holds 6 channels, but competition\.channels=3"):
        ImageSpec().read(data, 20, name="x.tif")
    for cut in (9, 500, len(data) - 40):
        with pytest.raises(UserError, match=r"x\.tif: "):
            ImageSpec(6).read(data[:cut], 20, name="x.tif")
    assert read_bands(b"II*\0" + b"\xff" * 40) is None


def test_what_an_rgb_tiff_has_beside_its_colours(tmp_path: Path) -> None:
    """Near infrared is a band, or left out where three channels are wanted; what is only clear and opaque is alpha."""
    image = RNG.integers(0, 9000, (20, 30, 4)).astype(np.uint16)
    spec = ImageSpec(4, "uint16", (0, 65535))
    np.testing.assert_array_equal(spec.read(tiff(image, colour=True), 20), image)
    for alpha in ("drop", "white"):
        found = ImageSpec(3, "uint16", (0, 65535), alpha).read(tiff(image, colour=True), 20)
        np.testing.assert_array_equal(found, image[..., :3])
    image[..., 3] = np.where(image[..., 3] > 4000, 65535, 0)
    over = ImageSpec(3, "uint16", alpha="black").read(tiff(image, colour=True), 20)
    np.testing.assert_array_equal(over, np.where(image[..., 3:] > 0, image[..., :3], 0))
    bgra = RNG.integers(0, 256, (20, 30, 4)).astype(np.uint8)
    bgra[..., 3] = 255 * (bgra[..., 3] > 99)
    cv2.imwrite(str(tmp_path / "a.tif"), bgra)
    np.testing.assert_array_equal(ImageSpec().read((tmp_path / "a.tif").read_bytes(), 20), bgra[..., 2::-1])


def test_grey_and_alpha_in_a_tiff() -> None:
    image = RNG.integers(0, 256, (20, 30, 2)).astype(np.uint8)
    np.testing.assert_array_equal(ImageSpec(1).read(tiff(image, extra=2), 20), image[..., :1])


def test_pages_are_bands_where_there_are_as_many(tmp_path: Path) -> None:
    pages = [RNG.integers(0, 65536, (14, 15)).astype(np.uint16) for _ in range(5)]
    cv2.imwritemulti(str(tmp_path / "a.tif"), pages)
    data = (tmp_path / "a.tif").read_bytes()
    np.testing.assert_array_equal(ImageSpec(5, "uint16").read(data, 14), np.stack(pages, 2))
    np.testing.assert_array_equal(ImageSpec(1, "uint16").read(data, 14)[..., 0], pages[0])
    with pytest.raises(UserError, match=r"competition\.channels=4"):
        ImageSpec(4).read(data, 14)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes replaced, put in or cut off, half of the time near the start."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(len(changed) if rng.random() < 0.5 else min(len(changed), 400)))
        how = rng.integers(3)
        if how == 0:
            changed[at : at + 4] = rng.bytes(4)
        elif how == 1:
            changed[at:at] = rng.bytes(int(rng.integers(1, 9)))
        else:
            changed = changed[: max(at, 1)]
    return bytes(changed)


def test_damaged_files_of_every_kind_get_one_line() -> None:
    small = RNG.integers(0, 60_000, (13, 11, 6)).astype(np.uint16)
    files = [tiff(small), tiff(small, planes=True, packed=True), tiff(small[..., :4], colour=True), as_npy(small)]
    files += [as_npz(a=small), as_npz(a=small, b=small), encoded(small[..., :4])]
    specs = [ImageSpec(6, "uint16", (-3.0, 900.0)), ImageSpec(4, alpha="keep"), ImageSpec(alpha="white"), ImageSpec(1)]
    rng, readable, complaints = np.random.default_rng(5), 0, []
    for round_ in range(400):
        data, spec = damaged(files[round_ % len(files)], rng), specs[round_ % len(specs)]
        try:
            found = spec.read(data, 8, 4.0, "x")
            assert found.shape[2] == spec.channels and found.dtype == spec.dtype and found.size
            readable += 1
        except UserError as error:
            complaints.append(str(error))
    assert readable > 10 and len(complaints) > 150
    assert all(each.startswith("x: ") and "\n" not in each for each in complaints)


# ---- packages -------------------------------------------------------------------------------------------------------


def test_avif(monkeypatch: pytest.MonkeyPatch) -> None:
    smooth = cv2.resize(RNG.integers(0, 256, (3, 4, 3)).astype(np.uint8), (64, 48))
    try:
        data = saved(Image.fromarray(smooth), "AVIF", quality=95)
    except (KeyError, OSError):
        pytest.skip("this PIL does not write AVIF")
    assert np.abs(ImageSpec().read(data, 48).astype(int) - smooth).mean() < 4
    with monkeypatch.context() as patch:  # by PIL, where OpenCV has no AVIF
        patch.setattr("src.data.decode.by_opencv", lambda *_: None)
        assert np.abs(ImageSpec().read(data, 48).astype(int) - smooth).mean() < 4


def test_heic_without_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Named, and never taken for a damaged file: not skipped, not replaced, not remembered."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 50
    (tmp_path / "a.heic").write_bytes(data)
    for policy in ("error", "blank", "mark"):
        store = ImageStore(tmp_path, np.array([b"a.heic"]), 8, tmp_path / "cache", policy)
        with pytest.raises(MissingPackage, match=r"a\.heic: reading HEIC needs a package; pip install pillow-heif"):
            store.pixels(0)
        with pytest.raises(MissingPackage, match="pillow-heif"):
            unreadable_rows(store, np.array([0]), 0)
    with pytest.raises(MissingPackage, match="pillow-heif"):
        find_duplicates(tmp_path, np.array([b"a.heic"]), np.zeros(0, "S1"))


# ---- several files per image ----------------------------------------------------------------------------------------


def test_the_channels_of_an_image_in_several_files(tmp_path: Path) -> None:
    colours = ("red", "green", "blue", "yellow")
    images = {colour: RNG.integers(0, 256, (20, 25)).astype(np.uint8) for colour in colours}
    for colour, image in images.items():
        (tmp_path / f"7_{colour}.png").write_bytes(encoded(image))
    path = b"\n".join(b"7_%s.png" % colour.encode() for colour in colours)
    store = ImageStore(tmp_path, np.array([path]), 20, tmp_path / "cache", spec=ImageSpec(4))
    for _ in range(2):
        np.testing.assert_array_equal(store.pixels(0), np.stack([images[colour] for colour in colours], 2))
    before = store.file
    os.utime(tmp_path / "7_blue.png", (1, 1))
    assert ImageStore(tmp_path, np.array([path]), 20, tmp_path / "cache", spec=ImageSpec(4)).file != before
    with pytest.raises(UserError, match=r"4 files to an image, but competition\.channels=3; set it to 4 for the luma"):
        ImageStore(tmp_path, np.array([path]), 20, spec=ImageSpec(3)).pixels(0)
    (tmp_path / "7_blue.png").unlink()
    with pytest.raises(UserError, match=r"7_blue\.png: cannot read the file"):
        ImageStore(tmp_path, np.array([path]), 20, spec=ImageSpec(4)).pixels(0)
    (tmp_path / "7_blue.png").write_bytes(b"torn")
    with pytest.raises(UserError) as error:
        ImageStore(tmp_path, np.array([path]), 20, spec=ImageSpec(4)).pixels(0)
    assert str(error.value).startswith(f"{tmp_path}/7_blue.png: not a readable image")


def test_files_of_other_sizes_and_kinds_follow_the_first() -> None:
    one, other = RNG.integers(0, 256, (20, 25, 3)).astype(np.uint8), np.full((40, 50, 3), 77, np.uint8)
    found = ImageSpec(6).read_files([encoded(one), as_npy(other)], 64)
    np.testing.assert_array_equal(found[..., :3], one)
    assert found.shape == (20, 25, 6) and (found[..., 3:] == 77).all()
    mixed = ImageSpec(2, "uint16").read_files([encoded(one[..., 0]), as_npy(other[..., 0])], 64)
    np.testing.assert_array_equal(mixed[..., 0], one[..., 0].astype(int) * 257)


# ---- archives -------------------------------------------------------------------------------------------------------


@pytest.fixture
def archives(tmp_path: Path) -> tuple[Path, np.ndarray, list[np.ndarray]]:
    """Forty pictures, half of them in a zip file and half in an HDF5 file, as bytes and as arrays."""
    images = [RNG.integers(0, 256, (20 + k % 5, 30, 3)).astype(np.uint8) for k in range(40)]
    names = []
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, h5py.File(tmp_path / "b.hdf5", "w") as file:
        for k, image in enumerate(images):
            if k % 2:
                archive.writestr(f"train/{k}.png", encoded(image))
                names.append(b"a.zip/train/%d.png" % k)
            else:
                file[f"id_{k}"] = np.void(encoded(image)) if k % 4 else image
                names.append(b"b.hdf5/id_%d" % k)
    return tmp_path, np.array(names), images


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_workers_read_one_archive(archives: tuple[Path, np.ndarray, list[np.ndarray]], workers: int) -> None:
    root, names, images = archives
    store = ImageStore(root, names, 20, root / "cache" if workers else None)
    store.pixels(1), store.pixels(0)  # both are open before the workers are forked
    rows = np.arange(40)
    seen = list(batches(store, evaluation_orders(rows, 4, 20, 1.0), workers))
    for batch in seen:
        for row, image in zip(batch.rows.tolist(), batch.images[0].numpy(), strict=True):
            left = (30 - round(20 * 30 / images[row].shape[0])) // 2 if images[row].shape[0] == 20 else None
            if left is not None:
                np.testing.assert_array_equal(image, images[row][:, 5:25])
    assert sorted(np.concatenate([batch.rows for batch in seen]).tolist()) == rows.tolist()
    for row in range(40):
        np.testing.assert_array_equal(store.pixels(row), store.spec.read(encoded(images[row]), 20))


def test_another_archive_gets_another_cache(archives: tuple[Path, np.ndarray, list[np.ndarray]]) -> None:
    root, names, _ = archives
    before = ImageStore(root, names, 20, root / "cache").file
    assert ImageStore(root, names, 20, root / "cache").file == before
    os.utime(root / "a.zip", (1, 1))
    assert ImageStore(root, names, 20, root / "cache").file != before


def test_copies_and_bad_images_within_archives(archives: tuple[Path, np.ndarray, list[np.ndarray]]) -> None:
    root, names, images = archives
    (root / "copy.npy").write_bytes(as_npy(images[3]))
    with zipfile.ZipFile(root / "c.zip", "w") as archive:
        archive.writestr("x.png", encoded(images[8]))
        archive.writestr("torn.png", b"\x89PNG torn")
    test = np.array([b"copy.npy", b"c.zip/x.png", b"c.zip/torn.png", b"c.zip/none.png"])
    found = find_duplicates(root, names, test)
    pairs = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert (8, 41) in pairs and (3, 40) in pairs and len(pairs) == 2
    assert found.unreadable.tolist() == [42, 43]
    bad = unreadable_rows(ImageStore(root, test, 20), np.arange(4), 0)
    assert [row for row, _ in bad] == [2, 3] and "c.zip/torn.png: not a readable" in bad[0][1]


def test_absolute_paths(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    image = RNG.integers(0, 256, (8, 9, 3)).astype(np.uint8)
    (elsewhere / "a.npy").write_bytes(as_npy(image))
    store = ImageStore(tmp_path / "root", np.array([os.fsencode(elsewhere / "a.npy")]), 8)
    np.testing.assert_array_equal(store.pixels(0), image)
    assert store.path(0) == str(elsewhere / "a.npy")
