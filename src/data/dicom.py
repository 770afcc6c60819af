"""DICOM images: stored numbers through the curves of the modality and the window, MONOCHROME1 inverted.

The header alone decides what is black and what is white, never the image's own extremes.
"""

from __future__ import annotations

import io
import warnings
from typing import Any, Literal

import numpy as np

from src.archives import CURE
from src.data.headers import JPEG, jpeg_size
from src.data.samples import Range, as_samples, codes, look_up
from src.errors import MissingPackage, UserError

Windows = Literal["window", "full"]
FAR = 1e12  # beyond any stored number: what a window makes of it is the window's end


def is_dicom(data: bytes) -> bool:
    """Whether it is a DICOM file, by its content: DICM behind the preamble, or, in a file without one, an element of
    group 2 or 8 (little endian) in front."""
    return data[128:132] == b"DICM" or (data[:2] in (b"\x02\0", b"\x08\0") and data[3:4] == b"\0")


def read_dicom(
    data: bytes,
    dtype: np.dtype,
    max_megapixels: float = 100.0,
    name: str = "image",
    windows: Windows = "window",
    span: Range | None = None,
) -> np.ndarray:
    """The first frame as (H, W, 1) or (H, W, 3) samples of `dtype`.

    Grey: `span` of the modality's values (Hounsfield units in a CT), if given; else the first window of the header, or
    the table that stands for it; with windows="full", or where there is none, all that the stored bits can hold.
    Colour: by the stored bits. Raises UserError that names the file for what is damaged or declares more than
    `max_megapixels` million pixels (it is not decoded then), MissingPackage where a decoder has to be installed.
    """
    header = read_header(data, max_megapixels, name)
    stored = stored_numbers(header, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            if stored.ndim == 3 or header.PhotometricInterpretation == "PALETTE COLOR":
                return _colour(stored, header, dtype)
            if stored.dtype.kind in "ui" and stored.dtype.itemsize <= 2:
                # the curves of 65,536 numbers at the most, instead of those of some ten million pixels
                samples = look_up(as_samples(*_shown(codes(stored.dtype), header, windows, span, dtype)), stored)
            else:
                samples = as_samples(*_shown(stored, header, windows, span, dtype))
    except Exception as error:  # of pydicom's curves, for odd headers
        raise _unreadable(name, error) from None
    return samples[..., None]


def read_header(data: bytes, max_megapixels: float = 100.0, name: str = "image") -> Any:
    """The data set, its pixels not decoded; UserError for what is damaged, holds no picture or declares too large a
    one, in its own header or in that of a JPEG in it."""
    try:
        import pydicom
        from pydicom.encaps import get_frame
        from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
    except ImportError:
        raise MissingPackage(f"{name}: reading DICOM needs a package; pip install 'pydicom>=3.0'") from None

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(io.BytesIO(data), force=True)
            if "TransferSyntaxUID" not in header.file_meta:  # a file without its preamble
                syntax = ImplicitVRLittleEndian if header.original_encoding[0] else ExplicitVRLittleEndian
                header.file_meta.TransferSyntaxUID = syntax
            size = (int(header.Rows), int(header.Columns))
            if header.file_meta.TransferSyntaxUID.is_encapsulated:
                frame = get_frame(header.PixelData, 0, number_of_frames=int(header.get("NumberOfFrames") or 1))
                size = max(size, jpeg_size(frame) or size) if frame.startswith(JPEG) else size
    except Exception as error:  # its parser raises all kinds of errors on damaged files
        raise _unreadable(name, error) from None
    if size[0] * size[1] > max_megapixels * 1e6:
        raise _unreadable(name, f"it declares {size[1]} x {size[0]} pixels, above competition.max_megapixels")
    return header


def stored_numbers(header: Any, name: str = "image") -> np.ndarray:
    """The first frame as it is stored: (H, W) integers, or (H, W, 3) RGB."""
    from pydicom.pixels import pixel_array

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pixel_array(header, index=0)
    except Exception as error:
        if "missing dependencies" in str(error):
            kind = header.file_meta.TransferSyntaxUID.name
            raise MissingPackage(f"{name}: {kind} needs a decoder; pip install 'pylibjpeg[all]'") from None
        raise _unreadable(name, error) from None


def has_window(header: Any) -> bool:
    """Whether the header says how the picture is to be looked at; a window of no width says nothing."""
    if header.get("VOILUTSequence"):
        return True
    width, centre = header.get("WindowWidth"), header.get("WindowCenter")
    if width is None or centre is None or width == "" or centre == "":
        return False
    return float(np.ravel(width)[0]) >= 1


def grey_values(stored: np.ndarray, header: Any) -> tuple[np.ndarray, Range | None]:
    """Stored numbers through the line or table of the modality (Hounsfield units in a CT, mostly as they are), those of
    MONOCHROME1 inverted within what the stored bits can hold; and the ends of that, which floats do not have."""
    from pydicom.pixels import apply_modality_lut

    values = apply_modality_lut(stored, header)
    if stored.dtype.kind not in "ui":  # FloatPixelData
        return values, None
    if header.get("ModalityLUTSequence"):
        ends = _table_ends(header.ModalityLUTSequence)
    else:
        low, high = sorted(apply_modality_lut(np.array(_stored_ends(header)), header).tolist())
        ends = (float(low), float(high))
    return _upright(values, header, ends), ends


def _shown(
    stored: np.ndarray, header: Any, windows: Windows, span: Range | None, dtype: np.dtype
) -> tuple[np.ndarray, np.dtype, Range | None]:
    """The numbers to be looked at, the type of sample, and which of the numbers are black and white."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, apply_windowing

    if span is not None or windows == "full" or not has_window(header):
        values, ends = grey_values(stored, header)
        return values, dtype, ends if span is None else span
    shown = apply_voi_lut(apply_modality_lut(stored, header), header)
    if header.get("VOILUTSequence"):
        ends = _table_ends(header.VOILUTSequence)
    else:
        low, high = apply_windowing(np.array([-FAR, FAR]), header)
        ends = (float(low), float(high))
    return _upright(shown, header, ends), dtype, ends


def _upright(values: np.ndarray, header: Any, ends: Range) -> np.ndarray:
    inverted = header.PhotometricInterpretation == "MONOCHROME1"
    return ends[0] + ends[1] - values.astype(np.float64) if inverted else values


def _stored_ends(header: Any) -> tuple[int, int]:
    bits = int(header.BitsStored)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if header.get("PixelRepresentation") else (0, 2**bits - 1)


def _table_ends(sequence: Any) -> Range:
    return 0.0, float(2 ** int(sequence[0].LUTDescriptor[2]) - 1)


def _colour(stored: np.ndarray, header: Any, dtype: np.dtype) -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    if header.PhotometricInterpretation == "PALETTE COLOR":
        return as_samples(apply_color_lut(stored, header), dtype)
    low, high = _stored_ends(header)
    return as_samples(stored, dtype, (float(low), float(high)))


def _unreadable(name: str, why: object) -> UserError:
    reason = " ".join(str(why).split())[:120]
    return UserError(f"{name}: not a readable DICOM image ({reason}); {CURE}")
