"""Data as it really is: a table of odd and broken images and csv files with what is promised for each, then fuzzing.

Whatever bytes a file holds, reading it gives a result or a UserError of one line.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from src.competition.csv_file import read_columns, read_header
from src.competition.kinds.single import Single
from src.competition.sample import Sample
from src.competition.submission import submission_table, write_submission
from src.competition.tables import load_competition
from src.config import CompetitionConfig
from src.data.bad_images import unreadable_rows
from src.data.cache import UNREADABLE, ImageStore
from src.data.decode import decode, decode_bytes
from src.data.loader import Order, evaluation_batch, training_batch
from src.errors import UserError

SIDE = 64


@cache
def rgb() -> np.ndarray:
    """(64, 96, 3) uint8: smooth, so that it survives JPEG, and without symmetry."""
    coarse = np.random.default_rng(3).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    return cv2.resize(coarse, (96, 64), interpolation=cv2.INTER_LINEAR)


def grey() -> np.ndarray:
    return rgb()[..., 1]


def three(plane: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(plane)[..., None], 3, axis=2).astype(np.uint8)


def encoded(pixels: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def by_opencv(suffix: str, pixels: np.ndarray) -> bytes:
    done, data = cv2.imencode(suffix, pixels)
    assert done
    return data.tobytes()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(side: int) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(10_000))) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def jpeg_bomb() -> bytes:
    """A small JPEG whose frame header says 65,500 x 65,500."""
    data = bytearray(encoded(rgb(), "JPEG"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def ycck() -> bytes:
    """A CMYK JPEG whose Adobe marker says that it is YCCK."""
    data = bytearray(encoded(Image.fromarray(rgb()).convert("CMYK"), "JPEG", quality=95))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def by_pil(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def turned(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(rgb(), kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {"lossless": True}))


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def with_alpha() -> np.ndarray:
    return np.dstack([rgb(), (np.indices((64, 96))[1] > 40).astype(np.uint8) * 255])


def frames(kind: str) -> bytes:
    first, *rest = [Image.fromarray(np.full((64, 96, 3), value, np.uint8)) for value in (50, 150, 250)]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    return encoded(first, kind, save_all=True, append_images=rest, **lossless)


FIRST = np.full((64, 96, 3), 50, np.uint8)
DEEP = (grey().astype(np.uint16) << 8) | 77  # the low byte must not matter, nor must the high one be clipped
BAD = r"not a readable image \(%s.*\); replace the file.*prepare.*competition\.on_bad_image=skip"
DAMAGED = BAD % "damaged or cut off"
# name: (content, the promised pixels or the message, largest difference, short side)
IMAGES: dict[str, tuple[Callable[[], bytes], Callable[[], np.ndarray] | str, int]] = {
    "grey png": (lambda: encoded(grey(), "PNG"), lambda: three(grey()), 0),
    "grey jpeg": (lambda: encoded(grey(), "JPEG", quality=95), lambda: three(grey()), 6),
    "1 bit": (lambda: encoded(Image.fromarray(grey() > 99), "PNG"), lambda: three((grey() > 99) * 255), 0),
    "palette": (
        lambda: encoded(Image.fromarray(rgb()).convert("P"), "PNG"),
        lambda: np.asarray(Image.fromarray(rgb()).convert("P").convert("RGB")),
        0,
    ),
    "palette with a transparent colour": (
        lambda: encoded(Image.fromarray(rgb()).convert("P"), "PNG", transparency=0),
        lambda: np.asarray(Image.fromarray(rgb()).convert("P").convert("RGB")),
        0,
    ),
    "16 bit grey png": (lambda: encoded(DEEP, "PNG"), lambda: three(grey()), 1),
    "16 bit colour png": (lambda: by_opencv(".png", rgb()[..., ::-1].astype(np.uint16) * 257), rgb, 0),
    "16 bit grey tiff": (lambda: encoded(DEEP, "TIFF"), lambda: three(grey()), 1),
    "dark 16 bit": (  # by the range of the type, not of the image
        lambda: encoded((grey() // 16).astype(np.uint16) * 257, "PNG"),
        lambda: three(grey() // 16),
        0,
    ),
    "float tiff 0..1": (lambda: encoded(grey().astype(np.float32) / 255, "TIFF"), lambda: three(grey()), 0),
    "float tiff 0..255": (lambda: encoded(grey().astype(np.float32), "TIFF"), lambda: three(grey()), 0),
    "float tiff with nan": (
        lambda: encoded(np.where(grey() > 99, grey() / np.float32(255), np.float32(np.nan)).astype(np.float32), "TIFF"),
        lambda: three(np.where(grey() > 99, grey(), 0)),
        0,
    ),
    "float tiff in colour": (lambda: by_opencv(".tiff", rgb()[..., ::-1].astype(np.float32) / 255), rgb, 0),
    "32 bit tiff": (lambda: encoded(grey().astype(np.int32) * 257, "TIFF"), lambda: three(grey()), 0),
    "alpha is left out": (lambda: encoded(with_alpha(), "PNG"), rgb, 0),
    "alpha webp": (lambda: encoded(with_alpha(), "WEBP", lossless=True, exact=True), rgb, 0),
    "grey and alpha": (
        lambda: encoded(Image.merge("LA", [Image.fromarray(grey())] * 2), "PNG"),
        lambda: three(grey()),
        0,
    ),
    "cmyk jpeg": (
        lambda: encoded(Image.fromarray(rgb()).convert("CMYK"), "JPEG", quality=95),
        lambda: rgb(),
        12,
    ),
    "ycck jpeg": (ycck, lambda: by_pil(ycck()), 3),
    "cmyk tiff": (lambda: encoded(Image.fromarray(rgb()).convert("CMYK"), "TIFF"), rgb, 1),
    "bmp": (lambda: encoded(rgb(), "BMP"), rgb, 0),
    "tiff": (lambda: encoded(rgb(), "TIFF"), rgb, 0),
    "tiff with lzw": (lambda: encoded(rgb(), "TIFF", compression="tiff_lzw"), rgb, 0),
    "lossless webp": (lambda: encoded(rgb(), "WEBP", lossless=True), rgb, 0),
    "progressive jpeg": (lambda: encoded(rgb(), "JPEG", progressive=True, quality=95), rgb, 16),
    "gif": (lambda: encoded(rgb(), "GIF"), lambda: by_pil(encoded(rgb(), "GIF")), 0),
    "animated gif": (lambda: frames("GIF"), lambda: FIRST, 0),
    "animated webp": (lambda: frames("WEBP"), lambda: FIRST, 0),
    "animated png": (lambda: frames("PNG"), lambda: FIRST, 0),
    "tiff of three pages": (lambda: frames("TIFF"), lambda: FIRST, 0),
    **{
        f"{kind} turned {way}": (
            lambda kind=kind, way=way: turned(kind, way),
            lambda kind=kind, way=way: by_pil(turned(kind, way)),
            6 if kind == "JPEG" else 0,
        )
        for kind, ways in (("JPEG", range(1, 9)), ("WEBP", (3, 6)))
        for way in ways
    },
    "one pixel": (lambda: encoded(rgb()[:1, :1], "PNG"), lambda: rgb()[:1, :1], 0),
    "one pixel gif": (lambda: encoded(FIRST[:1, :1], "GIF"), lambda: FIRST[:1, :1], 0),
    "1 x 5000": (lambda: encoded(np.full((1, 5000), 9, np.uint8), "PNG"), lambda: np.full((1, 128, 3), 9, np.uint8), 0),
    "5000 x 2": (lambda: encoded(np.full((5000, 2), 9, np.uint8), "BMP"), lambda: np.full((128, 1, 3), 9, np.uint8), 0),
    "jpeg without its end marker": (lambda: encoded(rgb(), "JPEG", quality=95)[:-2], rgb, 16),
    "jpeg with something behind it": (lambda: encoded(rgb(), "JPEG", quality=95) + b"\xff\xda trailer", rgb, 16),
    "jpeg cut off at half": (lambda: cut(encoded(rgb(), "JPEG", quality=95), 0.6), BAD % "it is cut off: [3-6]"),
    "jpeg cut off in its header": (lambda: encoded(rgb(), "JPEG")[:100], BAD % "no known image format, or damaged"),
    "png without its end": (lambda: encoded(rgb(), "PNG")[:-12], rgb, 0),
    "png cut off": (lambda: cut(encoded(rgb(), "PNG"), 0.5), DAMAGED),
    "bmp cut off": (lambda: cut(encoded(rgb(), "BMP"), 0.5), DAMAGED),
    "gif cut off": (lambda: cut(encoded(rgb(), "GIF"), 0.6), DAMAGED),
    "tiff cut off": (lambda: cut(encoded(rgb(), "TIFF"), 0.5), BAD % "damaged|no known"),
    "webp cut off": (lambda: cut(encoded(rgb(), "WEBP"), 0.5), BAD % "damaged|no known"),
    "empty": (lambda: b"", BAD % "the file is empty"),
    "only zeros": (lambda: bytes(5000), BAD % "no known image format"),
    "a web page": (lambda: b"\n<!DOCTYPE html><html><body>404</body></html>", BAD % "it is a web page"),
    "a zip": (lambda: b"PK\x03\x04" + bytes(100), BAD % "no known image format"),
    "svg": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', BAD % "no known image format"),
    "git lfs pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\n", BAD % "no known image format"),
    "postscript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", BAD % "no known|damaged"),
    "png bomb": (lambda: png_bomb(60_000), BAD % "it declares 60000 x 60000 pixels, above competition.max_megapixels"),
    "jpeg bomb": (jpeg_bomb, BAD % "it declares 65500 x 65500 pixels"),
    "webp that is too large": (
        lambda: encoded(np.zeros((1100, 1000), np.uint8), "WEBP"),
        BAD % "it declares 1000 x 1100",
    ),
}
IMAGES = {name: (*case, 0)[:3] for name, case in IMAGES.items()}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.filterwarnings("error")
def test_odd_images(tmp_path: Path, name: str) -> None:
    if int(cv2.__version__.split(".")[0]) < 5 and name in ("float tiff in colour", "WEBP turned 3", "WEBP turned 6"):
        pytest.skip("OpenCV 4 differs in this")
    content, promised, tolerance = IMAGES[name]
    path = tmp_path / "x.jpg"  # the extension never decides
    path.write_bytes(content())
    if isinstance(promised, str):
        with pytest.raises(UserError, match=rf"x\.jpg: {promised}") as error:
            decode(path, SIDE, max_megapixels=1.0)
        assert "\n" not in str(error.value)
    else:
        found, expected = decode(path, SIDE, max_megapixels=1.0), promised()
        if min(expected.shape[:2]) > SIDE:
            expected = expected[:SIDE, :SIDE]
        assert found.dtype == np.uint8 and found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).max() <= tolerance


def test_most_of_a_cut_jpeg_is_used_and_the_rest_is_grey() -> None:
    full = encoded(rgb(), "JPEG", quality=95)
    found = decode_bytes(cut(full, 0.95), SIDE)
    np.testing.assert_array_equal(found[:40], decode_bytes(full, SIDE)[:40])


def test_nothing_is_decoded_for_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UserError, match="declares 20000 x 20000"):
        decode_bytes(png_bomb(20_000), SIDE)


def test_a_png_chunk_that_claims_gigabytes_gets_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(rgb(), "PNG")
    claim = struct.pack(">I", 0x7FFFFFF0) + b"tEXt"
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("OpenCV would allocate what the chunk claims"))
    for place in (33, data.index(b"IDAT") - 4, len(data) - 12):
        result_or_one_line(lambda place=place: decode_bytes(data[:place] + claim + data[place:], SIDE))


def test_damaged_files_are_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    for kind in ("PNG", "BMP", "GIF", "TIFF", "WEBP"):
        with pytest.raises(UserError):
            decode_bytes(cut(encoded(rgb(), kind), 0.5), SIDE)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["folder", "missing", "dangling link", "no permission"])
def test_what_is_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "gone.png")
    elif kind == "no permission":
        path.write_bytes(encoded(rgb(), "PNG"))
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("root may read everything")
    with pytest.raises(UserError, match=r"x\.png: cannot read the file \(.+\); .*competition\.on_bad_image"):
        decode(path, SIDE)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.bin").write_bytes(encoded(rgb(), "PNG"))
    (tmp_path / "x.jpg").symlink_to(tmp_path / "real.bin")
    np.testing.assert_array_equal(decode(tmp_path / "x.jpg", SIDE), rgb())


# ---- the store's policy ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Six images, of which rows 1 and 4 cannot be read (4 is not there)."""
    names = [f"{row}.png" for row in range(6)]
    for row, name in enumerate(names):
        (tmp_path / name).write_bytes(encoded(rgb() // (row + 1), "PNG"))
    (tmp_path / "1.png").write_bytes(b"torn")
    (tmp_path / "4.png").unlink()
    return tmp_path, np.array(names, np.bytes_)


@pytest.mark.parametrize("cached", [True, False])
def test_policies(folder: tuple[Path, np.ndarray], tmp_path: Path, cached: bool) -> None:
    def store(policy: Any) -> ImageStore:
        return ImageStore(*folder, SIDE, tmp_path / "cache" if cached else None, policy)

    rows = np.array([0, 4, 1, 5, -1], np.int64)
    for _ in range(2):  # the second time from the cache
        with pytest.raises(UserError, match=r"1\.png: not a readable image \(no known"):
            store("error").pixels(1)
        blank = store("blank")
        assert (blank.pixels(1) == 128).all() and blank.pixels(1).shape == (SIDE, SIDE, 3)
        assert evaluation_batch(blank, Order(rows, 32)).rows.tolist() == rows.tolist()
        batch = evaluation_batch(store("mark"), Order(rows, 32))
        assert batch.rows.tolist() == rows.tolist() and batch.readable.tolist() == [True, False, False, True, True]
        assert (batch.images[0, 1:3] == 128).all() and not batch.images[0, 4].any()
        np.testing.assert_array_equal(batch.images[0, 0], evaluation_batch(blank, Order(rows, 32)).images[0, 0])
    assert rows.tolist() == [0, 4, 1, 5, -1], "an order is not written to"


def test_training_on_a_blank(folder: tuple[Path, np.ndarray]) -> None:
    from src.data.augment import Augment

    augment = Augment(crop_area=(0.3, 1.0), rotate=20.0, flip=True)
    images = training_batch(ImageStore(*folder, SIDE, None, "blank"), Order(np.array([1, 4]), 32, augment)).images
    assert (images == 128).all()


def test_an_unreadable_row_is_not_decoded_again(
    folder: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ImageStore(*folder, SIDE, tmp_path / "cache", "blank").pixels(1)
    later = ImageStore(*folder, SIDE, tmp_path / "cache", "mark")
    monkeypatch.setattr("src.data.cache.read_files", lambda *_: pytest.fail("read again"))
    assert (later.pixels(1) == 128).all() and later.is_marked(1) and not later.is_marked(0)
    shapes = np.fromfile(later.file.with_suffix(".shapes"), np.uint16).reshape(-1, 2)
    assert tuple(shapes[1]) == UNREADABLE and not shapes[[0, 2, 3, 4, 5]].any()


def test_another_limit_tries_again(folder: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    small, large = (
        ImageStore(*folder, SIDE, tmp_path / "cache", "blank", max_megapixels=limit) for limit in (0.001, 1.0)
    )
    assert (small.pixels(0) == 128).all()
    np.testing.assert_array_equal(large.pixels(0), rgb())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cached", [True, False])
def test_unreadable_rows(folder: tuple[Path, np.ndarray], tmp_path: Path, workers: int, cached: bool) -> None:
    store = ImageStore(*folder, SIDE, tmp_path / "cache" if cached else None, "blank")
    many = np.array([5, 4, 3, 2, 1, 0] * 12, np.int64)
    found = unreadable_rows(store, many, workers)
    assert [row for row, _ in found] == [4, 1] * 12
    assert "4.png: cannot read the file" in found[0][1] and "1.png: not a readable image" in found[1][1]
    assert unreadable_rows(store, np.zeros(0, np.int64), workers) == []
    if cached:
        filled = np.fromfile(store.file.with_suffix(".shapes"), np.uint16).reshape(-1, 2)[:, 0]
        assert (filled > 0).tolist() == [True, False, True, True, False, True]


# ---- csv files and ids ----------------------------------------------------------------------------------------------

TRAIN = "id,label\na1,cat\na2,dog\n"


def competition(root: Path, train: str | bytes, names: tuple[str, ...], sample: str | bytes | None = None) -> Path:
    """A folder in Kaggle layout: train.csv, the images of `names` in train/, one test row."""
    (root / "test").mkdir(parents=True)
    (root / "train").mkdir()
    (root / "train.csv").write_bytes(train if isinstance(train, bytes) else train.encode())
    sample = "id,label\nt,cat\n" if sample is None else sample
    (root / "sample_submission.csv").write_bytes(sample if isinstance(sample, bytes) else sample.encode())
    for name in (*(f"train/{name}" for name in names), "test/t.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def zipped() -> bytes:
    import zipfile

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("train.csv", TRAIN)
    return stream.getvalue()


# name: (train.csv, image names, the promised ids and paths, or the message)
PLAIN = ("a1.png", "a2.png")
TABLES: dict[str, tuple[str | bytes, tuple[str, ...], dict[str, str] | str]] = {
    "spaces": (
        "id,label\na 1,cat\nb  2.jpg,dog\n",
        ("a 1.png", "b  2.jpg"),
        {"a 1": "a 1.png", "b  2.jpg": "b  2.jpg"},
    ),
    "unicode": (
        "id,label\nÄpfel,cat\n猫🐈,dog\n",
        ("Äpfel.png", "猫🐈.jpg"),
        {"Äpfel": "Äpfel.png", "猫🐈": "猫🐈.jpg"},
    ),
    "leading zeros": ("id,label\n007,cat\n7,dog\n", ("007.png", "7.png"), {"007": "007.png", "7": "7.png"}),
    "numbers": (
        "id,label\n1e3,cat\n1000.0,dog\n",
        ("1e3.png", "1000.0.png"),
        {"1e3": "1e3.png", "1000.0": "1000.0.png"},
    ),
    "words for nothing": ("id,label\nNA,cat\nnull,dog\n", ("NA.png", "null.png"), {"NA": "NA.png", "null": "null.png"}),
    "nested": (
        "id,label\nx/y/a,cat\nx/b.jpg,dog\n",
        ("x/y/a.png", "x/b.jpg"),
        {"x/y/a": "x/y/a.png", "x/b.jpg": "x/b.jpg"},
    ),
    "no extension at all": ("id,label\na,cat\nb,dog\n", ("a", "b"), {"a": "a", "b": "b"}),
    "exact before completed": ("id,label\na,cat\nb,dog\n", ("a", "a.png", "b.png"), {"a": "a", "b": "b.png"}),
    "upper case extension": ("id,label\na,cat\nb,dog\n", ("a.JPG", "b.Png"), {"a": "a.JPG", "b": "b.Png"}),
    "bom, crlf, blank lines": (
        b"\xef\xbb\xbfid,label\r\n\r\na1,cat  \r\n  a2\t,dog\r\n\r\n",
        PLAIN,
        {"a1": "a1.png", "a2": "a2.png"},
    ),
    "quoted comma": ('id,label\n"a,1",cat\na2,dog\n', ("a,1.png", "a2.png"), {"a,1": "a,1.png", "a2": "a2.png"}),
    "no newline at the end": ("id,label\na1,cat\na2,dog", PLAIN, {"a1": "a1.png", "a2": "a2.png"}),
    "two extensions": (TRAIN, (*PLAIN, "a1.jpg"), r"train\.csv: id 'a1' fits 2 images \(a1\.jpg and a1\.png\)"),
    "climbing": (
        "id,label\n../a1,cat\na2,dog\n",
        PLAIN,
        r"1 image paths point outside competition\.root \(.*\.\./a1\)",
    ),
    "absolute": ("id,label\n/etc/passwd,cat\na2,dog\n", PLAIN, r"outside competition\.root \(/etc/passwd\)"),
    "a folder named like an image": (TRAIN, ("a1.png/x.png", "a2.png"), r"1 of 2 ids has no image \(a1\)"),
    "very long id": (f"id,label\n{'a' * 900},cat\na2,dog\n", PLAIN, "1 of 2 ids has no image"),
    "longer id": (f"id,label\n{'a' * 9000},cat\na2,dog\n", PLAIN, r"line 2: 'id' has 9000 characters \('aaa"),
    "gigantic field": (f"id,label\na1,{'x' * 200_000}\na2,dog\n", PLAIN, r"line 2: not valid csv \(field larger"),
    "an open quote": (
        'id,label\na1,"cat\na2,dog\n' + "a3,dog\n" * 9,
        PLAIN,
        r"not valid csv \(unexpected end of data\)",
    ),
    "line break in an id": ('id,label\n"a\n1",cat\na2,dog\n', PLAIN, r"line 3: 'id' is 'a\\n1', with a line break"),
    "nul byte": (b"id,label\na1\0,cat\na2,dog\n", PLAIN, r"line \d: not valid csv \(a NUL byte\)"),
    "nul bytes only": (bytes(100), PLAIN, r"line 1: not valid csv \(a NUL byte\)"),
    "latin-1": ("id,label\na1,Käse\na2,dog\n".encode("latin-1"), PLAIN, "not UTF-8 text; save the file as UTF-8 csv"),
    "utf-16": (TRAIN.encode("utf-16"), PLAIN, "this is UTF-16 text, not csv"),
    "a zip or xlsx": (zipped(), PLAIN, "this is a zip archive or Excel workbook, not csv"),
    "an old xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(50), PLAIN, "this is an Excel workbook"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), PLAIN, "this is a gzip archive"),
    "a web page": ("\n <!DOCTYPE html>\n<html>", PLAIN, "this is a web page, not csv"),
    "empty": ("", PLAIN, r"train\.csv: the file is empty"),
    "header only": ("id,label\n", PLAIN, "column names but no rows"),
    "header again": (TRAIN + "id,label\na3,cat\n", PLAIN, "line 4: the column names again; remove the line"),
    "semicolons": ("id;label\na1;cat\na2;dog\n", PLAIN, {"a1": "a1.png", "a2": "a2.png"}),
    "tabs": ("id\tlabel\na1\tcat\na2\tdog\n", PLAIN, {"a1": "a1.png", "a2": "a2.png"}),
    "two ids that differ in spaces": ("id,label\na1,cat\n a1 ,dog\n", PLAIN, r"1 id occurs more than once \(a1\)"),
    "line break in a column name": (
        'id,"la\nbel",x\na1,cat,1\n',
        PLAIN,
        r"Set competition\.target_column= to one of: la bel, x",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_odd_tables(tmp_path: Path, name: str) -> None:
    train, names, promised = TABLES[name]
    root = competition(tmp_path / "data", train, names)
    if isinstance(promised, str):
        with pytest.raises(UserError, match=promised) as error:
            load_competition(CompetitionConfig(name="odd", root=str(root)))
        assert "\n" not in str(error.value)
        return
    found = load_competition(CompetitionConfig(name="odd", root=str(root)))
    paths = [path.decode() for path in found.train.images.tolist()]
    assert dict(zip(found.train.ids.tolist(), paths, strict=True)) == {k: f"train/{v}" for k, v in promised.items()}


def test_a_train_csv_that_is_a_folder(tmp_path: Path) -> None:
    root = competition(tmp_path / "data", TRAIN, PLAIN)
    (root / "train.csv").unlink()
    (root / "train.csv").mkdir()
    with pytest.raises(UserError, match=r"train\.csv: cannot be read \(Is a directory\)"):
        load_competition(CompetitionConfig(name="odd", root=str(root)))


LABELS = "id,label\na,Cat\nb,cat\nc,cat\nd,big  dog\ne,big dog\nf,cow\n"


@pytest.mark.parametrize("merge", [False, True])
def test_labels_that_differ_only_in_case_or_spaces(tmp_path: Path, merge: bool) -> None:
    root = competition(tmp_path / "data", LABELS, tuple(f"{name}.png" for name in "abcdef"))
    said: list[str] = []
    found = load_competition(CompetitionConfig(name="odd", root=str(root), merge_labels=merge), say=said.append)
    assert len(said) == 1 and "\n" not in said[0]
    assert "'Cat' (1 row) and 'cat' (2 rows)" in said[0] and "'big  dog' (1 row) and 'big dog' (1 row)" in said[0]
    assert ("competition.merge_labels=true" in said[0]) is not merge
    names = found.task.cells(found.y).tolist()
    if merge:
        assert names == ["cat", "cat", "cat", "big  dog", "big  dog", "cow"], "the most frequent, of equals the first"
    else:
        assert names == ["Cat", "cat", "cat", "big  dog", "big dog", "cow"]


def test_nothing_is_said_of_plain_labels(tmp_path: Path) -> None:
    root = competition(tmp_path / "data", TRAIN, PLAIN)
    load_competition(CompetitionConfig(name="odd", root=str(root)), say=lambda line: pytest.fail(line))


# ---- fuzzing: a result or a UserError of one line -------------------------------------------------------------------

FUZZ = {
    "derandomize": True,
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


def result_or_one_line(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except UserError as error:
        message = str(error)
    assert message and "\n" not in message and "\r" not in message
    return None


@cache
def real_files() -> list[bytes]:
    small = cv2.resize(rgb(), (24, 16))
    return [
        encoded(small, "JPEG"),
        encoded(small, "JPEG", progressive=True),
        turned("JPEG", 6),
        encoded(Image.fromarray(small).convert("CMYK"), "JPEG"),
        encoded(small, "PNG"),
        encoded(Image.fromarray(small).convert("P"), "PNG", transparency=0),
        encoded(small, "WEBP"),
        encoded(small, "WEBP", lossless=True),
        encoded(small, "BMP"),
        encoded(small, "GIF"),
        frames("GIF"),
        encoded(small, "TIFF"),
        encoded(small[..., 0].astype(np.float32), "TIFF"),
    ]


@st.composite
def damaged_images(draw: st.DrawFn) -> bytes:
    """A real file with bytes changed, inserted or removed, mostly near its start, and perhaps cut off."""
    data = bytearray(draw(st.sampled_from(real_files())))
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.one_of(st.integers(0, min(60, len(data) - 1)), st.integers(0, len(data) - 1)))
        new = draw(st.binary(max_size=4))
        data[place : place + draw(st.sampled_from([len(new), len(new), 0, 8]))] = new
        data = data or bytearray(b"x")
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))])


def read_image(data: bytes) -> None:
    found = result_or_one_line(lambda: decode_bytes(data, 16, 4.0, "x.jpg"))
    if found is not None:
        assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3
        assert 1 <= min(found.shape[:2]) <= 16 and max(found.shape[:2]) <= 32  # what a slot of the cache holds


@settings(max_examples=900, **FUZZ)
@given(damaged_images())
def test_damaged_images(data: bytes) -> None:
    read_image(data)


@settings(max_examples=200, **FUZZ)
@given(
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0"]), st.binary(max_size=200)
)
def test_random_bytes_as_images(start: bytes, rest: bytes) -> None:
    read_image(start + rest)


CELLS = st.one_of(
    st.sampled_from(
        ["a1", "a2", "cat", "dog", "id", "label", "", " ", '"', '"a,b"', "..", "/", "a\0", "\ufeff", "\r", "{id}"]
    ),
    st.text(max_size=6),
)
TEXTS = st.lists(st.lists(CELLS, max_size=4).map(",".join), max_size=6).map("\n".join)
FILES = st.one_of(
    TEXTS.map(lambda text: ("id,label\n" + text).encode("utf-8", "surrogatepass")),
    TEXTS.map(lambda text: (TRAIN + text).encode("utf-8", "surrogatepass")),
    TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=60),
    st.binary(max_size=8).map(lambda junk: TRAIN.encode() + junk),
)


@settings(max_examples=600, **FUZZ)
@given(FILES)
@example(b'"\n"')
def test_any_bytes_as_csv(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    header = result_or_one_line(lambda: read_header(path, "key"))
    for required in ([], list(header or ())):
        columns = result_or_one_line(lambda required=required: read_columns(path, header or ("id",), "key", required))
        if columns is not None:
            assert len({len(values) for values in columns.values()}) == 1
            for name in required:
                assert all(value and value == value.strip() for value in columns[name].tolist())
    assert result_or_one_line(lambda: read_columns(path, ["id"], "key")) is None or "id" in (header or ())


@settings(max_examples=500, **FUZZ)
@given(FILES, st.one_of(st.none(), FILES), st.sampled_from(["train", "{id}", "train/{label}", ".", "train/{id}.png"]))
def test_any_bytes_as_a_competition(tmp_path: Path, train: bytes, sample: bytes | None, template: str) -> None:
    root = tmp_path / "data"
    if not root.exists():
        competition(root, TRAIN, PLAIN)
    (root / "train.csv").write_bytes(train)
    (root / "sample_submission.csv").write_bytes(b"id,label\nt,cat\n" if sample is None else sample)
    found = result_or_one_line(
        lambda: load_competition(
            CompetitionConfig(name="odd", root=str(root), train_images=template), say=lambda line: None
        )
    )
    if found is not None:
        assert len(found.train) == len(found.y) == len(found.train.images) == len(set(found.train.ids.tolist()))
        real = os.path.realpath(root) + os.sep
        for path in found.train.images.tolist():
            assert (root / os.fsdecode(path)).is_file()
            assert os.path.realpath(root / os.fsdecode(path)).startswith(real)


# ---- the submission guard -------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=4).filter(
    lambda name: name == name.strip() and name.isprintable()
)


@st.composite
def submissions(draw: st.DrawFn) -> tuple[list[str], list[str], str]:
    """The sample's ids, the predictions' ids, and what was done to them."""
    wanted = draw(st.lists(NAMES, min_size=1, max_size=8, unique=True))
    ids = list(draw(st.permutations(wanted)))
    damage = draw(st.sampled_from(["none", "missing", "extra", "repeated", "exchanged"]))
    if damage in ("missing", "exchanged"):
        ids.pop(draw(st.integers(0, len(ids) - 1)))
    if damage in ("extra", "exchanged"):
        ids.insert(draw(st.integers(0, len(ids))), draw(NAMES.filter(lambda name: name not in wanted)))
    if damage == "repeated":
        ids.insert(draw(st.integers(0, len(ids))), draw(st.sampled_from(ids)))
    return wanted, ids, damage


@settings(max_examples=300, **FUZZ)
@given(submissions(), st.sampled_from(["labels", "probabilities", "positive"]), st.integers(0, 2**16))
def test_a_submission_is_right_or_the_old_file_stays(
    tmp_path: Path, case: tuple[list[str], list[str], str], kind: str, seed: int
) -> None:
    wanted, ids, damage = case
    path, old = tmp_path / "s.csv", b"id,label\nthe old file\n"
    path.write_bytes(old)
    columns = ("id", "no", "yes") if kind == "probabilities" else ("id", "label")
    sample, task = Sample(columns, np.array(wanted), kind), Single(np.array(["no", "yes"]))
    yes = np.random.default_rng(seed).random(len(ids)).astype(np.float32)
    pred = np.column_stack([1 - yes, yes])

    def write() -> bool:
        table = submission_table(sample, np.array(ids, dtype=np.str_), pred, task)
        write_submission(path, table, sample, task)
        return True

    written = result_or_one_line(write)
    assert bool(written) == (damage == "none")
    if not written:
        assert path.read_bytes() == old
        # the second guard: a table that was made by hand and not by submission_table
        import pandas as pd

        table = pd.DataFrame(
            {"id": ids, **{name: ["no"] * len(ids) if kind == "labels" else yes for name in columns[1:]}}
        )
        with pytest.raises(UserError, match="is not written"):
            write_submission(path, table, sample, task)
        assert path.read_bytes() == old
    else:
        read = read_columns(path, columns, "key", required=columns)
        assert read["id"].tolist() == wanted
        own = dict(zip(ids, yes.tolist(), strict=True))
        for name, value in zip(wanted, read[columns[-1]].tolist(), strict=True):
            if kind == "labels":
                assert value == ("yes" if own[name] > np.float32(1) - np.float32(own[name]) else "no")
            else:
                assert float(value) == pytest.approx(own[name], abs=1e-7)
    assert os.listdir(tmp_path) == ["s.csv"], "nothing is left beside it"
