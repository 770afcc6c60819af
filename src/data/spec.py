"""What a picture is: how many channels of which samples, how a file becomes one, and what a network expects of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from src.data.arrays import NPY, NPZ, lay_out, read_array
from src.data.decode import decode_bytes, stored_size
from src.data.dicom import Windows, is_dicom, read_dicom
from src.data.resizing import LINEAR_BELOW, resize
from src.data.samples import Alpha, Range, as_samples, fit_channels
from src.errors import UserError

if TYPE_CHECKING:  # loading torch takes seconds, and some recipes may only ask where the images lie
    import torch

GREY = (124, 116, 104)  # ImageNet's mean colour, of 255


@dataclass(frozen=True)
class Normalisation:
    """Of samples as shares of their full range, one value per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class ImageSpec:
    """What every image of a competition becomes, in the image cache and up to the network's device.

    channels: of every image. samples: their kind. range: the numbers of a file that become 0 and the largest sample;
    None: by their type (see `as_samples`) or, in DICOM, by the header. alpha: left out, over white or black, or kept as
    the last channel. dicom: by the header's window, or all that its bits can hold. array: the name of the one that is
    meant in .npz files of several.
    """

    channels: int = 3
    samples: Literal["uint8", "uint16"] = "uint8"
    range: Range | None = None
    alpha: Alpha = "drop"
    dicom: Windows = "window"
    array: str | None = None

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.samples)

    @property
    def suffix(self) -> str:
        """What tells stored results for these images from those for others, in file names."""
        if self == ImageSpec():
            return ""
        kind = f"-{self.channels}x{self.samples}"
        rest = (self.range, self.alpha, self.dicom, self.array)
        if replace(self, channels=3, samples="uint8") == ImageSpec():
            return kind
        return f"{kind}-{hashlib.sha256(repr(rest).encode()).hexdigest()[:12]}"  # no dot, no slash

    @property
    def full(self) -> float:
        """The largest sample, which is 1.0 for the network."""
        return float(np.iinfo(self.dtype).max)

    @property
    def grey(self) -> np.ndarray:
        """(C,) samples of what stands where nothing is known: an erased box."""
        shares = np.array(GREY if self.channels == 3 else [np.mean(GREY)] * self.channels) / 255
        return (shares * self.full).round().astype(self.dtype)

    @property
    def middle(self) -> int:
        """The sample that fills a picture that cannot be read."""
        return int(np.iinfo(self.dtype).max) // 2 + 1

    def read(self, data: bytes, short_side: int, max_megapixels: float = 100.0, name: str = "image") -> np.ndarray:
        """The content of a file as (H, W, C) samples, no larger than `decode` makes them; C is `channels`.

        An .npy or .npz file holds (H, W), (H, W, C) or (C, H, W) numbers, a DICOM file grey or colour, everything else
        is a picture: three channels are RGB, one is its luma. Raises UserError that names the file for what is damaged,
        too large or of other channels.
        """
        if data.startswith((NPY, NPZ)):
            array = lay_out(read_array(data, max_megapixels, name, self.array), self.channels, name)
            samples = np.ascontiguousarray(as_samples(array, self.dtype, self.range))
        elif is_dicom(data):
            found = read_dicom(data, self.dtype, max_megapixels, name, self.dicom, self.range)
            samples = fit_channels(found, self.channels, name, self.alpha)
        else:
            return decode_bytes(
                data, short_side, max_megapixels, name, self.channels, self.dtype, self.range, self.alpha
            )
        height, width = stored_size(samples.shape[0], samples.shape[1], short_side)
        return resize(samples, height, width, area_from=LINEAR_BELOW)

    def read_files(
        self, files: Sequence[bytes], short_side: int, max_megapixels: float = 100.0, name: str = "image"
    ) -> np.ndarray:
        """`read` for the contents of all files of one image: with several, their channels one after the other, each
        file's share as many. name: theirs, with line breaks between them.

        Raises UserError where `channels` is no multiple of the number of files. Files of another size than the first
        are resized to it.
        """
        if len(files) == 1:
            return self.read(files[0], short_side, max_megapixels, name)
        share, rest = divmod(self.channels, len(files))
        if rest:
            raise UserError(
                f"{name}: {len(files)} files to an image, but competition.channels={self.channels}; set it to "
                f"{len(files)} for the luma of each, or to {3 * len(files)} for their colours"
            )
        one, names = replace(self, channels=share), name.split("\n")
        parts = [
            one.read(data, short_side, max_megapixels, its)
            for data, its in zip(files, names if len(names) == len(files) else [name] * len(files), strict=True)
        ]
        height, width = parts[0].shape[:2]
        return np.concatenate([resize(part, height, width) for part in parts], axis=2)

    def visible(self, image: np.ndarray) -> np.ndarray:
        """(H, W, C) samples as (H, W, 3) uint8 to look at: RGB, one channel as grey, the first three of more; of two,
        the first."""
        shown = image[..., [0, 1, 2] if image.shape[-1] >= 3 else [0, 0, 0]]
        return shown if shown.dtype == np.uint8 else (shown / self.full * 255).round().astype(np.uint8)

    def for_channels(self, normalisation: Normalisation) -> Normalisation:
        """What weights for RGB expect, for these channels: the mean over RGB for each, where there are not three."""
        if len(normalisation.mean) == self.channels:
            return normalisation
        mean, std = float(np.mean(normalisation.mean)), float(np.mean(normalisation.std))
        return Normalisation((mean,) * self.channels, (std,) * self.channels)


RGB = ImageSpec()


def example_input(spec: ImageSpec, count: int, size: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """(count, C, size, size) float32 as a network gets them, channels_last; all zero, which no trial can overflow on.

    For every trial: whether a size fits, what a step costs, which channels can go.
    """
    import torch

    x = torch.zeros(count, spec.channels, size, size, device=device)
    return x.contiguous(memory_format=torch.channels_last)
