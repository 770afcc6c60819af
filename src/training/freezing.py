"""Which part of the network a step trains: all of it, its classifier, or its classifier and last norm (FixRes); and
whether BatchNorm's statistics stay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.errors import UserError

Part = Literal["all", "head", "head+norm"]


def train_only(model: nn.Module, optimizer: Any, part: Part, hold_norms: bool = False) -> None:
    """Train mode and gradients for `part` of a timm network (as it is, or wrapped by DistributedDataParallel).

    optimizer: of all its parameters; what is not in it (fixed position embeddings) is never given a gradient.

    The rest is in evaluation mode and without gradients: its parameters get neither steps nor weight decay (torch's and
    timm's optimisers pass over a parameter without a gradient), its BatchNorm statistics stay, its dropout is off.
    head+norm: the classifier and the last norm before it in the order of the modules, whose statistics move as well
    (1906.06423, section 4.2). hold_norms: BatchNorm normalises by the running statistics it has, which stay; its weight
    and bias learn. Also the last one's: of a network that was fine-tuned on held statistics, batches of 64 px made a
    loss of 547 of 1.5. Raises UserError if the network has no classifier by which timm knows it.
    """
    model.train(part == "all")
    moving = set()
    for module in head_of(model, part):
        module.train()
        moving |= set(module.parameters())
    if hold_norms:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.requires_grad_(part == "all" or parameter in moving)


def head_of(model: nn.Module, part: Part) -> list[nn.Module]:
    """The modules of `part`; none for "all"."""
    if part == "all":
        return []
    network: Any = getattr(model, "module", model)
    found = network.get_classifier() if hasattr(network, "get_classifier") else None
    heads = [module for module in (found if isinstance(found, Iterable) else [found]) if isinstance(module, nn.Module)]
    if not any(True for head in heads for _ in head.parameters()):
        raise UserError(
            f"model.freeze, stages.train: {type(network).__name__} has no classifier that could be trained alone; "
            "leave them at null and all"
        )
    norms = [module for module in network.modules() if isinstance(module, (_BatchNorm, nn.LayerNorm, nn.GroupNorm))]
    return [*heads, *norms[-1:]] if part == "head+norm" else heads
