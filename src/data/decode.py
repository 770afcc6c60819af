"""From an image file to uint8 RGB pixels, decoded no larger than they will be used."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import cv2
import numpy as np

from src.data.resizing import LINEAR_BELOW, resize
from src.errors import UserError

# The longest side that is stored, as a multiple of the short side: keeps panoramas from filling the cache.
WIDEST = 2.0
# A JPEG that is cut off is used if this share of its area is there: with less, what is to be seen may be missing.
ENOUGH = 0.75
UINT8 = np.dtype(np.uint8)
JPEG, JPEG_END, PNG, TIFFS = b"\xff\xd8", b"\xff\xd9", b"\x89PNG", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Tried by PIL where OpenCV refuses: a PNG without its end, a TIFF with rarer compression or samples, GIF before
# OpenCV 4.11. None of the formats for which PIL would call other programs.
SECOND_TRY = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")
CURE = "replace the file or remove its row; ./run.sh prepare lists every such file, competition.on_bad_image=skip or "
CURE += "=blank goes on without them"

# OpenCV would report each damaged file on stderr, from every worker; the UserError names it instead.
# (The function moved between OpenCV 4 and 5; 0 is silent.)
(cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)


def decode(path: str | os.PathLike[str], short_side: int, max_megapixels: float = 100.0) -> np.ndarray:
    """The image at `path` as (H, W, 3) uint8 RGB, min(H, W) == short_side, or its own size where that is smaller.

    The content decides what it is, not the extension. EXIF rotation is applied; the longest side is at most twice the
    short one (longer images are scaled down further). JPEGs are decoded at 1/2, 1/4 or 1/8 where that still covers
    short_side: 1689 img/s against 639 for a full decode of phone photographs to 64 px on one core.

    Grayscale, 1-bit, palette, CMYK and YCCK become RGB. Alpha is left out and the colours under it are kept, as
    PIL's convert("RGB") does and thus most public notebooks and weights expect. 16 bits are scaled by their range
    (0..65535 to 0..255) and never by the image's own, which would make equal values differ between images; floats
    count as 0..1, or 0..255 or 0..65535 if they exceed that. Of an animation or a multi-page TIFF, the first frame.
    A JPEG that is cut off is taken if three quarters of its area are there, the rest grey; PIL and OpenCV 5 refuse
    it, OpenCV 4 takes any. Other formats must be complete.

    Raises UserError that names the file if it cannot be read as an image, or if its header declares more than
    `max_megapixels` million pixels: such a file is not decoded at all.
    """
    return decode_bytes(read_file(path), short_side, max_megapixels, path)


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The content of the file; UserError if there is none that can be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read the file ({error.strerror}); {CURE}") from None


def decode_bytes(
    data: bytes,
    short_side: int,
    max_megapixels: float = 100.0,
    name: str | os.PathLike[str] = "image",
    channels: int = 3,
    dtype: np.dtype = UINT8,
) -> np.ndarray:
    """`decode` for the content of a file; `name` is for the messages. channels: 3, or 1 for the luma; dtype: uint8, or
    uint16, which keeps the 16 bits of a file that has them."""
    if not data:
        raise _unreadable(name, "the file is empty")
    size = _declared_size(data)
    if size is None:
        start = data[:512].lstrip().lower()
        web = start.startswith((b"<!doctype", b"<html")) or b"<html" in start
        raise _unreadable(name, "it is a web page" if web else "no known image format, or damaged")
    height, width = size
    if height * width > max_megapixels * 1e6:
        raise _unreadable(name, f"it declares {width} x {height} pixels, above competition.max_megapixels")
    cut = data.startswith(JPEG) and not data.endswith(JPEG_END)
    if cut:  # in compressed data 0xff is never followed by 0xd9, so an end behind the last scan is the image's own
        cut = data.find(JPEG_END, data.rfind(b"\xff\xda")) < 0
    if channels not in (1, 3):
        raise UserError(f"{name}: a picture has 1 or 3 channels, but competition.channels={channels}; give .npy arrays")
    image = _decoded(data + JPEG_END if cut else data, min(height, width), short_side, dtype)
    if image is None:
        raise _unreadable(name, "damaged or cut off")
    if cut and _share_there(image) < ENOUGH:
        raise _unreadable(name, f"it is cut off: {_share_there(image):.0%} of it is there")
    height, width = image.shape[:2]
    target_h, target_w = stored_size(height, width, short_side)
    image = resize(image, target_h, target_w, area_from=LINEAR_BELOW)
    if channels == 1:
        return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None]
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def stored_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """The stored (height, width) of an image: short side as asked, long side capped, never enlarged."""
    short, long = min(height, width), max(height, width)
    scale = min(1.0, short_side / short, WIDEST * short_side / long)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _unreadable(name: str | os.PathLike[str], reason: str) -> UserError:
    return UserError(f"{name}: not a readable image ({reason}); {CURE}")


def _declared_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) as the header says, without decoding; None if no header is understood."""
    size = _jpeg_size(data) if data.startswith(JPEG) else None
    if size is not None:
        return size
    from PIL import Image, TiffImagePlugin

    Image.MAX_IMAGE_PIXELS = None  # the caller's limit holds, and is one that can be set
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            try:
                with Image.open(io.BytesIO(data)) as header:
                    width, height = header.size
            except Exception:  # its parsers raise all kinds of errors on damaged files
                if not data.startswith(TIFFS):
                    return None
                # kinds of samples that PIL does not know and OpenCV does (colour in floats)
                tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
                stream = io.BytesIO(data)
                stream.seek(tags.next)
                tags.load(stream)
                width, height = int(tags[256]), int(tags[257])
    except Exception:
        return None
    return (height, width) if height > 0 and width > 0 else None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of the first frame header of a JPEG, or None: then PIL may know better.

    Own, because PIL reads all other headers as well: a photograph is stored at 73 px in 0.52 ms instead of 0.65.
    """
    place = len(JPEG)
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # SOF; not DHT, JPG, DAC
            height, width = (int.from_bytes(data[place + at : place + at + 2], "big") for at in (5, 7))
            return (height, width) if height and width else None
        if marker == 0xFF:  # a fill byte
            place += 1
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


def _decoded(data: bytes, short: int, short_side: int, dtype: np.dtype) -> np.ndarray | None:
    """(H, W, 3) BGR samples, upright, or None. short: the short side that the header declares."""
    flag, image = cv2.IMREAD_COLOR, None
    if data.startswith(JPEG):
        flag = _reduced_flag(short, short_side)
    elif data.startswith(TIFFS):
        flag |= cv2.IMREAD_ANYDEPTH  # without it floats are refused by OpenCV 5 and clipped by 4
    elif dtype != np.uint8:
        flag |= cv2.IMREAD_ANYDEPTH
    if not data.startswith(PNG) or _complete_png(data):
        image = _by_opencv(data, flag)
    if image is None:
        image = _by_pil(data)
    return None if image is None else as_samples(image, dtype)


def _complete_png(data: bytes) -> bool:
    """Whether the chunks of a PNG follow each other to its end. PIL reads others if their pixels are there; OpenCV
    does not, and before it gives up it makes room for the length that a damaged chunk claims: 3.4 GB for an 821-byte
    file that fuzzing found."""
    place = len(PNG) + 4
    while place + 8 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if kind == b"IEND":
            return True
        place += 12 + length
    return False


def _by_opencv(data: bytes, flag: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error:
        return None


def _by_pil(data: bytes) -> np.ndarray | None:
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=SECOND_TRY) as image:
                image.load()  # else exif_transpose would look behind the pixels, and fail for a missing end
                upright = ImageOps.exif_transpose(image)
                if upright.mode == "F" or upright.mode.startswith("I"):
                    return np.repeat(np.asarray(upright)[..., None], 3, axis=2)
                return np.ascontiguousarray(np.asarray(upright.convert("RGB"))[..., ::-1])
    except Exception:  # its parsers raise all kinds of errors on damaged files
        return None


def as_samples(image: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Numbers of any kind as samples of `dtype`: by their type's range up to 16 bits, else as shares of 1, 255 or
    65535, whichever holds the largest of them."""
    image = image.astype(image.dtype.newbyteorder("="), copy=False)  # an array of another machine's byte order
    if image.dtype == dtype:
        return image
    if image.dtype in (np.uint8, np.int8, np.uint16, np.int16):
        full = float(np.iinfo(image.dtype).max)
    else:
        image = np.nan_to_num(image.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        top = float(image.max())
        full = next((full for full in (1.0, 255.0, 65535.0) if top <= full), top)
    return (image.clip(0, full) / full * np.iinfo(dtype).max).round().astype(dtype)


def _share_there(image: np.ndarray) -> float:
    """The share of a cut JPEG's area that is not the mid-grey, exactly 128, with which libjpeg fills the rest."""
    there = (image != 128).any(axis=2)
    rows, columns = there.any(axis=1), there.any(axis=0)  # upright by now: what is missing may be on any side
    return float(rows.mean() * columns.mean())


def _reduced_flag(short: int, short_side: int) -> int:
    """The cv2 flag of the strongest reduction in the decoder that leaves at least `short_side` pixels."""
    for factor, flag in (
        (8, cv2.IMREAD_REDUCED_COLOR_8),
        (4, cv2.IMREAD_REDUCED_COLOR_4),
        (2, cv2.IMREAD_REDUCED_COLOR_2),
    ):
        if short >= short_side * factor:
            return flag
    return cv2.IMREAD_COLOR
