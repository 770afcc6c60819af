"""From an image file to uint8 RGB pixels, decoded no larger than they will be used."""

from __future__ import annotations

import io
import os
import warnings

import cv2
import numpy as np

from src.archives import CURE, read_bytes
from src.data.headers import JPEG, PNG, declared_size, is_heif, require_package
from src.data.resizing import LINEAR_BELOW, resize
from src.data.samples import Alpha, Range, as_samples, fit_channels, without_alpha
from src.data.tiff import TIFFS, Bands, by_opencv, read_bands, read_pages
from src.errors import UserError

# The longest side that is stored, as a multiple of the short side: keeps panoramas from filling the cache.
WIDEST = 2.0
# A JPEG that is cut off is used if this share of its area is there: with less, what is to be seen may be missing.
ENOUGH = 0.75
UINT8 = np.dtype(np.uint8)
JPEG_END = b"\xff\xd9"
# Tried by PIL where OpenCV refuses: a PNG without its end, a TIFF with rarer compression or samples, GIF before
# OpenCV 4.11. None of the formats for which PIL would call other programs.
SECOND_TRY = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")

# OpenCV would report each damaged file on stderr, from every worker; the UserError names it instead.
# (The function moved between OpenCV 4 and 5; 0 is silent.)
(cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)


def decode(path: str | os.PathLike[str], short_side: int, max_megapixels: float = 100.0) -> np.ndarray:
    """The image at `path` as (H, W, 3) uint8 RGB, min(H, W) == short_side, or its own size where that is smaller.

    The content decides what it is, not the extension. EXIF rotation is applied; the longest side is at most twice the
    short one (longer images are scaled down further). JPEGs are decoded at 1/2, 1/4 or 1/8 where that still covers
    short_side: 1689 img/s against 639 for a full decode of phone photographs to 64 px on one core.

    Grayscale, 1-bit, palette, CMYK and YCCK become RGB. Alpha is left out and the colours under it are kept, as
    PIL's convert("RGB") does and thus most public notebooks and weights expect; `decode_bytes` has other choices. 16
    bits are scaled by their range (0..65535 to 0..255) and never by the image's own, which would make equal values
    differ between images; floats count as 0..1, or 0..255 or 0..65535 if they exceed that. Of an animation or a
    multi-page TIFF, the first frame. HEIC and AVIF where PIL, or a package that the error names, reads them.
    A JPEG that is cut off is taken if three quarters of its area are there, the rest grey; PIL and OpenCV 5 refuse
    it, OpenCV 4 takes any. Other formats must be complete.

    Raises UserError that names the file if it cannot be read as an image, or if its header declares more than
    `max_megapixels` million pixels: such a file is not decoded at all.
    """
    return decode_bytes(read_bytes(".", os.fsencode(path)), short_side, max_megapixels, path)


def decode_bytes(
    data: bytes,
    short_side: int,
    max_megapixels: float = 100.0,
    name: str | os.PathLike[str] = "image",
    channels: int = 3,
    dtype: np.dtype = UINT8,
    span: Range | None = None,
    alpha: Alpha = "drop",
) -> np.ndarray:
    """`decode` for the content of a file, as (H, W, channels) samples; `name` is for the messages.

    channels: 3, 1 for the luma, or as many as the picture has bands: with its alpha, those of a TIFF, or the grey
    pages of one. dtype: uint8, or uint16, which keeps the 16 bits of a file that has them. span: the numbers that
    become 0 and the largest sample. alpha: left out, over white or black, or kept as the last of 2 or 4 channels,
    opaque where a picture has none.
    """
    if not data:
        raise _unreadable(name, "the file is empty")
    require_package(data, str(name))
    size = declared_size(data)
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
    bands = _bands(data, channels, alpha)
    if bands is not None:
        numbers = bands.numbers
        if bands.rgb and not bands.alpha and channels in (1, 3):
            numbers = numbers[..., :3]
        if bands.alpha:
            image = without_alpha(numbers, dtype, span, "keep" if numbers.shape[2] == channels else alpha)
        else:
            image = as_samples(numbers, dtype, span)
    else:
        decoded = _decoded(data + JPEG_END if cut else data, min(height, width), short_side, dtype, span)
        if decoded is None:
            raise _unreadable(name, "damaged or cut off")
        if cut and _share_there(decoded) < ENOUGH:
            raise _unreadable(name, f"it is cut off: {_share_there(decoded):.0%} of it is there")
        image = decoded
    target_h, target_w = stored_size(image.shape[0], image.shape[1], short_side)
    image = resize(image, target_h, target_w, area_from=LINEAR_BELOW)
    if bands is None:
        if channels == 1:
            return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None]
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return fit_channels(image, channels, str(name), alpha)


