"""Losses on soft targets (B, C), which labels, smoothing, mixup and a teacher share."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
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


def focal(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """Mean over the batch of -Σ targets·(1-p)^γ·log p, p = softmax(logits) (1708.02002); γ = 0 is cross-entropy.

    Our own, because torchvision's is of sigmoids. In fp32 whatever the precision of the model.
    """
    logs = F.log_softmax(logits.float(), dim=1)
    return torch.sum(-targets * (-torch.expm1(logs)).clamp(min=1e-8) ** gamma * logs, dim=1).mean()


def binary_cross_entropy(logits: Tensor, targets: Tensor, positive: Tensor | None = None) -> Tensor:
    """Each class against the rest: Σ over classes of the cross-entropy of sigmoid(logits), mean over the batch; fp32.

    positive (C,): weight of each class where it is the true one (torch's pos_weight).
    """
    each = F.binary_cross_entropy_with_logits(logits.float(), targets, pos_weight=positive, reduction="none")
    return each.sum(dim=1).mean()


def ordinal(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Grades: Σ over steps c of the cross-entropy of "above class c", mean over the batch; fp32 (Frank & Hall 2001;
    as the loss of a network, 0704.1028).

    logits (B, C - 1); targets (B, C) soft, of which the share above each step is what that step should say, so that
    smoothing, mixing and a teacher work as with softmax. weights (C,): of the classes, applied to whole rows.
    """
    above = targets.flip(1).cumsum(1).flip(1)[:, 1:].clamp(0, 1)
    each = F.binary_cross_entropy_with_logits(logits.float(), above, reduction="none").sum(dim=1)
    return each.mean() if weights is None else (each * (targets @ weights)).mean()


def of_numbers(name: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """mse, mae, huber (the square up to an error of 1, then its tangent; half of both) or bce of scaled numbers (B, C),
    the mean over columns and the batch; fp32. bce: of sigmoid(outputs) against targets from 0 to 1."""
    own = outputs.float()
    if name == "bce":
        return F.binary_cross_entropy_with_logits(own, targets.clamp(0, 1))
    if name == "huber":
        return F.huber_loss(own, targets)
    return F.l1_loss(own, targets) if name == "mae" else F.mse_loss(own, targets)


def make_loss(name: str, gamma: float = 2.0, weights: Tensor | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """(logits (B, C), targets (B, C)) -> scalar: cross_entropy, focal, bce or ordinal. weights (C,): of the classes, or
    None.

    They multiply the targets, as in torch's cross_entropy with probabilities; in bce they are the `positive` ones.
    """
    if name == "ordinal":
        return partial(ordinal, weights=weights)
    if name == "bce":
        return partial(binary_cross_entropy, positive=weights)
    loss = partial(focal, gamma=gamma) if name == "focal" else cross_entropy
    if weights is None:
        return loss
    return lambda logits, targets: loss(logits, targets * weights)


def balanced_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """(C,) float32 weights N / (classes that are there · rows of the class), scikit-learn's "balanced"; 0 for a class
    without rows. labels (N,) int64."""
    counts = np.bincount(labels, minlength=classes)
    return np.where(counts > 0, len(labels) / (counts > 0).sum() / np.maximum(counts, 1), 0).astype(np.float32)


def softened(logs: Tensor, temperature: float, exclusive: bool = True) -> Tensor:
    """A teacher's log-probabilities (B, C) as probabilities at a temperature: softmax(logs / T), or where columns are
    not exclusive each one's sigmoid of its log-odds / T. Exclusive ones may also be logits."""
    if exclusive:
        return F.softmax(logs.float() / temperature, dim=1)
    return torch.sigmoid(log_odds(logs) / temperature)


def matching(logs: Tensor, soft: Tensor, temperature: float, exclusive: bool = True) -> Tensor:
    """T²·KL(soft ‖ student), the student's log-probabilities (B, C) softened here, `soft` (B, C) already; the mean over
    the batch, of the sum over columns where these are not exclusive (Hinton et al. 1503.02531). T² keeps the gradient
    at the size of the cross-entropy's whatever T is. In fp32 whatever the precision of the models."""
    if exclusive:
        student = F.log_softmax(logs.float() / temperature, dim=1)
        return temperature**2 * F.kl_div(student, soft, reduction="batchmean")
    odds = log_odds(logs) / temperature
    true = F.kl_div(F.logsigmoid(odds), soft, reduction="batchmean")
    return temperature**2 * (true + F.kl_div(F.logsigmoid(-odds), 1 - soft, reduction="batchmean"))


def log_odds(logs: Tensor) -> Tensor:
    """log p - log(1 - p) from log p, in fp32, for p from 1e-6 to 1 - 1e-6."""
    kept = logs.float().clamp(min=math.log(1e-6), max=math.log1p(-1e-6))
    return kept - torch.log(-torch.expm1(kept))
