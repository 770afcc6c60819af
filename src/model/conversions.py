"""Which layers of a timm network are exchanged, by which keys of the section `model`, and in which order."""

from __future__ import annotations

from typing import Literal

from torch import nn

from src.model.convolutions import move_stride_first, use_separable
from src.model.layers import swap_activation, use_cosine_head, use_gem


def convert(
    model: nn.Module,
    classes: int,
    *,
    stride_first: bool = False,
    activation: str | None = None,
    pool: str = "default",
    head: Literal["linear", "cosface", "arcface"] = "linear",
    scale: float = 30.0,
    subcentres: int = 1,
    separable: bool = False,
    separable_width: int = 1,
) -> list[str]:
    """Exchange layers of `model` in place; the names of the new modules that a file of its weights need not have.

    The keywords are keys of the section `model`, whose defaults exchange nothing: `build_model` hands on what it does
    not know itself, and does so before a file of weights is read. Raises UserError for what the network has no place
    for.
    """
    fresh: list[str] = []
    if stride_first:
        move_stride_first(model)
    if activation is not None:
        fresh += swap_activation(model, activation)
    if pool == "gem":  # timm builds the others
        fresh += use_gem(model)
    if head != "linear":
        use_cosine_head(model, classes, scale, subcentres)
    if separable:
        use_separable(model, separable_width)
    return fresh
