"""Rate, momentum and trained part of each step, from schedule.*, average.swa_*, model.freeze and the stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from src.config import Config
from src.training.freezing import Part
from src.training.optimizer import scaled_rate
from src.training.schedule import duration, multiplier, one_cycle
from src.training.stages import Stage, stage_at


@dataclass(frozen=True)
class Rates:
    """Functions of the step: share of the peak rate; the optimiser's momentum, None for its own; what is trained."""

    rate: Callable[[int], float]
    momentum: Callable[[int], float | None]
    trains: Callable[[int], Part]


def rates(config: Config, stages: Sequence[Stage], rows: int) -> Rates:
    """Planned over the steps of `stages`; rows: how many the fold learns from, which is what an epoch is.

    The schedule runs to its end before the stages that have a rate of their own (FixRes), if there are any.
    Raises UserError naming the key of a duration that cannot be read.
    """
    total = stages[-1].stop
    scheduled = next((stage.start for stage in stages if stage.lr is not None), total)
    schedule, epoch = config.schedule, rows / stages[-1].total_batch
    warmup = duration(schedule.warmup, total=scheduled, epoch=epoch, key="schedule.warmup")
    frozen = duration(config.model.freeze or "0", total=total, epoch=epoch, key="model.freeze")
    values = {key: value for key, value in asdict(schedule).items() if key not in ("warmup", "every", "momentum")}
    planned = multiplier(
        total=scheduled,
        warmup=warmup,
        every=max(1, duration(schedule.every, total=scheduled, epoch=epoch, key="schedule.every")),
        swa_start=round(total * config.average.swa_start),
        swa_lr=config.average.swa_lr if config.average.swa else None,
        **values,
    )

    def rate(step: int) -> float:
        own = stage_at(stages, step).lr
        return planned(step) if own is None else own / config.optimizer.lr

    def momentum(step: int) -> float | None:
        if schedule.momentum is None:
            return None
        ends, peak = schedule.momentum
        return one_cycle(min(step, scheduled - 1), scheduled, warmup, ends, peak, ends)

    def trains(step: int) -> Part:
        return "head" if step < frozen else stage_at(stages, step).train

    return Rates(rate, momentum, trains)


def plan_over_steps(config: Config, stages: Sequence[Stage], rows: int) -> tuple[list[int], dict[str, list[float]]]:
    """At most 2,000 steps of the plan, and at each: learning rate, size, rows and batch. Arguments as for `rates`."""
    rate, total = rates(config, stages, rows).rate, stages[-1].stop
    steps = sorted({round(i * (total - 1) / 1999) for i in range(2000)})
    at = [stage_at(stages, step) for step in steps]
    pairs = zip(steps, at, strict=True)
    return steps, {
        "learning rate": [scaled_rate(config.optimizer.lr, stage.total_batch) * rate(step) for step, stage in pairs],
        "size (px)": [stage.size for stage in at],
        "rows": [len(stage.rows) for stage in at],
        "batch": [stage.total_batch for stage in at],
    }
