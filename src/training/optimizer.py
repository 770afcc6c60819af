"""The optimiser and its parameter groups, from timm and torch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from src.errors import UserError, nearest


def build_optimizer(
    model: nn.Module,
    name: str,
    *,
    weight_decay: float,
    momentum: float = 0.9,
    decay_bias: bool = False,
    layer_decay: float = 1.0,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """Any optimiser that timm knows (sgd is Nesterov's), with lr 1.0: the loop sets the rate of each step.

    Unless decay_bias, weight decay acts on weights of convolutions and linear layers only, not on biases and norm
    parameters (Bag of Tricks 3.1.4). layer_decay d: the rate of a layer that is n layers below the classifier is times
    d^n (BEiT, 2106.08254; layers as timm groups them). fused: torch's fused kernels. Raises UserError with the nearest
    name for an unknown one, and for one without fused kernels.
    """
    from timm.optim import create_optimizer_v2, list_optimizers

    known = [str(other) for other in list_optimizers()]
    if name not in known:
        raise UserError(f"optimizer.name={name}: no such optimiser{nearest(name, known)}")
    if name == "sgd" and momentum == 0:
        name = "momentum"  # timm's name for SGD without Nesterov's step, which needs a momentum
    # only what differs from the default is passed on: not every optimiser takes every argument
    more: dict[str, Any] = {"layer_decay": layer_decay} if layer_decay != 1 else {}
    more |= {"fused": True} if fused else {}
    try:
        return create_optimizer_v2(
            model,
            opt=name,
            lr=1.0,
            weight_decay=weight_decay,
            momentum=momentum,
            filter_bias_and_bn=not decay_bias,
            **more,
        )
    except (TypeError, RuntimeError) as error:
        if not fused:
            raise
        why = " ".join(str(error).split())
        raise UserError(
            f"optimizer.fused=true: not for {name} here ({why}); use sgd or adamw, or leave it off"
        ) from None


def set_rate(optimizer: torch.optim.Optimizer, rate: float, momentum: float | None = None) -> None:
    """`lr_scale` (timm's layer-wise decay) is honoured where a group has one.

    momentum: of SGD and its kin, or Adam's first beta; None leaves it.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
        if momentum is not None and "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])
        elif momentum is not None:
            group["momentum"] = momentum


def scaled_rate(base: float, total_batch: int, rule: str = "linear") -> float:
    """`base`, the rate for 256 examples of an optimiser step, for `total_batch` of them.

    rule: `linear` (Goyal et al. 1706.02677), as suits SGD; `sqrt` (2205.10287), as suits Adam; `none`, as it is.
    """
    share = total_batch / 256
    return base * {"linear": share, "sqrt": math.sqrt(share), "none": 1.0}[rule]
