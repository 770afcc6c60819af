"""Exchange layers of a finished network: its activation, its pooling, its classifier; and draw its weights again.

timm builds some of this for some architectures; exchanged afterwards, it works for all whose layers are modules.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.errors import UserError, nearest

ACTIVATIONS = (
    "relu", "relu6", "leaky_relu", "prelu", "elu", "celu", "selu", "silu", "mish", "gelu", "gelu_tanh", "quick_gelu",
    "hard_swish", "hard_mish",
)  # fmt: skip


def replace_modules(
    model: nn.Module, wanted: Callable[[nn.Module], bool], make: Callable[[nn.Module], nn.Module]
) -> list[str]:
    """Put make(module) in the place of each module that is `wanted`, in `model` itself; their names, in its order."""
    found = {name: module for name, module in model.named_modules() if name and wanted(module)}
    for name, module in found.items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, make(module))
    return list(found)


def swap_activation(model: nn.Module, activation: str) -> list[str]:
    """Exchange every activation of ACTIVATIONS by `activation`; gates (sigmoid, tanh) stay. Names of the new modules.

    PReLU learns one slope per layer, 0.25 at first (1502.01852). Raises UserError for an unknown activation and for a
    network whose activations are no modules.
    """
    from timm.layers import get_act_layer

    name = {"swish": "silu", "hardswish": "hard_swish"}.get(activation, activation)
    if name not in ACTIVATIONS:
        raise UserError(
            f"model.activation={activation}: choose one of {', '.join(ACTIVATIONS)}{nearest(name, ACTIVATIONS)}"
        )
    torchs = (nn.LeakyReLU, nn.PReLU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.ReLU, nn.ReLU6)
    kinds = {*torchs, *(get_act_layer(each) for each in ACTIVATIONS)}
    swapped = replace_modules(model, lambda module: type(module) in kinds, lambda module: get_act_layer(name)())
    if not swapped:
        raise UserError(f"model.activation={activation}: the network has no activation modules to exchange; leave it")
    return swapped


class GeM(nn.Module):
    """Generalised mean (mean x^p)^(1/p) of non-negative activations over the image, p learnt (1711.02512).

    p = 1 is the mean, p -> infinity the maximum. Ours, because timm has none. (B, C, H, W) -> (B, C), or (B, C, 1, 1)
    unless `flatten`; in fp32, since x^3 leaves the range of fp16 at x = 41.
    """

    def __init__(self, p: float = 3.0, flatten: bool = True) -> None:
        super().__init__()
        self.p, self.flatten = nn.Parameter(torch.full((1,), p)), flatten

    def forward(self, x: Tensor) -> Tensor:
        p = self.p.float()
        mean = x.float().clamp(min=1e-6).pow(p).mean((2, 3), keepdim=not self.flatten).pow(1 / p)
        return mean.to(x.dtype)


def use_gem(model: nn.Module, gem: GeM | None = None) -> list[str]:
    """Put GeM (a fresh one, or `gem`) into timm's pooling layer. The new modules' names.

    Raises UserError for a network without one, or whose features are not (B, C, H, W).
    """
    from timm.layers import SelectAdaptivePool2d

    found: dict[str, Any] = {
        name: module for name, module in model.named_modules() if isinstance(module, SelectAdaptivePool2d)
    }
    for layer in found.values():
        shape = tuple(layer(torch.zeros(1, 2, 3, 4)).shape)  # timm keeps neither layout nor flattening by name
        if shape not in ((1, 2), (1, 2, 1, 1)):
            raise UserError("model.pool=gem: the network does not pool (B, C, H, W) features; leave model.pool alone")
        layer.pool = gem if gem is not None else GeM(flatten=len(shape) == 2)
    if not found:
        raise UserError("model.pool=gem: the network has no pooling layer of timm's; leave model.pool alone")
    return [f"{name}.pool" for name in found]


class CosineHead(nn.Module):
    """A classifier without bias on directions: scale · cos(features, weights of the class), the same in training.

    subcentres: weight vectors of each class, of which the nearest counts (sub-centre ArcFace, ECCV 2020). The margin
    belongs to the loss (`src.training.losses.add_margin`), which knows the target. Cosines are taken in fp32: in bf16
    they are rounded to 1/256, which is 0.12 of a logit at scale 30.
    """

    def __init__(self, features: int, classes: int, scale: float = 30.0, subcentres: int = 1) -> None:
        super().__init__()
        self.classes, self.scale, self.subcentres = classes, scale, subcentres
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(classes * subcentres, features)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, C) float32 in -scale..scale."""
        kind = x.device.type
        with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
            cosines = F.linear(F.normalize(x.float()), F.normalize(self.weight.float()))
        return self.scale * cosines.unflatten(1, (self.classes, self.subcentres)).amax(2)


def use_cosine_head(model: nn.Module, classes: int, scale: float, subcentres: int) -> None:
    """Put a `CosineHead` in the place of the classifier. Raises UserError if that is not one linear layer."""
    name = getattr(model, "pretrained_cfg", {}).get("classifier")
    found = dict(model.named_modules()).get(name) if isinstance(name, str) else None
    if not isinstance(found, nn.Linear):
        raise UserError("model.head: the network does not end in one linear layer; use model.head=linear")
    replace_modules(
        model, lambda module: module is found, lambda _: CosineHead(found.in_features, classes, scale, subcentres)
    )


def without_classifier(model: nn.Module) -> None:
    """Make a timm network return its pooled features (B, D)."""
    gems = [module for module in model.modules() if isinstance(module, GeM)]
    model.reset_classifier(0)  # type: ignore[operator]
    if gems and gems[0] not in list(model.modules()):  # timm builds a new pooling as well
        use_gem(model, gems[0])


def start_at_zero(model: nn.Module) -> None:
    """Set weights and biases of a timm network's linear classifiers to 0: the first prediction is then every class
    alike, and the first gradients of the backbone are 0, so that it is not pulled about by a random classifier.

    timm's EfficientNets draw theirs from ±1/sqrt(classes): a first loss of 6.0 with ten classes instead of ln 10 = 2.3.
    A cosine head, whose directions cannot be 0, stays.
    """
    found = model.get_classifier()  # type: ignore[operator]
    for head in found if isinstance(found, (tuple, list)) else [found]:
        if isinstance(head, (nn.Linear, nn.Conv2d)):
            nn.init.zeros_(head.weight)
            if head.bias is not None:
                nn.init.zeros_(head.bias)


def initialise(model: nn.Module, kind: Literal["he", "xavier"]) -> None:
    """Draw the weights of all convolutions and linear layers, biases 0 (Bag of Tricks 2.1). Norm layers stay.

    he: N(0, 2/fan_in) (1502.01852); xavier: U(-a, a) with a = sqrt(6/(fan_in + fan_out)) (Glorot & Bengio 2010).
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            if kind == "he":
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
