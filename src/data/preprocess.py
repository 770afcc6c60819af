"""From a batch of samples to what a network takes: colour jitter and normalisation in one pass, on its device."""

from __future__ import annotations

import torch
from torch import Tensor

from src.data.spec import RGB, ImageSpec, Normalisation


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
    Colour jitter and normalisation are one matrix per image: (M v/full + t - mean) / std.
    """
    count, size, _, channels = images.shape
    # What is the same for all pixels is repeated to whole rows of values: with its few values at the end, torch
    # would loop over three numbers at a time. (measure: benchmarks/profile_loader.py)
    pixels = images.reshape(count, size, channels * size)
    if colour is None:
        x = pixels.float().sub_((full * mean).repeat(size)).div_((full * std).repeat(size))
    else:
        linear = (colour[:, :, :channels] / (full * std[:, None])).transpose(1, 2)
        x = torch.bmm(pixels.view(count, -1, channels).float(), linear).view(count, size, channels * size)
        x.add_(((colour[:, :, channels] - mean) / std).repeat(1, size)[:, None])
    return x.view(count, size, size, channels).permute(0, 3, 1, 2)
