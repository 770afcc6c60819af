"""The network while it learns: its optimiser, its averages, a step of all of them, and their state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from src.data.spec import ImageSpec, example_input
from src.training.averaging import Ema
from src.training.objective import Objective


class Learner:
    """model: as Accelerate has prepared it, network: the same without its wrappers. ema, swa: averages of its weights,
    or None. clip: the largest norm of the gradient, or None."""

    def __init__(
        self, accelerator: Any, model: nn.Module, optimizer: Any, ema: Ema | None, swa: Any, clip: float | None
    ) -> None:
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.ema, self.swa, self.clip = ema, swa, clip
        self.network: nn.Module = accelerator.unwrap_model(model)
        self.at: int | None = 0  # the step that all weights and averages are after, None amid one

    def step(self, x: Tensor, y: Tensor, objective: Objective) -> Tensor:
        """Forwards, backwards and, with the last micro-batch of an optimiser step, the step; the loss, detached.

        x (B, C, S, S), y (B, T) as `objective.targets` gives them.
        """
        accelerator = self.accelerator
        with accelerator.accumulate(self.model):
            with accelerator.autocast():
                logits = self.model(x)
            loss = objective.loss(logits, y, x)  # in fp32
            accelerator.backward(loss)
            if self.clip is not None and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(self.model.parameters(), self.clip)
            if accelerator.sync_gradients:
                self.at = None  # until `average`
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach()

    def average(self, step: int, last: bool, swa: bool) -> None:
        """After the optimiser's `step` = 1, 2, …; swa: whether these weights are among those that SWA averages."""
        if self.ema is not None:
            self.ema.update(self.network, step, last)
        if self.swa is not None and swa:
            self.swa.update_parameters(self.network)
        self.at = step

    def snapshot(self) -> dict[str, Any]:
        """Copies on the host of all tensors that training changes; data, schedule and random numbers follow from the
        step. On the host, because an XLA tensor could only be unpickled by XLA's own code."""
        scaler = self.accelerator.scaler
        state = {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
            "ema": self.ema.module.state_dict() if self.ema is not None else {},
            "swa": self.swa.state_dict() if self.swa is not None else {},
        }
        from accelerate.utils import recursively_apply

        return recursively_apply(lambda tensor: tensor.detach().to("cpu", copy=True), state)

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `snapshot`."""
        self.network.load_state_dict(state["model"])
        saved = state["optimizer"]
        groups = [  # whether kernels are fused is this start's choice
            {**group, **{name: own[name] for name in ("fused", "foreach") if name in own}}
            for group, own in zip(saved["param_groups"], self.optimizer.param_groups, strict=True)
        ]
        self.optimizer.load_state_dict({**saved, "param_groups": groups})
        if self.accelerator.scaler is not None and state["scaler"]:  # empty after a device that needed none
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        if self.swa is not None:
            self.swa.load_state_dict(state["swa"])


@contextmanager
def rehearsal(
    network: nn.Module,
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    objective: Objective,
    spec: ImageSpec,
    accelerator: Any,
) -> Iterator[Callable[[int, int], None]]:
    """A function (batch, size) that takes a whole optimiser step with a copy of `network`, and waits for the device.

    For trials of what fits and what it costs, before anything is prepared: the step is the learner's own, the copy and
    what it moves in `accelerator` (the loss scale, the place in an accumulation) are undone at the end.
    """
    from accelerate.optimizer import AcceleratedOptimizer

    trial = copy.deepcopy(network).train()
    scaler, place = accelerator.scaler, accelerator.step
    before = scaler.state_dict() if scaler is not None else {}
    optimizer = AcceleratedOptimizer(make_optimizer(trial), scaler=scaler)
    learner = Learner(accelerator, trial, optimizer, None, None, None)

    def step(batch: int, size: int) -> None:
        x = example_input(spec, batch, size, accelerator.device)
        y = objective.targets(torch.zeros(batch, dtype=torch.int64, device=accelerator.device))
        for _ in range(accelerator.gradient_accumulation_steps):
            learner.step(x, y, objective).item()

    try:
        yield step
    finally:
        accelerator.step = place
        if scaler is not None:
            scaler.load_state_dict(before)
