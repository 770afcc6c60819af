"""What a picture is: how many channels of which samples, how a file becomes one, and what a network expects of it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from src.data.decode import CURE, as_samples, decode_bytes, stored_size
from src.data.resizing import LINEAR_BELOW, resize
from src.errors import UserError

if TYPE_CHECKING:  # loading torch takes seconds, and some recipes may only ask where the images lie
    import torch

ARRAY = b"\x93NUMPY"  # how an .npy file begins
GREY = (124, 116, 104)  # ImageNet's mean colour, of 255


@dataclass(frozen=True)
class Normalisation:
    """Of samples as shares of their full range, one value per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class ImageSpec:
    """channels: of every image; samples: their kind, in the image cache and up to the network's device."""

    channels: int = 3
    samples: Literal["uint8", "uint16"] = "uint8"

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.samples)

    @property
    def suffix(self) -> str:
        """What tells stored results for these images from those for others, in file names."""
        return "" if self == ImageSpec() else f"-{self.channels}x{self.samples}"

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

        An .npy file holds (H, W), (H, W, C) or (C, H, W) numbers, everything else is a picture: three channels are RGB,
        one is its luma. Raises UserError that names the file for what is damaged, too large or of other channels.
        """
        if not data.startswith(ARRAY):
            return decode_bytes(data, short_side, max_megapixels, name, self.channels, self.dtype)
        array = self._array(data, max_megapixels, name)
        height, width = stored_size(array.shape[0], array.shape[1], short_side)
        return resize(array, height, width, area_from=LINEAR_BELOW)

    def _array(self, data: bytes, max_megapixels: float, name: str) -> np.ndarray:
        try:
            array = np.load(io.BytesIO(data), allow_pickle=False)
        except Exception as error:  # numpy's parser raises all kinds of errors on damaged files
            raise UserError(f"{name}: not a readable array ({' '.join(str(error).split())[:80]}); {CURE}") from None
        if array.dtype.kind not in "buif":
            raise UserError(f"{name}: holds {array.dtype} instead of plain numbers; {CURE}")
        if array.ndim == 2:
            array = array[..., None]
        if array.ndim == 3 and array.shape[2] != self.channels and array.shape[0] == self.channels:
            array = array.transpose(1, 2, 0)
        if array.ndim != 3 or array.shape[2] != self.channels or not array.size:
            raise UserError(
                f"{name}: holds an array of {' x '.join(map(str, array.shape))}, "
                f"but competition.channels={self.channels}; {CURE}"
            )
        if array.shape[0] * array.shape[1] > max_megapixels * 1e6:
            raise UserError(f"{name}: an array of {array.shape}, above competition.max_megapixels; {CURE}")
        return np.ascontiguousarray(as_samples(array, self.dtype))

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
