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
    """The mean over processes of the float buffers (BatchNorm's statistics), so that all of them predict alike; in one
    collective call."""
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if accelerator.num_processes > 1 and buffers:
        means = accelerator.reduce(torch.cat([buffer.float().flatten() for buffer in buffers]), "mean")
        for buffer, mean in zip(buffers, means.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(mean.view_as(buffer))


@torch.no_grad()
def refresh_batchnorm(model: nn.Module, inputs: Iterable[Tensor], reduce: Any = None) -> None:
    """Replace the running mean and variance of every BatchNorm by the population's (precise BN, 2105.07576).

    inputs: (B, 3, S, S) training batches, in train mode but without gradients. Over k batches of b values per channel
    the population has the mean of all values and their variance, unbiased by n/(n-1) as torch keeps it. `reduce` sums a
    tensor over all processes (None: one process). torch's `update_bn` averages the batches' variances instead, which
    leaves out the variance between batches, and it does not talk to other processes.

    Counted on the device, which never waits, with deviations from the mean so far (Chan, Golub, LeVeque 1983): float32
    is enough for them where the device has nothing wider. Two collective calls for all layers together.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not layers:
        return
    seen: dict[Any, tuple[Tensor, Tensor, Tensor]] = {}  # by layer: n (1,), mean (C,), sum of squared deviations (C,)
    for layer in layers:
        assert layer.running_mean is not None
        device = layer.running_mean.device
        wide = torch.float64 if device.type in ("cpu", "cuda") else torch.float32
        none = torch.zeros(layer.num_features, dtype=wide, device=device)
        seen[layer] = none[:1].clone(), none, none

    def count(layer: Any, arguments: tuple[Tensor, ...]) -> None:
        values = arguments[0].detach().transpose(0, 1).flatten(1).float()
        n, mean, squares = seen[layer]
        more = torch.full_like(n, values.shape[1])
        variance, own = torch.var_mean(values, 1, unbiased=False)
        off, total = own.to(mean) - mean, n + more
        seen[layer] = (total, mean + off * more / total, squares + variance.to(mean) * more + off**2 * n * more / total)

    with _observed(model, layers, count):
        for x in inputs:
            model(x)
    if reduce is not None:
        seen = _of_all_processes(seen, reduce)
    for layer, (n, mean, squares) in seen.items():
        # kept where no batch came; asked on the device, which would have to be waited for
        layer.running_mean.copy_(torch.where(n > 0, mean.to(layer.running_mean), layer.running_mean))
        unbiased = (squares / (n - 1).clamp(min=1)).to(layer.running_var)
        layer.running_var.copy_(torch.where(n > 0, unbiased, layer.running_var))


def _of_all_processes(
    seen: dict[Any, tuple[Tensor, Tensor, Tensor]], reduce: Callable[[Tensor], Tensor]
) -> dict[Any, tuple[Tensor, Tensor, Tensor]]:
    """The same of the values of all processes, each of which has the same layers."""
    widths = [len(mean) for _, mean, _ in seen.values()]
    sums = reduce(torch.cat([part for n, mean, _ in seen.values() for part in (n, n * mean)]))
    pieces = sums.split([size for width in widths for size in (1, width)])
    totals = {layer: (pieces[2 * i], pieces[2 * i + 1]) for i, layer in enumerate(seen)}
    means = {layer: total / n.clamp(min=1) for layer, (n, total) in totals.items()}
    around = reduce(torch.cat([sq + n * (mean - means[layer]) ** 2 for layer, (n, mean, sq) in seen.items()]))
    squares = around.split(widths)
    return {layer: (totals[layer][0], means[layer], squares[i]) for i, layer in enumerate(seen)}


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
