"""What a fold does in each of its steps: stage, rate, momentum, trained part, mixing, averaging, and its batches.

Everything is a function of the step, so that a resume needs no state and a picture can show all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from src.config import AverageConfig, MixConfig, ScheduleConfig
from src.data.augment import Augment
from src.data.loader import Order
from src.seeds import Stream, generator
from src.training.freezing import Part
from src.training.mixing import Mix, draw_mix
from src.training.optimizer import scaled_rate
from src.training.schedule import duration, multiplier, one_cycle
from src.training.stages import Stage, shorten, stage_at, training_orders


@dataclass(frozen=True)
class Plan:
    """rows: how many the fold learns from, which is what an epoch of the schedule is. base_lr: for 256 examples of a
    step, and for other batches by the rule `scaling`. freeze: for how long only the classifier is trained, or None.
    hold_norms: whether BatchNorm keeps its statistics while all of the network is trained. validate_every: epochs of a
    stage.

    Raises UserError naming the key of a duration that cannot be read.
    """

    stages: tuple[Stage, ...]
    rows: int
    seed: int
    base_lr: float
    schedule: ScheduleConfig
    average: AverageConfig
    mixing: MixConfig
    augment: Augment
    scaling: str = "linear"
    freeze: str | None = None
    hold_norms: bool = False
    validate_every: int = 1

    @property
    def steps(self) -> int:
        return self.stages[-1].stop

    @property
    def scheduled(self) -> int:
        """Where the schedule ends: before the stages that have a rate of their own (FixRes), if there are any."""
        return next((stage.start for stage in self.stages if stage.lr is not None), self.steps)

    def share(self, step: int) -> float:
        """Of the peak rate."""
        own = stage_at(self.stages, step).lr
        return self._multiplier(step) if own is None else own / self.base_lr

    def rate(self, step: int) -> float:
        """The optimiser's: base_lr as the step's batch wants it, at the step's share of it."""
        batch = stage_at(self.stages, step).total_batch
        return scaled_rate(self.base_lr, batch, self.scaling) * self.share(step)

    def momentum(self, step: int) -> float | None:
        """The optimiser's, or None for its own."""
        if self.schedule.momentum is None:
            return None
        ends, peak = self.schedule.momentum
        return one_cycle(min(step, self.scheduled - 1), self.scheduled, self._warmup, ends, peak, ends)

    def part(self, step: int) -> Part:
        """The part of the network that learns."""
        return "head" if step < self._frozen else stage_at(self.stages, step).train

    @property
    def holds_statistics(self) -> bool:
        """Whether no step moves a statistic of BatchNorm."""
        return self.hold_norms

    def mix(self, step: int, count: int, rank: int = 0) -> Mix | None:
        """How the `count` images of a process' micro-batch are mixed with each other."""
        if step >= self.mixing.stop * self.steps:
            return None
        size, mixing = stage_at(self.stages, step).size, self.mixing
        rng = generator(self.seed, Stream.MIX, step, rank)
        return draw_mix(rng, count, size, mixing.mixup, mixing.cutmix, mixing.probability)

    def in_swa(self, step: int) -> bool:
        """Whether the weights after `step` are among those that SWA averages; the last ones always are."""
        left = self.steps - 1 - step
        return left == 0 or (step >= self._swa_start and left % self._swa_every == 0)

    def orders(self, first: int = 0, rank: int = 0, world: int = 1) -> Iterator[Order]:
        """A process' micro-batches from step `first` on."""
        return training_orders(self.stages, self.augment, self.seed, first, rank, world)

    def shortened(self, step: int, factor: float) -> Plan:
        """With the steps from `step` on multiplied by `factor`; see `stages.shorten`."""
        return replace(self, stages=tuple(shorten(self.stages, step, factor)))

    @property
    def _epoch(self) -> float:
        return self.rows / self.stages[-1].total_batch

    @cached_property
    def _warmup(self) -> int:
        return duration(self.schedule.warmup, total=self.scheduled, epoch=self._epoch, key="schedule.warmup")

    @cached_property
    def _frozen(self) -> int:
        return duration(self.freeze or "0", total=self.steps, epoch=self._epoch, key="model.freeze")

    @cached_property
    def _swa_start(self) -> int:
        return round(self.steps * self.average.swa_start)

    @cached_property
    def _swa_every(self) -> int:
        epoch = self.stages[-1].epoch_steps
        return max(1, duration(self.average.swa_every, total=self.steps, epoch=epoch, key="average.swa_every"))

    @cached_property
    def _multiplier(self) -> Callable[[int], float]:
        own = ("warmup", "every", "momentum")  # which are read here
        values = {key: value for key, value in asdict(self.schedule).items() if key not in own}
        every = duration(self.schedule.every, total=self.scheduled, epoch=self._epoch, key="schedule.every")
        return multiplier(
            total=self.scheduled,
            warmup=self._warmup,
            every=max(1, every),
            swa_start=self._swa_start,
            swa_lr=self.average.swa_lr if self.average.swa else None,
            **values,
        )


def plan_over_steps(plan: Plan) -> tuple[list[int], dict[str, list[float]]]:
    """At most 2,000 steps of the plan, and at each: learning rate, size, rows and batch; for a picture."""
    steps = sorted({round(i * (plan.steps - 1) / 1999) for i in range(2000)})
    at = [stage_at(plan.stages, step) for step in steps]
    return steps, {
        "learning rate": [plan.rate(step) for step in steps],
        "size (px)": [stage.size for stage in at],
        "rows": [len(stage.rows) for stage in at],
        "batch": [stage.total_batch for stage in at],
    }
