"""Grad-CAM: where in an image a network finds its evidence for a class."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

# A map of fewer cells across says hardly more than "somewhere": an earlier layer is then looked at.
LEAST_CELLS = 4


def grad_cam(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """(B, h, w) float32 on the CPU, not negative: the evidence for classes[i] in the parts of images[i] (1610.02391).

    model: any network with timm's `feature_info`; it is run in eval mode and left as it was, without gradients.
    images (B, 3, S, S), as the network expects them; classes (B,) int64. The layer is the last one whose map has at
    least LEAST_CELLS cells across, or the one before where that has no gradient: only the class token of a vision
    transformer is looked at behind its last block. Raises ValueError for a network without maps of that kind.

    Ours, because the package grad-cam asks for the layer and the layout of its tokens for each architecture, which is
    most of what is here, and leaves gradients in the parameters.
    """
    found = getattr(model, "feature_info", None) or []
    layers: list[Any] = [info for info in found if info.get("module")]
    fine = [info for info in layers if images.shape[-1] / info["reduction"] >= LEAST_CELLS]
    chosen = [model.get_submodule(info["module"]) for info in (fine or layers)[-2:]]
    outputs: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _: Any, output: Any) -> None:
        outputs[module] = output

    mode, hooks = model.training, [module.register_forward_hook(keep) for module in chosen]
    try:
        # the images ask for a gradient, because all parameters may be frozen
        with torch.enable_grad():
            logits = model.eval()(images.detach().requires_grad_())
            kept = [outputs[module] for module in reversed(chosen) if isinstance(outputs.get(module), Tensor)]
            score = logits.gather(1, classes[:, None]).sum()  # in eval mode no image has a say in another's logits
            gradients = torch.autograd.grad(score, kept, allow_unused=True) if kept else ()
    finally:
        model.train(mode)
        for hook in hooks:
            hook.remove()

    for output, gradient in zip(kept, gradients, strict=True):
        if gradient is None or (maps := _as_maps(output.detach())) is None:
            continue
        slopes = _as_maps(gradient)
        assert slopes is not None
        if slopes.any():
            weights = slopes.mean((2, 3), keepdim=True)  # eq. 1: a_k = 1/Z Σ_ij ∂y/∂A_k,ij
            return (weights * maps).sum(1).relu().cpu()  # eq. 2: ReLU(Σ_k a_k A_k)
    raise ValueError("the network has no feature map (channels x height x width, or tokens) with a gradient")


def _as_maps(features: Tensor) -> Tensor | None:
    """(B, C, H, W) or (B, H, W, C) with H = W, or tokens (B, N, C) with others before those of the image, as
    (B, C, H, W) float32; None for another shape."""
    if features.ndim == 4 and features.shape[2] == features.shape[3]:
        return features.float()
    if features.ndim == 4 and features.shape[1] == features.shape[2]:
        return features.permute(0, 3, 1, 2).float()
    if features.ndim == 3:
        side = math.isqrt(features.shape[1])  # images are square; class and register tokens come first in timm
        image = features[:, features.shape[1] - side * side :]
        return image.transpose(1, 2).unflatten(2, (side, side)).float()
    return None
