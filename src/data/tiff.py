"""TIFFs of any number of bands: what OpenCV and PIL refuse, or read in part without a word.

OpenCV 5 gives the first of 2 or 4 grey bands, refuses 5, multiplies colours by alpha and mixes up 16-bit planes; PIL
reads none of them; tifffile needs imagecodecs, some 20 MB, for LZW. So the bands are read as one grey picture: N
samples per pixel are a picture N times as wide, and planes are pictures of their own. The codecs of libtiff, in OpenCV,
do the rest.
"""

from __future__ import annotations

import io
import struct
import warnings
from typing import Any, NamedTuple

import cv2
import numpy as np

TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, OFFSETS, SAMPLES, COUNTS = 256, 257, 258, 259, 262, 273, 277, 279
PLANES, PREDICTOR, TILE_WIDTH, TILE_OFFSETS, TILE_COUNTS, EXTRA = 284, 317, 322, 324, 325, 338
KEPT = (HEIGHT, COMPRESSION, 266, 278, 323, 339)  # and the order of bits, rows per strip, tile height, sample format
RGB, GREY = 2, (0, 1)
JPEGS = (6, 7)
MOST = 2**31  # numbers in one file


class Bands(NamedTuple):
    """numbers (H, W, B); alpha: the last band is one; rgb: the first three are colours, whatever follows them."""

    numbers: np.ndarray
    alpha: bool
    rgb: bool


def read_bands(data: bytes) -> Bands | None:
    """All bands of a TIFF; None for what OpenCV reads as it should, and for what is no TIFF or damaged."""
    tags = _tags(data)
    if tags is None:
        return None
    try:
        return _read_bands(data, tags)
    except Exception:  # tags that are missing or make no sense
        return None


def _read_bands(data: bytes, tags: Any) -> Bands | None:
    bands, bits = int(tags.get(SAMPLES, 1)), int(tags.get(BITS, (1,))[0])
    planes, colour = tags.get(PLANES, 1) == 2, tags.get(PHOTOMETRIC)
    grey_bands = colour in GREY and bands > 1
    more_than_rgb = colour == RGB and bands > 3
    mixed_up = colour in (*GREY, RGB) and planes and bits > 8 and bands > 1
    if not (grey_bands or more_than_rgb or mixed_up):
        return None
    if bits not in (8, 16, 32, 64) or tags.get(COMPRESSION, 1) in JPEGS or data[2:3] not in (b"*", b"\0"):
        return None
    if int(tags[WIDTH]) * int(tags[HEIGHT]) * bands > MOST:
        return None
    image = _planes(data, tags, bands) if planes else _side_by_side(data, tags, bands)
    if image is None:
        return None
    return Bands(image, bands in (2, 4) and _is_alpha(tags, image[..., -1]), colour == RGB)


def _is_alpha(tags: Any, band: np.ndarray) -> bool:
    """As the file says; where it does not, a band that is hardly anything but clear and opaque is one: OpenCV writes
    alpha without a word, and satellites' near infrared comes so too."""
    said = _numbers(tags[EXTRA])[-1] if EXTRA in tags else 0
    if said or tags.get(PHOTOMETRIC) != RGB or band.dtype.kind != "u":
        return said in (1, 2)
    return bool(np.isin(band, (0, np.iinfo(band.dtype).max)).mean() > 0.95)


def read_pages(data: bytes, count: int) -> np.ndarray | None:
    """(H, W, count) numbers of a file of that many grey pages of one size; None for any other."""
    if not data.startswith(TIFFS):
        return None
    try:
        some = (0, count + 1)  # one more tells that there are more
        there, pages = cv2.imdecodemulti(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED, range=some)
    except cv2.error:
        return None
    if not there or len(pages) != count or any(page.shape != pages[0].shape or page.ndim > 2 for page in pages):
        return None
    return np.stack(pages, axis=2)


