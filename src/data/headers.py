"""What the first bytes of a picture say of it: its format, its size, whether a package is needed to read it."""

from __future__ import annotations

import io
import warnings
from contextlib import suppress

from src.data.tiff import TIFFS
from src.errors import MissingPackage

JPEG, PNG = b"\xff\xd8", b"\x89PNG"
# Brands of the ISO media files that hold HEVC pictures; `mif1` may hold others, but then names them as well.
HEVC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def declared_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) as the header says, without decoding; None if no header is understood."""
    size = jpeg_size(data) if data.startswith(JPEG) else None
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


def jpeg_size(data: bytes) -> tuple[int, int] | None:
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


def is_heif(data: bytes) -> bool:
    """Whether it is a HEIC or AVIF file."""
    return bool(_brands(data))


def _brands(data: bytes) -> set[bytes]:
    """The brands by which a file calls itself HEIC or AVIF; none for other files."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 256)
    named = {data[8:12], *(data[place : place + 4] for place in range(16, end, 4))}
    return named & {b"avif", b"avis", *HEVC}


def require_package(data: bytes, name: str) -> None:
    """Raises MissingPackage that names what has to be installed to read a HEIC or AVIF file, if it is not there."""
    brands = _brands(data)
    if not brands:
        return
    from PIL import features

    if brands & {b"avif", b"avis"}:
        if not features.check("avif"):
            try:
                import pillow_avif  # noqa: F401
            except ImportError:
                raise MissingPackage(f"{name}: reading AVIF needs a package; pip install pillow-avif-plugin") from None
        return
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise MissingPackage(f"{name}: reading HEIC needs a package; pip install pillow-heif") from None
    with suppress(RuntimeError):  # it is registered
        register_heif_opener()