def stored_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """The stored (height, width) of an image: short side as asked, long side capped, never enlarged."""
    short, long = min(height, width), max(height, width)
    scale = min(1.0, short_side / short, WIDEST * short_side / long)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _unreadable(name: str | os.PathLike[str], reason: str) -> UserError:
    return UserError(f"{name}: not a readable image ({reason}); {CURE}")


def _bands(data: bytes, channels: int, alpha: Alpha) -> Bands | None:
    """All bands, RGB and upright; None where three channels of colour are all that there is, or is wanted."""
    found = None
    if data.startswith(TIFFS):
        found = read_bands(data)
        if found is None and channels not in (1, 3):
            pages = read_pages(data, channels)
            found = None if pages is None else Bands(pages, False, False)
    if found is None and (alpha != "drop" or channels in (2, 4)):
        image = read_alpha(data, channels)
        found = None if image is None else Bands(image, True, image.shape[2] == 4)
    return found


def read_alpha(data: bytes, channels: int) -> np.ndarray | None:
    """(H, W, 4) RGBA, or (H, W, 2) grey and alpha where two channels are wanted; None for a picture without alpha."""
    if data.startswith(PNG) and data[24:26] in (b"\x10\x04", b"\x10\x06"):  # 16 bits, of which PIL keeps 8
        deep = by_opencv(data, cv2.IMREAD_UNCHANGED) if is_complete_png(data) else None
        if deep is not None and deep.ndim == 3 and deep.shape[2] == 4:
            return deep[..., [2, 3] if channels == 2 else [2, 1, 0, 3]]
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_formats(data)) as image:
                if not image.has_transparency_data:
                    return None
                image.load()
                return np.asarray(ImageOps.exif_transpose(image).convert("LA" if channels == 2 else "RGBA"))
    except Exception:  # its parsers raise all kinds of errors on damaged files
        return None


def _formats(data: bytes) -> tuple[str, ...]:
    """What PIL may take it for; of HEIC and AVIF what it, or a package beside it, can read."""
    if not is_heif(data):
        return SECOND_TRY
    from PIL import Image

    Image.init()
    return tuple(name for name in ("HEIF", "AVIF") if name in Image.OPEN)


def _decoded(data: bytes, short: int, short_side: int, dtype: np.dtype, span: Range | None) -> np.ndarray | None:
    """(H, W, 3) BGR samples, upright, or None. short: the short side that the header declares."""
    flag, image = cv2.IMREAD_COLOR, None
    if data.startswith(JPEG):
        flag = reduced_flag(short, short_side)
    elif data.startswith(TIFFS):
        flag |= cv2.IMREAD_ANYDEPTH  # without it floats are refused by OpenCV 5 and clipped by 4
    elif dtype != np.uint8 or span is not None:
        flag |= cv2.IMREAD_ANYDEPTH
    if not data.startswith(PNG) or is_complete_png(data):
        image = by_opencv(data, flag)
    if image is None:
        image = by_pil(data)
    return None if image is None else as_samples(image, dtype, span)


def is_complete_png(data: bytes) -> bool:
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


def by_pil(data: bytes) -> np.ndarray | None:
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_formats(data)) as image:
                image.load()  # else exif_transpose would look behind the pixels, and fail for a missing end
                upright = ImageOps.exif_transpose(image)
                if upright.mode == "F" or upright.mode.startswith("I"):
                    return np.repeat(np.asarray(upright)[..., None], 3, axis=2)
                return np.ascontiguousarray(np.asarray(upright.convert("RGB"))[..., ::-1])
    except Exception:  # its parsers raise all kinds of errors on damaged files
        return None


def _share_there(image: np.ndarray) -> float:
    """The share of a cut JPEG's area that is not the mid-grey, exactly 128, with which libjpeg fills the rest."""
    there = (image != 128).any(axis=2)
    rows, columns = there.any(axis=1), there.any(axis=0)  # upright by now: what is missing may be on any side
    return float(rows.mean() * columns.mean())


def reduced_flag(short: int, short_side: int) -> int:
    """The cv2 flag of the strongest reduction in the decoder that leaves at least `short_side` pixels."""
    for factor, flag in (
        (8, cv2.IMREAD_REDUCED_COLOR_8),
        (4, cv2.IMREAD_REDUCED_COLOR_4),
        (2, cv2.IMREAD_REDUCED_COLOR_2),
    ):
        if short >= short_side * factor:
            return flag
    return cv2.IMREAD_COLOR
