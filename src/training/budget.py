"""A run that has to end in time: what its steps and predictions cost here, and the plan that fits.

Nothing is cut off at the end: the steps of all stages still to come are shortened alike, and the learning rate is
planned anew over what is left.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from src.data.spec import ImageSpec, example_input
from src.training.losses import cross_entropy
from src.training.stages import Stage

# A fold is begun only if it gets this share of its epochs; the folds that do not fit are left for the next session.
LEAST_SHARE = 0.75
# The plan is made again when it would end this much too late, as a share of the time that is left.
TOLERANCE = 0.03
View = TypeVar("View")


@dataclass(frozen=True)
class Cost:
    """Seconds on this machine: of an optimiser step of each stage, and of predicting one image at the last size."""

    steps: tuple[float, ...]
    image: float


def measure(
    model: nn.Module, stages: Sequence[Stage], spec: ImageSpec, classes: int, accelerator: Any, repeats: int = 2
) -> Cost:
    """Time a copy of the model on random pixels: forward and backward at each stage's shape, forward at the last one.

    The fastest of some repeats counts. All processes get the slowest one's figures, so that they plan alike.
    """
    trial = copy.deepcopy(model).train()

    def seconds(batch: int, size: int, learn: bool) -> float:
        x = example_input(spec, batch, size, accelerator.device)
        y = torch.full((batch, classes), 1 / classes, device=accelerator.device)
        timings = []
        for _ in range(repeats + 1):  # the first warms up
            began = time.perf_counter()
            with accelerator.autocast(), torch.set_grad_enabled(learn):
                loss = cross_entropy(trial(x), y)
            if learn:
                loss.backward()
            loss.item()  # waits for the device
            timings.append(time.perf_counter() - began)
        return min(timings[1:])

    shapes = [(stage.batch_size, stage.size) for stage in stages]
    micro = {shape: seconds(*shape, learn=True) for shape in dict.fromkeys(shapes)}
    image = seconds(*shapes[-1], learn=False) / shapes[-1][0] / accelerator.num_processes
    found = [micro[shape] * accelerator.gradient_accumulation_steps for shape in shapes]
    slowest = accelerator.gather(torch.tensor([[*found, image]], device=accelerator.device)).amax(0).tolist()
    return Cost(tuple(slowest[:-1]), slowest[-1])


def remaining(stages: Sequence[Stage], cost: Cost, step: int = 0) -> float:
    """Seconds that the steps from `step` on take, by the measured cost of a bare step."""
    return sum(
        max(0, stage.stop - max(step, stage.start)) * each for stage, each in zip(stages, cost.steps, strict=True)
    )


class Watch:
    """Whether the steps still to come, and what follows them, end by `end` (time.time()), at the pace of the steps
    since it was made.

    after: seconds of what follows, at the measured cost; it is slowed down like the steps. validation: seconds that
    one takes, as far as is known, with `every` epochs between two; `validated` is told what they took, and keeps them
    apart from the pace. The first steps (kernels are chosen, memory is mapped) do not count, and no verdict is given
    before the pace has been seen for a while: it could not be taken back.
    """

    WARM_UP, SEEN = 5, 0.03  # steps; share of the time

    def __init__(
        self,
        end: float,
        stages: Sequence[Stage],
        cost: Cost,
        first: int,
        after: float = 0.0,
        validation: float = 0.0,
        every: int = 1,
    ) -> None:
        self.end, self.stages, self.cost, self.first, self.after = end, stages, cost, first + self.WARM_UP, after
        self.validation, self.every = validation, every
        self.began: float | None = None
        self.aside = 0.0  # seconds of validation since then

    def validated(self, seconds: float) -> None:
        self.validation = seconds
        self.aside += seconds

    def factor(self, step: int, now: float | None = None) -> float:
        """What the number of steps from `step` on has to be multiplied with to end in time; above 1 if there is more
        time than they need."""
        now = time.time() if now is None else now
        # Before its own pace is known, a plan is not shortened on a guess of what adds to a bare step: the real steps
        # say soon enough, and it is never lengthened again (clothing, 231 s, a guess of 1.15: 54 s were left over).
        pace, left = 1.0, remaining(self.stages, self.cost, step)
        if self.began is not None and step > self.first:
            pace = (now - self.began - self.aside) / (remaining(self.stages, self.cost, self.first) - left)
        needed = left * pace + self.validation * validations(self.stages, step, self.every)
        return max(0.0, self.end - now - self.after * max(1.0, pace)) / needed if needed else math.inf

    def late(self, step: int, now: float | None = None) -> bool:
        """To be asked after each step."""
        now = time.time() if now is None else now
        if self.began is None:
            self.began, self.aside = (now if step >= self.first else None), 0.0
            return now > self.end
        seen = now - self.began - self.aside > self.SEEN * (self.end - self.began)
        return (seen or now > self.end) and self.factor(step, now) < 1 - TOLERANCE


def validations(stages: Sequence[Stage], step: int, every: int = 1) -> int:
    """How many epochs, and stages, end from `step` on, of those after which the held-out fold is predicted."""
    count = 0
    for stage in stages:
        if stage.stop > step:
            period = stage.epoch_steps * every
            count += -(-(stage.stop - stage.start) // period) - max(0, step - stage.start) // period
    return count


def folds_in_time(seconds: float, waiting: int, fold: float, after: float) -> int:
    """How many of the `waiting` folds get at least LEAST_SHARE of their epochs within `seconds`.

    fold: seconds of a whole fold's steps; after: of what follows them (predictions, files).
    """
    return max(0, min(waiting, math.floor(seconds / (LEAST_SHARE * fold + after))))


def views_in_time(views: Sequence[View], seconds: float, each: float) -> list[View]:
    """As many of the first TTA views, at least one, as take no more than `seconds` at `each` seconds a view."""
    return list(views[: max(1, min(len(views), math.floor(seconds / max(each, 1e-9))))])