def _tags(data: bytes) -> Any:
    from PIL import TiffImagePlugin

    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8] if data[2:3] in (b"*", b"\0") else data[:16])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            stream = io.BytesIO(data)
            stream.seek(tags.next)
            tags.load(stream)
        return tags
    except Exception:  # its parser raises all kinds of errors on damaged files
        return None


def _side_by_side(data: bytes, tags: Any, bands: int) -> np.ndarray | None:
    """The samples of each pixel as pixels beside each other. The differences that a predictor leaves are then between
    samples of one pixel's neighbours, `bands` apart: they are summed here."""
    width, predictor = int(tags[WIDTH]), tags.get(PREDICTOR, 1)
    if predictor not in (1, 2):
        return None
    across = {WIDTH: width * bands}
    if TILE_WIDTH in tags:
        across[TILE_WIDTH] = int(tags[TILE_WIDTH]) * bands
    image = _grey(data, tags, across, slice(None))
    if image is None:
        return None
    image = image.reshape(image.shape[0], width, bands)
    if predictor == 2:
        step = int(tags.get(TILE_WIDTH, width))
        for left in range(0, width, step):
            part = image[:, left : left + step]
            np.cumsum(part, axis=1, dtype=image.dtype, out=part)
    return image


def _planes(data: bytes, tags: Any, bands: int) -> np.ndarray | None:
    own = {WIDTH: int(tags[WIDTH])} | ({PREDICTOR: int(tags[PREDICTOR])} if PREDICTOR in tags else {})
    if TILE_WIDTH in tags:
        own[TILE_WIDTH] = int(tags[TILE_WIDTH])
    count = len(tags[TILE_OFFSETS if TILE_WIDTH in tags else OFFSETS]) // bands
    planes = [_grey(data, tags, own, slice(k * count, (k + 1) * count)) for k in range(bands)]
    readable = [plane for plane in planes if plane is not None]
    return np.stack(readable, axis=2) if len(readable) == bands else None


def _grey(data: bytes, tags: Any, changed: dict[int, int], parts: slice) -> np.ndarray | None:
    """(H, W) numbers of these strips or tiles, read as a grey picture: a new directory at the file's end says so."""
    own = {tag: _numbers(tags[tag])[:1] for tag in KEPT if tag in tags}
    own |= {tag: _numbers(tags[tag])[parts] for tag in (OFFSETS, COUNTS, TILE_OFFSETS, TILE_COUNTS) if tag in tags}
    own |= {BITS: _numbers(tags[BITS])[:1], SAMPLES: (1,), PHOTOMETRIC: (1,), PLANES: (1,)}
    own |= {tag: (value,) for tag, value in changed.items()}
    at = len(data) + len(data) % 2
    order = "<" if data.startswith(b"II") else ">"
    whole = data[:4] + struct.pack(order + "L", at) + data[8:] + b"\0" * (at - len(data)) + _directory(own, at, order)
    image = by_opencv(whole, cv2.IMREAD_UNCHANGED)
    if image is None:
        image = _by_pil(whole)
    return image if image is not None and image.shape == (int(tags[HEIGHT]), changed[WIDTH]) else None


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(int(each) for each in value) if isinstance(value, tuple) else (int(value),)


def _directory(tags: dict[int, tuple[int, ...]], at: int, order: str) -> bytes:
    """A directory of whole numbers that stands at `at` and is the file's last."""
    entries, behind = [], b""
    start = at + 2 + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}L", *values)
        if len(values) > 1:
            packed, behind = struct.pack(order + "L", start + len(behind)), behind + packed
        entries.append(struct.pack(order + "HHL", tag, 4, len(values)) + packed)  # 4: LONG
    return struct.pack(order + "H", len(tags)) + b"".join(entries) + b"\0" * 4 + behind


def by_opencv(data: bytes, flag: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error:
        return None


def _by_pil(data: bytes) -> np.ndarray | None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
            return np.asarray(image)
    except Exception:  # its parsers raise all kinds of errors on damaged files
        return None
