"""What a network learns: targets by row, the loss on them, and what its outputs mean; with a margin or a teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from src.config import DistillConfig, LossConfig, ModelConfig
from src.model.outputs import Outputs, by_group
from src.training.losses import (
    add_margin,
    binary_cross_entropy,
    make_loss,
    matching,
    of_numbers,
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


def several_targets(
    y: Tensor, outputs: Outputs, config: LossConfig, weights: Sequence[Tensor | None] | None = None
) -> Objective:
    """Several targets, each with classes of its own: y (N, T) int64 by row, weights of each one's classes.

    The loss is the mean over targets of that of one label, on its own columns of the outputs and soft targets.
    """
    values = {key: value for key, value in asdict(config).items() if key not in TARGET_KEYS}
    losses = [make_loss(**values, weights=each) for each in weights or [None] * len(outputs.groups)]

    def targets(rows: Tensor) -> Tensor:
        each = zip(y[rows].unbind(1), outputs.groups, strict=True)
        soft = [soft_targets(labels, classes, config.smoothing, config.smoothing_kind) for labels, classes in each]
        return torch.cat(soft, dim=1)

    def loss(logits: Tensor, soft: Tensor, x: Tensor) -> Tensor:
        parts = zip(losses, logits.split(outputs.groups, 1), soft.split(outputs.groups, 1), strict=True)
        return torch.stack([one(own, wanted) for one, own, wanted in parts]).mean()

    return Objective(targets, loss, outputs)


def numbers(y: Tensor, outputs: Outputs, config: LossConfig) -> Objective:
    """Values: y (N, C) float by row, in their own units; what is learnt is scaled as the outputs are."""
    assert outputs.scaling is not None
    shift, scale = (y.new_tensor(values) for values in outputs.scaling)
    wanted = (y - shift) / scale
    return Objective(lambda rows: wanted[rows], lambda logits, soft, x: of_numbers(config.name, logits, soft), outputs)


def with_margin(objective: Objective, config: ModelConfig) -> Objective:
    """The loss on logits that `model.head` has made harder by `model.margin`; a teacher comes after."""
    if config.head == "linear":
        return objective
    harder = partial(add_margin, kind=config.head, margin=config.margin, scale=config.scale)
    return replace(objective, loss=lambda logits, y, x: objective.loss(harder(logits, y), y, x))


def taught_on_sight(objective: Objective, teacher: nn.Module, config: DistillConfig) -> Objective:
    """A patient teacher, (B, C, S, S) -> (B, K) log-probabilities, or values, that looks at the very crops of the
    student, mixed ones too (2106.05237)."""
    outputs = objective.outputs

    def loss(logits: Tensor, y: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            theirs = soften(outputs, teacher(x), config.temperature)
        return objective.loss(logits, y, x) + config.weight * match(outputs, logits, theirs, config.temperature)

    return replace(objective, loss=loss)


def taught_before(objective: Objective, known: Tensor, config: DistillConfig) -> Objective:
    """A teacher that was asked once: known (N, K) probabilities, or values, by row.

    They are softened before anything mixes them: the mean of two softened predictions, not the softened mean, is what a
    mixed image is to be matched with, as its loss is the mean of two losses.
    """
    outputs, width = objective.outputs, known.shape[1]
    theirs = known if outputs.scaling is not None else known.clamp(min=1e-8).log()
    soft = soften(outputs, theirs, config.temperature)

    def targets(rows: Tensor) -> Tensor:
        return torch.cat([objective.targets(rows), soft[rows]], dim=1)

    def loss(logits: Tensor, y: Tensor, x: Tensor) -> Tensor:
        own, wanted = y[:, :-width], y[:, -width:]
        return objective.loss(logits, own, x) + config.weight * match(outputs, logits, wanted, config.temperature)

    return replace(objective, targets=targets, loss=loss)


def soften(outputs: Outputs, theirs: Tensor, temperature: float) -> Tensor:
    """What a teacher says, log-probabilities (B, K) or values, as what a student of these `outputs` has to match."""
    if outputs.scaling is not None:
        return theirs
    if outputs.groups:
        return by_group(theirs, outputs.groups, partial(softened, temperature=temperature))
    return softened(theirs, temperature, outputs.exclusive)


def match(outputs: Outputs, logits: Tensor, soft: Tensor, temperature: float) -> Tensor:
    """How far a student is from what its teacher says, `soft` (B, K): `matching`, the mean of it over several targets,
    or of numbers the mean squared difference in scales of the student's outputs."""
    own = outputs.logs(logits.float())
    if outputs.scaling is not None:
        return ((own - soft) / own.new_tensor(outputs.scaling.scale)).square().mean()
    if outputs.groups:
        parts = zip(own.split(outputs.groups, 1), soft.split(outputs.groups, 1), strict=True)
        return torch.stack([matching(student, wanted, temperature) for student, wanted in parts]).mean()
    return matching(own, soft, temperature, outputs.exclusive)
