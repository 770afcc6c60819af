"""From a batch of samples to what a network takes: colour jitter and normalisation in one pass, on its device."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from src.data.spec import RGB, ImageSpec, Normalisation

FEW = 8  # channels, up to which `transformed` has been measured to be faster


class Preprocess:
    """Samples (B, S, S, C) -> (B, C, S, S) float32 on `device`, channels_last, normalised."""

    def __init__(self, normalisation: Normalisation, device: torch.device | str = "cpu", spec: ImageSpec = RGB) -> None:
        self.normalisation, self.device, self.spec = normalisation, torch.device(device), spec
        self.mean, self.std = (
            torch.tensor(values, device=device, dtype=torch.float32)
            for values in (normalisation.mean, normalisation.std)
        )

    def __call__(self, images: Tensor, colour: Tensor | None = None) -> Tensor:
        """images (B, S, S, C) samples, colour (B, C, C + 1) from `augment.colour_matrix` or None, on any device."""
        colour = None if colour is None else colour.to(self.device, non_blocking=True)
        return to_input(images.to(self.device, non_blocking=True), self.mean, self.std, colour, self.spec.full)


def to_input(images: Tensor, mean: Tensor, std: Tensor, colour: Tensor | None = None, full: float = 255.0) -> Tensor:
    """Samples (B, S, S, C) of 0..full -> normalised float32 (B, C, S, S), channels_last, colour jitter folded in.

    mean, std: (C,) on the device of `images`, for samples in 0..1. colour: (B, C, C + 1) from `augment.colour_matrix`.
    Colour jitter and normalisation are one affine map per image: (M v/full + t - mean) / std. On a CPU OpenCV applies
    it, image by image within the cache, elsewhere one batched product does; they differ by less than 1e-3 grey levels.
    """
    count, _, _, channels = images.shape
    if colour is None:
        colour = torch.cat([torch.eye(channels), torch.zeros(channels, 1)], 1).to(mean.device).expand(count, -1, -1)
    linear, offset = colour[:, :, :channels] / (full * std[:, None]), (colour[:, :, channels] - mean) / std
    by_opencv = images.device.type == "cpu" and channels <= FEW
    x = transformed(images, linear, offset) if by_opencv else product(images, linear, offset)
    return x.permute(0, 3, 1, 2)


def transformed(images: Tensor, linear: Tensor, offset: Tensor) -> Tensor:
    """images (B, S, S, C) samples, linear (B, C, C), offset (B, C) float32 on the CPU -> (B, S, S, C) float32.

    OpenCV's own vector code, which is the same on every processor. Time of `product` over that of this for 64 images of
    64, 128 and 224 px on one core (benchmarks/profile_loader.py): Xeon with AVX-512 and AMX 2.3, 2.7 and 9.9; the same
    held to AVX2 2.4, 3.3 and 10; to SSE4.2 6.2, 9.4 and 13; AMD EPYC with AVX-512 13.8, 11.0 and 11.0. torch has one
    kernel for products of any size; on an AMD EPYC with AVX2 that took 9.5, 37 and 62 ms where this took 0.7, 3.3 and
    10.4. For 1, 2, 5 and 8 channels `product` took 6 to 155 times as long as this on a busy EPYC with AVX-512, and 7 to
    70 times with torch held to AVX2.
    """
    maps = torch.cat([linear, offset[:, :, None]], 2).numpy()
    out = np.empty(images.shape, np.float32)
    for image, affine, place in zip(images.numpy(), maps, out, strict=True):
        cv2.transform(image.astype(np.float32), affine, place)
    return torch.from_numpy(out)


def product(images: Tensor, linear: Tensor, offset: Tensor) -> Tensor:
    """`transformed` as one batched product, for any number of channels on any device."""
    count, size, _, channels = images.shape
    x = torch.bmm(images.reshape(count, -1, channels).float(), linear.transpose(1, 2))
    # repeated to whole rows of values: with its few values at the end, torch would loop over three numbers at a time
    x = x.view(count, size, channels * size).add_(offset.repeat(1, size)[:, None])
    return x.view(count, size, size, channels)
