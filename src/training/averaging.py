"""Averages of the weights along the run, and fresh BatchNorm statistics for them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Ema:
    """Moving average of parameters and float buffers: ema = d·ema + (1-d)·w per step.

    Warm-up of the decay: d = min(decay, 1 - 1/(1 + t/10)) = min(decay, t/(10 + t)) after t steps, so that the average
    of a short run is not dominated by its first weights. The counter is the run's own step, so a resume only restores
    `module`. It is taken every `every` steps, with the decays of all of them: on a CPU an update of resnet18 costs 4 %
    of a step at 64 px. Our own, because timm's ModelEmaV3 cannot be made on an XLA device and torch's AveragedModel
    waits for the device at every step; a test holds it to timm's.
    """

    def __init__(self, model: nn.Module, decay: float, every: int = 1) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.every = decay, every

    def decay_at(self, step: int) -> float:
        """Of the update after step `step` = 1, 2, …; 0 at first, which copies the weights."""
        return min(self.decay, (step - 1) / (step + 9))

    @torch.no_grad()
    def update(self, model: nn.Module, step: int, last: bool = False) -> None:
        """After step `step`; does nothing between the steps that count, of which the `last` is always one."""
        since = step % self.every or self.every
        if since < self.every and not last:
            return
        decay = math.prod(self.decay_at(earlier) for earlier in range(step - since + 1, step + 1))
        average: list[Tensor] = []
        current: list[Tensor] = []
        pairs = zip(_tensors(self.module), _tensors(model), strict=True)
        for ours, theirs in pairs:
            if ours.is_floating_point():
                average.append(ours)
                current.append(theirs)
            else:
                ours.copy_(theirs)  # BatchNorm's counter
        torch._foreach_lerp_(average, current, 1 - decay)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    return chain((parameter.detach() for parameter in model.parameters()), model.buffers())


def make_swa(model: nn.Module) -> Any:
    """torch's `AveragedModel`: the plain mean of the weights at each `.update_parameters(model)` (1803.05407)."""
    from torch.optim.swa_utils import AveragedModel

    return AveragedModel(model)


@torch.no_grad()
def average_buffers(model: nn.Module, accelerator: Any) -> None:
    """The mean over processes of the float buffers (BatchNorm's statistics), so that all of them predict alike."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(accelerator.reduce(buffer, "mean"))


@torch.no_grad()
def refresh_batchnorm(model: nn.Module, inputs: Iterable[Tensor], reduce: Any = None) -> None:
    """Replace the running mean and variance of every BatchNorm by the population's (precise BN, 2105.07576).

    inputs: (B, 3, S, S) training batches, in train mode but without gradients. Over k batches of b values per channel
    the population has mean E[x] and variance E[x²] - E[x]², unbiased by n/(n-1) as torch keeps it. `reduce` sums a
    tensor over all processes (None: one process). torch's `update_bn` averages the batches' variances instead, which
    leaves out the variance between batches, and it does not talk to other processes.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not layers:
        return
    sums = {layer: torch.zeros(3, layer.num_features, dtype=torch.float64) for layer in layers}

    def count(layer: Any, arguments: tuple[Tensor, ...]) -> None:
        values = arguments[0].detach().transpose(0, 1).flatten(1).float()
        mean, variance = values.mean(1).cpu().double(), values.var(1, unbiased=False).cpu().double()
        # summed in double on the host: not every device has it, and E[x²] - E[x]² needs it
        sums[layer] += values.shape[1] * torch.stack([torch.ones_like(mean), mean, variance + mean.square()])

    with _observed(model, layers, count):
        for x in inputs:
            model(x)
    for layer in layers:
        assert layer.running_mean is not None and layer.running_var is not None
        total = reduce(sums[layer].to(layer.running_mean.device)).cpu() if reduce else sums[layer]
        if not total[0].any():  # no batch came: keep what is there
            continue
        n, mean, square = total[0], total[1] / total[0], total[2] / total[0]
        layer.running_mean.copy_(mean)
        layer.running_var.copy_((square - mean.square()) * n / (n - 1).clamp(min=1))


@contextmanager
def _observed(model: nn.Module, layers: list[_BatchNorm], look: Callable[..., None]) -> Iterator[None]:
    """Train mode with `look` called before each layer, and everything as it was afterwards: mode, momentum, counter.

    With momentum 0, batch statistics normalise and running ones stay.
    """
    mode, momenta = model.training, [layer.momentum for layer in layers]
    counters = [None if layer.num_batches_tracked is None else layer.num_batches_tracked.clone() for layer in layers]
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    model.train()
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        model.train(mode)
        for hook in hooks:
            hook.remove()
        for layer, momentum, counter in zip(layers, momenta, counters, strict=True):
            layer.momentum = momentum
            if counter is not None and layer.num_batches_tracked is not None:
                layer.num_batches_tracked.copy_(counter)
