"""What the user sees while a fold trains: a bar in a terminal, plain lines elsewhere, and the time that is left."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from src.log import BETWEEN_LINES, clock, draws_bars, say
from src.training.stages import Stage

# Steps of a stage that do not count for its pace: workers start, kernels are chosen, programs compiled.
FIRST = 3


class Afterwards(NamedTuple):
    """What follows the steps: images to be predicted in all, each view for itself, and training batches that go forward
    for BatchNorm; held_out: images of a validation."""

    held_out: int = 0
    images: int = 0
    batches: int = 0


class ProgressBar:
    """Counts images per second and the time left; shows them if `visible` (the main process only).

    log: called with the numbers of each validated epoch (W&B). metric: the score that is shown. every: epochs between
    two validations. after: what is to be done when the steps are. costs: of a step of each stage, in any unit; None: as
    their pixels.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        first: int,
        metric: str,
        visible: bool,
        log: Callable[[Mapping[str, float]], None],
        every: int = 1,
        after: Afterwards | None = None,
        costs: Sequence[float] | None = None,
    ) -> None:
        self.stages, self.metric, self.log, self.visible = stages, metric, log, visible
        self.every, self.after, self.done = every, after or Afterwards(), first
        self.costs = costs or [float(stage.total_batch * stage.size**2) for stage in stages]
        self.epoch_began = self.spoke = self.last = time.monotonic()
        self.images = 0
        self.steps: dict[int, list[float]] = defaultdict(list)  # by stage, seconds of its steps
        self.validation = 0.0  # seconds of the last one per image and pixel
        self.bar = None
        if visible and draws_bars():
            from tqdm import tqdm

            self.bar = tqdm(total=stages[-1].stop, initial=first, unit="step", dynamic_ncols=True, leave=False)

    def step(self, stage: Stage, step: int) -> None:
        now = time.monotonic()
        self.steps[stage.number].append(now - self.last)
        self.last, self.done = now, step + 1
        self.images += stage.total_batch
        if self.bar is not None:
            self.bar.set_description(f"stage {stage.number + 1}/{len(self.stages)} {stage.size}px", refresh=False)
            self.bar.set_postfix_str(self.pace(self.images_per_second()), refresh=False)
            self.bar.update()
        elif self.visible and now - self.spoke > BETWEEN_LINES:
            self.print_line(f"{self.place(stage, step + 1)}  {self.pace(self.images_per_second())}")

    def images_per_second(self) -> float:
        return self.images / max(1e-9, time.monotonic() - self.epoch_began)

    def seconds_left(self) -> float:
        """Of the steps still to come at their stage's own pace, where it is not known yet by the cost of one that is;
        of validations, and of what follows."""
        at = next((stage for stage in self.stages if self.done < stage.stop), self.stages[-1])
        known = at if self.steps.get(at.number) else self.stages[max(self.steps, default=at.number)]
        left = 0.0
        for stage in self.stages:
            begun = max(self.done, stage.start)
            if begun < stage.stop:
                validations = validations_in(stage, begun, self.every)
                left += (stage.stop - begun) * self.seconds_per_step(stage, known)
                left += validations * self.after.held_out * self.seconds_per_image(stage, known)
        last = self.stages[-1]
        left += self.after.images * self.seconds_per_image(last, known)
        return left + self.after.batches * self.seconds_per_step(last, known) / 3  # forwards alone

    def seconds_per_step(self, stage: Stage, known: Stage) -> float:
        own = self.steps.get(stage.number)
        if own:
            counted = own[FIRST:] if len(own) > 2 * FIRST else own[-1:]
            return sum(counted) / len(counted)
        if not self.steps.get(known.number):
            return 0.0
        return self.seconds_per_step(known, known) * self.costs[stage.number] / self.costs[known.number]

    def seconds_per_image(self, stage: Stage, known: Stage) -> float:
        """Of a prediction at the size of `stage`; before the first validation as of forward passes in training."""
        if self.validation:
            return self.validation * stage.size**2
        return self.seconds_per_step(stage, known) / stage.total_batch / 3

    def epoch(self, stage: Stage, row: Mapping[str, float]) -> None:
        now = time.monotonic()
        if self.after.held_out:
            self.validation = (now - self.last) / self.after.held_out / stage.size**2
        self.last = now
        self.log(row)
        score = f"{self.metric} {row[self.metric]:.4f}" if self.metric in row else ""
        pace = self.pace(row["images_per_second"])
        self.print_line(f"{self.place(stage, int(row['step']))}  loss {row['loss']:.4f}  {score}  {pace}")
        self.images, self.epoch_began = 0, time.monotonic()

    def place(self, stage: Stage, done: int) -> str:
        return f"stage {stage.number + 1}/{len(self.stages)}  {stage.size} px  step {done}/{self.stages[-1].stop}"

    def pace(self, images_per_second: float) -> str:
        return f"{images_per_second:.0f} img/s  {clock(self.seconds_left())} left"

    def print_line(self, line: str) -> None:
        self.spoke = time.monotonic()
        if self.bar is not None:
            self.bar.write(line, file=sys.stdout)
        else:
            say(line)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def validations_in(stage: Stage, begun: int, every: int) -> int:
    """How many steps from `begun` to the stage's end are followed by a validation."""
    length, period = stage.stop - stage.start, stage.epoch_steps * every
    return length // period - (begun - stage.start) // period + bool(length % period)
