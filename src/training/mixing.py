"""Mixup and CutMix on a batch of images and soft targets.

timm has both, but draws from numpy's global generator and mixes each image with its mirror place in the batch; here
the draw is a value of its own, seeded by the step, so that a resumed run mixes the same pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Mix(NamedTuple):
    """kind `mixup` or `cutmix`; lam: share of the image itself; partner: (B,) int64; box: top, left, bottom, right."""

    kind: str
    lam: float
    partner: np.ndarray
    box: tuple[int, int, int, int] = (0, 0, 0, 0)


def draw_mix(
    rng: np.random.Generator, count: int, size: int, mixup: float, cutmix: float, probability: float = 1.0
) -> Mix | None:
    """What to do with one batch: λ ~ Beta(α, α), or None to leave it. With both α above 0 a fair coin chooses."""
    if not (mixup or cutmix) or rng.random() >= probability:
        return None
    use_cutmix = bool(cutmix) and (not mixup or rng.random() < 0.5)
    alpha = cutmix if use_cutmix else mixup
    lam, partner = float(rng.beta(alpha, alpha)), rng.permutation(count)
    if not use_cutmix:
        return Mix("mixup", lam, partner)
    # box of area 1-λ with its centre anywhere, cut at the border; λ is what is left of the image (1905.04899)
    side = (1 - lam) ** 0.5 * size
    y, x = rng.integers(size), rng.integers(size)
    top, bottom = (int(np.clip(round(y + half), 0, size)) for half in (-side / 2, side / 2))
    left, right = (int(np.clip(round(x + half), 0, size)) for half in (-side / 2, side / 2))
    return Mix("cutmix", 1 - (bottom - top) * (right - left) / size**2, partner, (top, left, bottom, right))


def apply_mix(x: Tensor, y: Tensor, mix: Mix | None) -> tuple[Tensor, Tensor]:
    """(B, 3, S, S) images and (B, C) targets: λ·own + (1-λ)·partner (1710.09412), or the partner's box."""
    if mix is None:
        return x, y
    partner = torch.as_tensor(mix.partner, device=x.device)
    y = y.lerp(y[partner], 1 - mix.lam)
    if mix.kind == "mixup":
        return x.lerp(x[partner], 1 - mix.lam), y
    top, left, bottom, right = mix.box
    # a mask instead of a slice: on XLA a box of another shape in each step would be compiled again in each step
    inside = np.zeros(x.shape[2:], bool)
    inside[top:bottom, left:right] = True
    return torch.where(torch.as_tensor(inside, device=x.device), x[partner], x), y
