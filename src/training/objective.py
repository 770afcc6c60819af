"""What a network learns: targets by row, the loss on them, and what its outputs mean; with a margin or a teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from src.config import DistillConfig, LossConfig, ModelConfig
from src.model.outputs import Outputs
from src.training.losses import (
    add_margin,
    binary_cross_entropy,
    distillation,
    make_loss,
    matching,
    soft_targets,
    softened,
)

# Keys of the section `loss` that decide what is learnt; all others are arguments of `make_loss`, by their names.
TARGET_KEYS = ("class_weights", "smoothing", "smoothing_kind", "flip_labels")


@dataclass(frozen=True)
class Objective:
    """targets: rows (B,) -> (B, T), a row of what may be mixed with another's. loss: (logits, targets, inputs
    (B, C, S, S)) -> scalar; the inputs are there for a teacher that looks at the same crops. outputs: see there."""

    targets: Callable[[Tensor], Tensor]
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    outputs: Outputs


def one_label(
    labels: Tensor, classes: int, outputs: Outputs, config: LossConfig, weights: Tensor | None = None
) -> Objective:
    """One class per row: labels (N,) int64 by row, weights (C,) of the classes."""
    values = {key: value for key, value in asdict(config).items() if key not in TARGET_KEYS}
    loss = make_loss(**values, weights=weights)

    def targets(rows: Tensor) -> Tensor:
        return soft_targets(labels[rows], classes, config.smoothing, config.smoothing_kind)

    return Objective(targets, lambda logits, y, x: loss(logits, y), outputs)


def several_labels(y: Tensor, outputs: Outputs, config: LossConfig, positive: Tensor | None = None) -> Objective:
    """Columns that are true or not: y (N, C) float by row, positive (C,) weights of the true ones.

    The cross-entropy of each column, or its focal loss (1708.02002), summed over columns. Smoothing moves every target
    by half of it towards 1/2.
    """

    def targets(rows: Tensor) -> Tensor:
        return y[rows] * (1 - config.smoothing) + config.smoothing / 2

    def loss(logits: Tensor, soft: Tensor, x: Tensor) -> Tensor:
        if config.name == "focal":
            each = sigmoid_focal_loss(logits.float(), soft, alpha=-1, gamma=config.gamma)
            return each.sum(dim=1).mean()
        return binary_cross_entropy(logits, soft, positive)

    return Objective(targets, loss, outputs)


def with_margin(objective: Objective, config: ModelConfig) -> Objective:
    """The loss on logits that `model.head` has made harder by `model.margin`; a teacher comes after."""
    if config.head == "linear":
        return objective
    harder = partial(add_margin, kind=config.head, margin=config.margin, scale=config.scale)
    return replace(objective, loss=lambda logits, y, x: objective.loss(harder(logits, y), y, x))


def taught_on_sight(objective: Objective, teacher: nn.Module, config: DistillConfig) -> Objective:
    """A patient teacher, (B, C, S, S) -> (B, K) log-probabilities, that looks at the very crops of the student, mixed
    ones too (2106.05237)."""
    exclusive = objective.outputs.exclusive

    def loss(logits: Tensor, y: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            theirs = teacher(x)
        own, student = objective.loss(logits, y, x), objective.outputs.logs(logits.float())
        return own + config.weight * distillation(student, theirs, config.temperature, exclusive)

    return replace(objective, loss=loss)


def taught_before(objective: Objective, known: Tensor, config: DistillConfig) -> Objective:
    """A teacher that was asked once: known (N, K) probabilities by row.

    They are softened before anything mixes them: the mean of two softened predictions, not the softened mean, is what a
    mixed image is to be matched with, as its loss is the mean of two losses.
    """
    exclusive, width = objective.outputs.exclusive, known.shape[1]
    soft = softened(known.clamp(min=1e-8).log(), config.temperature, exclusive)

    def targets(rows: Tensor) -> Tensor:
        return torch.cat([objective.targets(rows), soft[rows]], dim=1)

    def loss(logits: Tensor, y: Tensor, x: Tensor) -> Tensor:
        own, theirs = y[:, :-width], y[:, -width:]
        student = objective.outputs.logs(logits.float())
        return objective.loss(logits, own, x) + config.weight * matching(student, theirs, config.temperature, exclusive)

    return replace(objective, targets=targets, loss=loss)
