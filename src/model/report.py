"""How far a network looks and what an image costs: receptive field, stride, parameters, multiply-adds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from src.data.spec import RGB, ImageSpec, example_input


@dataclass(frozen=True)
class Report:
    """receptive_field: pixels of the input, across, that a unit of the last feature map can see; inf: all of them.

    stride: pixels of the input between two such units. parameters: of the whole network. macs: multiply-adds of
    convolutions and matrix products for one image.
    """

    receptive_field: float
    stride: int
    parameters: int
    macs: int

    def line(self, size: int) -> str:
        """One line for the log, next to the image size."""
        if math.isinf(self.receptive_field):
            seen = "every unit sees the whole image"
        else:
            seen = f"receptive field {self.receptive_field:.0f} px"
        return (
            f"{size} px: {seen}, stride {self.stride} px, {self.parameters / 1e6:.2f} M parameters, "
            f"{self.macs / 1e9:.3f} G multiply-adds per image"
        )


@torch.no_grad()
def inspect(model: nn.Module, size: int, spec: ImageSpec = RGB) -> Report | None:
    """What `model` does with one image of `size` pixels, found by a forward pass on tensors without data.

    The receptive field is the largest over all paths; a squeeze-and-excitation gate, which looks at the whole image,
    is not counted, self-attention is; a linear layer over transposed tokens (MLP-Mixer) is taken for a local one. With
    attention the stride is that of the map that is pooled in the end, since tokens may be merged by reshaping.
    None for a network that computes with values, which tensors without data lack.
    """
    from torch.utils.flop_counter import FlopCounterMode

    state = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    mode = model.training
    model.eval()
    try:
        image = example_input(spec, 1, size, "meta")
        with FlopCounterMode(display=False) as flops, _Fields(image) as fields:
            torch.func.functional_call(model, state, (image,))
    except (RuntimeError, NotImplementedError, ValueError):
        return None
    finally:
        model.train(mode)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    field, stride = fields.last
    if math.isinf(field) and fields.pooled:
        stride = max(stride, round(size / math.sqrt(fields.pooled)))
    return Report(field, round(stride), parameters, flops.get_total_flops() // 2)


class _Fields(TorchDispatchMode):
    """Carries (receptive field, stride) from tensor to tensor through every operation.

    k taps at distance d widen the field by (k - 1)·d·stride; other operations take the largest of their inputs. What
    has been pooled over the image has no place in it any more and is let go: gates, and the head. `last` is that of
    the last tensor that had one. Ours, because no library does it on operations; layers alone do not show the graph.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.last: tuple[float, float] = (1, 1)
        self.pooled = 0  # places that the last pooling over the image had
        self.known: dict[int, tuple[Tensor, tuple[float, float]]] = {}
        self._remember(image, self.last)

    def _remember(self, tensor: Tensor, field: tuple[float, float]) -> None:
        self.last = field
        self.known[id(tensor)] = (tensor, field)  # the tensor too: its id must not come back

    def __torch_dispatch__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = [each for arg in args for each in (arg if isinstance(arg, (list, tuple)) else [arg])]
        inputs = [self.known[id(each)][1] for each in tensors if isinstance(each, Tensor) and id(each) in self.known]
        name = function.overloadpacket.__name__
        if not inputs:
            return result
        if _pools_all(name, args):
            pooled = result[0] if isinstance(result, tuple) else result  # a maximum comes with its places
            self.pooled = args[0].numel() // pooled.numel()
            return result
        field, stride = max(each[0] for each in inputs), max(each[1] for each in inputs)
        if name == "convolution" and not args[6]:
            kernel, step, dilation = args[1].shape[-1], args[3][-1], args[5][-1]
            field, stride = field + (kernel - 1) * dilation * stride, stride * step
        elif name.startswith("upsample"):
            stride *= args[0].shape[-1] / result.shape[-1]
        elif name in ("max_pool2d_with_indices", "avg_pool2d"):
            kernel, step = args[1][-1], (args[2] if len(args) > 2 and args[2] else args[1])[-1]
            dilation = args[4][-1] if name.startswith("max") and len(args) > 4 else 1
            field, stride = field + (kernel - 1) * dilation * stride, stride * step
        elif "attention" in name or (name in ("bmm", "mm") and len(inputs) > 1):
            field = math.inf
        for each in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(each, Tensor):
                self._remember(each, (field, stride))
        return result


def _pools_all(name: str, args: Any) -> bool:
    """Whether an operation reduces the image, (B, C, H, W) or the tokens (B, N, D), to one value per channel."""
    if "adaptive" in name:
        return set(args[1]) == {1}
    if name not in ("mean", "amax", "sum") or not isinstance(args[0], Tensor):
        return False
    dims = args[0].ndim
    over = {dim % dims for dim in args[1]} if len(args) > 1 and args[1] else set(range(dims))
    return over >= {2, 3} or over == {1, 2} if dims == 4 else over == {1} and dims == 3
