"""Losses on soft targets (B, C), which labels, smoothing, mixup and a teacher share."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_targets(labels: Tensor, classes: int, smoothing: float = 0.0, kind: str = "others") -> Tensor:
    """(B,) int64 -> (B, C) float32 rows that sum to 1.

    kind `others`: 1-ε on the true class and ε/(K-1) on each other, as in Bag of Tricks 5.2.
    kind `all`: ε/K on every class and 1-ε more on the true one, as in torch and Inception-v3 (1512.00567).
    """
    hot = F.one_hot(labels, classes).float()
    if kind == "others":
        return hot * (1 - smoothing) + (1 - hot) * smoothing / max(1, classes - 1)
    return hot * (1 - smoothing) + smoothing / classes


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch of -Σ targets·log softmax(logits), computed in fp32 whatever the precision of the model."""
    return torch.sum(-targets * F.log_softmax(logits.float(), dim=1), dim=1).mean()


def add_margin(
    logits: Tensor, targets: Tensor, *, kind: Literal["cosface", "arcface"], margin: float, scale: float
) -> Tensor:
    """Logits (B, C) = scale·cosθ of a `CosineHead`, those of the target made smaller: what the loss of training takes.

    cosface: scale·(cosθ - m) (1801.05599); arcface: scale·cos(θ + m) (1801.07698), and beyond θ + m = π, where the
    cosine would rise again, scale·(cosθ - m·sin m), as in the authors' code. Each class has the margin in proportion to
    its target (B, C): one-hot rows give the papers' formulas, a mixed image λ·m for one class and (1-λ)·m for the
    other, a smoothed label a little for every class. In fp32.
    """
    cosine, own = logits.float() / scale, margin * targets
    if kind == "cosface":
        return scale * (cosine - own)
    # the gradient of the root is infinite at cosθ = ±1
    sine = (1 - cosine.square()).clamp(min=1e-8).sqrt()
    turned = cosine * own.cos() - sine * own.sin()
    return scale * torch.where(cosine > (math.pi - own).cos(), turned, cosine - own * own.sin())


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T²·KL(teacher ‖ student), both softened by the temperature, mean over the batch (Hinton et al. 1503.02531).

    logits (B, C) of the student; teacher (B, C) logits or log-probabilities, without gradient. T² keeps the gradient
    at the size of the cross-entropy's whatever T is. In fp32 whatever the precision of the models.
    """
    student = F.log_softmax(logits.float() / temperature, dim=1)
    soft = F.log_softmax(teacher.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(student, soft, reduction="batchmean", log_target=True)
