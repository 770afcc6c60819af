"""A run that has to end in time: what its steps and predictions cost here, and the plan that fits.

Nothing is cut off at the end: the steps of all stages still to come are shortened alike, and the learning rate is
planned again over what is left.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from src.data.spec import ImageSpec, example_input
from src.training.stages import Stage

# A fold is begun only if it gets this share of its epochs; the folds that do not fit are left for the next session.
LEAST_SHARE = 0.75
# The plan is made again when it would end this much too late, as a share of the time that is left.
TOLERANCE = 0.03
REPEATS = 2  # of what is timed
View = TypeVar("View")


@dataclass(frozen=True)
class Cost:
    """Seconds on this machine: of an optimiser step of each stage, and of predicting one image at the last size."""

    steps: tuple[float, ...]
    image: float


def measure(
    step: Callable[[int, int], None], network: nn.Module, stages: Sequence[Stage], spec: ImageSpec, accelerator: Any
) -> Cost:
    """Time `step` (batch, size), from `learner.rehearsal`, at each stage's shape, and a forward pass at the last one.

    The fastest of REPEATS counts. All processes get the slowest one's figures, so that they plan alike.
    """
    shapes = [(stage.batch_size, stage.size) for stage in stages]
    whole = {shape: fastest(lambda shape=shape: step(*shape)) for shape in dict.fromkeys(shapes)}  # type: ignore[misc]
    image = forward_seconds(network, spec, *shapes[-1], accelerator) / accelerator.num_processes
    found = [*(whole[shape] for shape in shapes), image]
    slowest = accelerator.gather(torch.tensor([found], device=accelerator.device)).amax(0).tolist()
    return Cost(tuple(slowest[:-1]), slowest[-1])


@torch.no_grad()
def forward_seconds(network: nn.Module, spec: ImageSpec, batch: int, size: int, accelerator: Any) -> float:
    """Seconds an image of a forward pass of `network` in this process, in batches, the fastest of REPEATS."""
    mode, images = network.training, example_input(spec, batch, size, accelerator.device)

    def forwards() -> None:
        with accelerator.autocast():
            network(images).sum().item()  # waits for the device

    network.eval()
    seconds = fastest(forwards)
    network.train(mode)
    return seconds / batch


def fastest(work: Callable[[], object]) -> float:
    """Seconds of `work`, which is done once more before, to warm up."""
    timings = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        work()
        timings.append(time.perf_counter() - began)
    return min(timings[1:])


def remaining(stages: Sequence[Stage], cost: Cost, step: int = 0) -> float:
    """Seconds that the steps from `step` on take, by the measured cost of a bare step."""
    return sum(
        max(0, stage.stop - max(step, stage.start)) * each for stage, each in zip(stages, cost.steps, strict=True)
    )


class Watch:
    """Whether the steps still to come, and what follows them, end by `end` (time.time()), at the pace of the steps
    since it was made.

    after: seconds of what follows, at the measured cost; it is slowed down like the steps. validation: seconds that
    one takes, as far as is known, with `every` epochs between two; `validated` takes what they took, and keeps them
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

    def must_replan(self, step: int, now: float | None = None) -> bool:
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
    return max(0, min(waiting, math.floor(seconds / least_time(fold, after))))


def least_time(fold: float, after: float) -> float:
    """Seconds without which a fold is not begun; fold, after: see `folds_in_time`."""
    return LEAST_SHARE * fold + after


def views_in_time(views: Sequence[View], seconds: float, each: float) -> list[View]:
    """As many of the first TTA views, at least one, as take no more than `seconds` at `each` seconds a view."""
    return list(views[: max(1, min(len(views), math.floor(seconds / max(each, 1e-9))))])
