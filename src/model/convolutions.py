"""Convolutions of a finished network exchanged: depthwise-separable ones, ACNet's, the stride of ResNet v1."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.errors import UserError
from src.model.layers import initialise, replace_modules


def is_regular_3x3(module: Any) -> bool:
    """A 3x3 convolution of all channels whose output is as large as its input (at stride 1)."""
    return type(module) is nn.Conv2d and module.groups == 1 and _is_padded_3x3(module)  # not TensorFlow's padding


def _is_padded_3x3(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == (3, 3) and conv.padding == conv.dilation and conv.padding_mode == "zeros"


def use_separable(model: nn.Module, width: int = 1) -> None:
    """Exchange every regular 3x3 convolution but the stem's by a depthwise 3x3 and a pointwise 1x1 (1610.02357).

    The weights of i·o·9 become width·i·(9 + o), He-initialised. width: depthwise filters per input channel (the
    channel multiplier). The stem is what sees the image. Without norm or activation in between, as in Xception.
    Raises UserError if there is no such convolution.
    """
    from timm.layers import SeparableConv2d

    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)

    def make(conv: Any) -> nn.Module:
        separable = SeparableConv2d(
            conv.in_channels,
            conv.out_channels,
            stride=conv.stride,
            dilation=conv.dilation[0],
            bias=conv.bias is not None,
            channel_multiplier=width,
        )
        initialise(separable, "he")
        return separable

    if not replace_modules(model, lambda module: module is not first and is_regular_3x3(module), make):
        raise UserError(
            "model.separable=true: the network has no regular 3x3 convolutions; leave model.separable=false"
        )


def move_stride_first(model: nn.Module) -> None:
    """Make timm's ResNet-B an original ResNet (1512.03385): the stride of a bottleneck in its first 1x1, not its 3x3.

    The weights stay and mean something else. Raises UserError for a network without timm's ResNet bottlenecks.
    """
    from timm.models.resnet import Bottleneck

    blocks = [module for module in model.modules() if isinstance(module, Bottleneck)]
    if not blocks:
        raise UserError("model.stride_first=true: belongs to bottlenecks of timm's ResNets; leave it false")
    for block in blocks:
        if block.stride != 1 and block.conv2.stride == (1, 1):
            raise UserError(
                "model.stride_first=true: does not go with a blur or pool in the bottleneck; leave it false"
            )
        block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)


class AsymmetricConv(nn.Module):
    """ACNet's block (1908.03930): a 3x3, a 1x3 and a 3x1 convolution, each with its own BatchNorm, summed.

    The paper has no norm after the sum; here the network's own stays, so that the fused convolution and that norm are
    layers of the plain network with true statistics, which a soup or a fine-tuning can measure again. norm: the name of
    that layer. start: weight of the two thin branches' norms; at 0 the block begins as `conv` alone.
    """

    def __init__(self, conv: nn.Conv2d, norm: str | None, start: float = 1.0) -> None:
        super().__init__()
        self.norm, (down, right) = norm, conv.dilation
        shared: dict[str, Any] = {
            "stride": conv.stride,
            "dilation": conv.dilation,
            "groups": conv.groups,
            "bias": False,
        }
        channels = conv.in_channels, conv.out_channels
        self.square = conv
        self.row = nn.Conv2d(*channels, (1, 3), padding=(0, right), **shared)
        self.column = nn.Conv2d(*channels, (3, 1), padding=(down, 0), **shared)
        self.norms = nn.ModuleList(nn.BatchNorm2d(conv.out_channels) for _ in range(3))
        for thin in list(self.norms)[1:]:
            nn.init.constant_(thin.weight, start)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        square, row, column = self.norms
        return square(self.square(x)) + row(self.row(x)) + column(self.column(x))

    @torch.no_grad()
    def fused(self) -> tuple[Tensor, Tensor]:
        """Kernel (O, I/groups, 3, 3) and bias (O,) of the one convolution that this is in eval mode."""
        kernels = self.square.weight, F.pad(self.row.weight, (0, 0, 1, 1)), F.pad(self.column.weight, (1, 1, 0, 0))
        kernel, bias = torch.zeros_like(kernels[0]), torch.zeros_like(kernels[0][:, 0, 0, 0])
        for each, norm in zip(kernels, self.norms, strict=True):
            assert isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            kernel += each * scale[:, None, None, None]
            bias += norm.bias - norm.running_mean * scale
        if self.square.bias is not None:
            norm = self.norms[0]
            bias += self.square.bias * norm.weight / (norm.running_var + norm.eps).sqrt()  # type: ignore[operator]
        return kernel, bias


def use_acnet(model: nn.Module, image: Tensor, start: float = 1.0) -> None:
    """Exchange every padded 3x3 convolution by an `AsymmetricConv`, if what it is fused into has a place for a bias.

    That is a bias of its own, or a BatchNorm that takes the convolution's output, found by one `image` (1, C, S, S).
    Raises UserError if there is none.
    """
    norms = _norms_behind(model, image)
    replace_modules(
        model,
        lambda module: isinstance(module, nn.Conv2d) and module in norms,
        lambda conv: AsymmetricConv(conv, norms[conv], start),  # type: ignore[arg-type, index]
    )
    if not norms:
        raise UserError("model.acnet=true: the network has no 3x3 convolutions with BatchNorm behind; use acnet=false")


@torch.no_grad()
def _norms_behind(model: nn.Module, image: Tensor) -> dict[nn.Module, str | None]:
    """The padded 3x3 convolutions that can hold a bias, and the BatchNorm that has to hold it for them.

    Which norm takes which output is seen, not guessed from names: in a pre-activation network the norm behind a
    convolution may belong to the sum with the shortcut.
    """
    outputs: list[tuple[nn.Module, Tensor, int]] = []  # with the version: an activation may have changed it in place
    behind: dict[nn.Module, str | None] = {}

    def look(conv: nn.Module, _: Any, output: Tensor) -> None:
        outputs.append((conv, output, output._version))
        if conv.bias is not None:
            behind[conv] = None

    def follow(name: str, arguments: tuple[Tensor, ...]) -> None:
        for conv, output, version in outputs:
            if output is arguments[0] and output._version == version and conv.bias is None:
                behind[conv] = name

    hooks = []
    for name, module in model.named_modules():
        if type(module) is nn.Conv2d and _is_padded_3x3(module):
            hooks.append(module.register_forward_hook(look))
        elif isinstance(module, _BatchNorm):
            hooks.append(module.register_forward_pre_hook(lambda _, given, name=name: follow(name, given)))
    mode = model.training
    try:
        model.eval()(image)
    finally:
        model.train(mode)
        for hook in hooks:
            hook.remove()
    return behind


@torch.no_grad()
def fused(model: nn.Module) -> nn.Module:
    """What `model` is in eval mode with every `AsymmetricConv` made one plain convolution: its state dict has the keys
    of the network without ACNet. A copy; the model itself if there is nothing to fuse."""
    if not any(isinstance(module, AsymmetricConv) for module in model.modules()):
        return model
    plain = copy.deepcopy(model)

    def make(block: Any) -> nn.Module:
        conv, (kernel, bias) = block.square, block.fused()
        conv.weight.copy_(kernel)
        if block.norm is None:
            conv.bias.copy_(bias)
        else:
            behind: Any = plain.get_submodule(block.norm)
            behind.running_mean -= bias  # (Wx + b) - m = Wx - (m - b)
        return conv

    replace_modules(plain, lambda module: isinstance(module, AsymmetricConv), make)
    return plain
