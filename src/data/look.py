"""One file of a picture as it is stored: all its bands, its own numbers, and what its header says of them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from src.data.arrays import NPY, NPZ, array_names, read_array
from src.data.decode import by_pil, is_complete_png, read_alpha, reduced_flag
from src.data.dicom import grey_values, has_window, is_dicom, read_header, stored_numbers
from src.data.headers import JPEG, PNG, declared_size, require_package
from src.data.tiff import TIFFS, Bands, by_opencv, read_bands
from src.errors import UserError

SIDE = 256  # JPEGs are looked at no larger than needed for this short side
USUAL_NAMES = ("image", "img", "x", "data", "arr_0")  # of the picture among several arrays of an .npz file


@dataclass(frozen=True)
class Look:
    """One file: numbers (H, W, B), of a picture RGB; alpha: the last band is one; grey: one band, or equal ones."""

    kind: Literal["picture", "array", "dicom"]
    numbers: np.ndarray
    alpha: bool = False
    grey: bool = False
    bands_known: bool = True  # False: which axis of an array has the channels is a guess
    windowed: bool = False  # DICOM: the header has a window
    inverted: bool = False  # DICOM: MONOCHROME1
    bits: int = 8
    named: str | None = None  # of several arrays


def look_at(data: bytes, max_megapixels: float, name: str) -> Look:
    """What is in a file. Raises UserError for what cannot be read or is too large, MissingPackage for a package."""
    if data.startswith((NPY, NPZ)):
        named = _picture_in(data, max_megapixels, name) if data.startswith(NPZ) else None
        return _array_look(read_array(data, max_megapixels, name, named), named, name)
    if is_dicom(data):
        return _dicom_look(data, max_megapixels, name)
    require_package(data, name)
    size = declared_size(data)
    if size is None or size[0] * size[1] > max_megapixels * 1e6:
        raise UserError(f"{name}: no known image format, damaged, or above competition.max_megapixels")
    found = read_bands(data) if data.startswith(TIFFS) else None
    if found is None and not data.startswith(JPEG):
        rgba = read_alpha(data, 4)
        found = None if rgba is None else Bands(rgba, True, True)
    image, alpha = (_plain(data, min(size), name), False) if found is None else (found.numbers, found.alpha)
    colours = image[..., :-1] if alpha else image
    first = colours[..., :1].astype(np.float32)
    grey = colours.shape[2] == 1 or (colours.shape[2] == 3 and float(np.abs(colours - first).mean()) < 1)
    return Look("picture", image, alpha, grey)


def _dicom_look(data: bytes, max_megapixels: float, name: str) -> Look:
    header = read_header(data, max_megapixels, name)
    stored = stored_numbers(header, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            bits = int(header.get("BitsStored", 32))
            if stored.ndim == 3 or header.PhotometricInterpretation == "PALETTE COLOR":
                colours = stored if stored.ndim == 3 else np.repeat(stored[..., None], 3, axis=2)
                return Look("dicom", colours, windowed=True, bits=bits)
            values, _ = grey_values(stored, header)
            inverted = header.PhotometricInterpretation == "MONOCHROME1"
            return Look("dicom", values[..., None], False, True, True, has_window(header), inverted, bits)
    except Exception as error:  # of pydicom's curves, for odd headers
        raise UserError(f"{name}: not a readable DICOM image ({' '.join(str(error).split())[:120]})") from None


def _plain(data: bytes, short: int, name: str) -> np.ndarray:
    """(H, W, 1 or 3) numbers of a picture without alpha."""
    image = None
    if not data.startswith(PNG) or is_complete_png(data):
        image = by_opencv(data, reduced_flag(short, SIDE) if data.startswith(JPEG) else cv2.IMREAD_UNCHANGED)
    if image is None:
        image = by_pil(data)
    if image is None:
        raise UserError(f"{name}: damaged or cut off")
    return image[..., None] if image.ndim == 2 else np.ascontiguousarray(image[..., 2::-1])


def _picture_in(data: bytes, max_megapixels: float, name: str) -> str | None:
    """The name of the picture in an .npz file of several arrays: a usual one, else that of the largest array."""
    names = array_names(data)
    if len(names) < 2:
        return None
    usual = [each for each in USUAL_NAMES if each in map(str.lower, names)]
    if usual:
        return next(each for each in names if each.lower() == usual[0])
    sizes = {each: read_array(data, max_megapixels, name, each) for each in names}
    return max(names, key=lambda each: (sizes[each].ndim >= 2, sizes[each].size))


def _array_look(array: np.ndarray, named: str | None, name: str) -> Look:
    """With the shortest of the first and the last of three axes as channels."""
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or not array.size:
        raise UserError(f"{name}: holds an array of {' x '.join(map(str, array.shape))}, which is no picture")
    known = array.shape[0] != array.shape[2]
    if array.shape[0] < array.shape[2]:
        array = array.transpose(1, 2, 0)
    return Look("array", array, grey=array.shape[2] == 1, bands_known=known, named=named)
