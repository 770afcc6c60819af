"""How long a step of each stage takes on this machine, measured before a run that has to end in time."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from src.training.losses import cross_entropy
from src.training.stages import Stage


def measure_steps(
    model: nn.Module, stages: Sequence[Stage], classes: int, accelerator: Any, repeats: int = 3
) -> list[float]:
    """Seconds per optimiser step of each stage: forward and backward of a copy on random pixels, the fastest of some.

    All processes get the slowest one's figures, so that they plan the same number of steps.
    """
    trial = copy.deepcopy(model).train()
    found = []
    for stage in stages:
        shape = (stage.batch_size, 3, stage.size, stage.size)
        x = torch.randn(shape, device=accelerator.device).contiguous(memory_format=torch.channels_last)
        y = torch.full((stage.batch_size, classes), 1 / classes, device=accelerator.device)
        timings = []
        for _ in range(repeats + 1):  # the first warms up
            began = time.perf_counter()
            with accelerator.autocast():
                loss = cross_entropy(trial(x), y)
            loss.backward()
            loss.item()  # waits for the device
            timings.append(time.perf_counter() - began)
        found.append(min(timings[1:]) * accelerator.gradient_accumulation_steps)
    seconds = torch.tensor(found, device=accelerator.device)
    return accelerator.gather(seconds[None]).amax(0).tolist()
