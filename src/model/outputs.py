"""What the values mean that a network ends in: from outputs to probabilities, or to numbers in their own units."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from src.competition.kinds.number import Scaling


class Outputs(NamedTuple):
    """width: values per image that the network ends in; predict: (B, width) float32 -> (B, C) probabilities; logs: the
    same as log-probabilities, exact where probabilities underflow; exclusive: whether these sum to 1; groups: how many
    columns each target has, where there are several; scaling: of numbers, whose predict and logs are the values."""

    width: int
    predict: Callable[[Tensor], Tensor]
    logs: Callable[[Tensor], Tensor]
    exclusive: bool = True
    groups: tuple[int, ...] = ()
    scaling: Scaling | None = None


def outputs_of(
    kind: str, loss: str, classes: int, groups: tuple[int, ...] = (), scaling: Scaling | None = None
) -> Outputs:
    """Of the network of a task of that kind with so many columns, trained with that loss. groups: of the kind
    `targets`; scaling: of the kind `number`."""
    if kind == "number":
        assert scaling is not None
        values = partial(scaled, scaling=scaling, bounded=loss == "bce")
        return Outputs(classes, values, values, exclusive=False, scaling=scaling)
    if kind == "targets":
        each = partial(by_group, groups=groups, function=softmax)
        logs = partial(by_group, groups=groups, function=partial(F.log_softmax, dim=1))
        return Outputs(classes, each, logs, exclusive=False, groups=groups)
    if kind == "single" and loss == "bce":
        return Outputs(classes, one_of_sigmoids, lambda logits: one_of_sigmoids(logits).clamp(min=1e-12).log())
    if kind == "multi":
        return Outputs(classes, torch.sigmoid, F.logsigmoid, exclusive=False)
    if loss == "ordinal":
        return Outputs(classes - 1, steps, lambda logits: steps(logits).clamp(min=1e-12).log())
    return Outputs(classes, softmax, lambda logits: F.log_softmax(logits, dim=1))


def scaled(outputs: Tensor, scaling: Scaling, bounded: bool) -> Tensor:
    """Numbers (B, C): shift + scale · outputs, or of their sigmoids where they are `bounded`."""
    shift, scale = (outputs.new_tensor(values) for values in scaling)
    return shift + scale * (torch.sigmoid(outputs) if bounded else outputs)


def by_group(columns: Tensor, groups: tuple[int, ...], function: Callable[[Tensor], Tensor]) -> Tensor:
    """`function` of the columns (B, K) of each group, side by side."""
    return torch.cat([function(part) for part in columns.split(groups, dim=1)], dim=1)


def softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits, dim=1)


def steps(logits: Tensor) -> Tensor:
    """Grades: (B, C - 1) logits of "above class c" -> (B, C), the differences of their sigmoids (Frank & Hall 2001).

    Nothing keeps the outputs in order; a difference below 0 is none, and the rest is scaled to sum 1.
    """
    above = torch.sigmoid(logits)
    ends = torch.ones_like(above[:, :1])
    shares = (torch.cat([ends, above], 1) - torch.cat([above, 0 * ends], 1)).clamp(min=0)
    return shares / shares.sum(dim=1, keepdim=True)


def one_of_sigmoids(logits: Tensor) -> Tensor:
    """Each class against the rest, where one of them is true: sigmoids, scaled to sum 1.

    Under binary cross-entropy sigmoid(z_c) estimates P(c). Softmax would sharpen it: .6/.3/.1 becomes .735/.210/.054.
    """
    # softmax of log sigmoid(z) is sigmoid(z) / sum of them, without an underflow of all
    return torch.softmax(F.logsigmoid(logits), dim=1)
