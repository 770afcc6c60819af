"""What the user sees while a fold trains: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence

from src.log import say
from src.training.stages import Stage


class ProgressBar:
    """Counts images per second and the time left; shows them if `visible` (the main process only).

    log: called with the numbers of each validated epoch (W&B). metric: the score that is shown.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        first: int,
        metric: str,
        visible: bool,
        log: Callable[[Mapping[str, float]], None],
    ) -> None:
        self.stages, self.metric, self.log, self.visible = stages, metric, log, visible
        self.began = self.epoch_began = time.monotonic()
        self.work_done = 0.0
        self.work_left = sum(_work(stage, max(first, stage.start), stage.stop) for stage in stages)
        self.images = 0
        self.bar = None
        if visible and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=stages[-1].stop, initial=first, unit="step", dynamic_ncols=True, leave=False)

    def step(self, stage: Stage, step: int) -> None:
        self.images += stage.total_batch
        self.work_done += _work(stage, step, step + 1)
        self.work_left -= _work(stage, step, step + 1)
        if self.bar is not None:
            self.bar.set_description(f"stage {stage.number + 1}/{len(self.stages)} {stage.size}px", refresh=False)
            self.bar.set_postfix_str(
                f"{self.images_per_second():.0f} img/s, {clock(self.seconds_left())} left", refresh=False
            )
            self.bar.update()

    def images_per_second(self) -> float:
        return self.images / max(1e-9, time.monotonic() - self.epoch_began)

    def seconds_left(self) -> float:
        """Steps still to come, weighted by their pixels, at the pace so far."""
        return (time.monotonic() - self.began) * self.work_left / max(1e-9, self.work_done)

    def epoch(self, stage: Stage, row: Mapping[str, float]) -> None:
        self.log(row)
        score = f"{self.metric} {row[self.metric]:.4f}" if self.metric in row else ""
        place = (
            f"stage {stage.number + 1}/{len(self.stages)}  {stage.size} px  step {row['step']}/{self.stages[-1].stop}"
        )
        pace = f"{row['images_per_second']:.0f} img/s  {clock(self.seconds_left())} left"
        self.print_line(f"{place}  loss {row['loss']:.4f}  {score}  {pace}")
        self.images, self.epoch_began = 0, time.monotonic()

    def print_line(self, line: str) -> None:
        if self.bar is not None:
            self.bar.write(line, file=sys.stdout)
        else:
            say(line)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def clock(seconds: float) -> str:
    """75 -> 1m15s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def _work(stage: Stage, first: int, stop: int) -> float:
    return max(0, stop - first) * stage.total_batch * float(stage.size**2)
