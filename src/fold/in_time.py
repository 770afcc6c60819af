"""The steps of a fold, planned again where a deadline asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from src.config import Config
from src.data.loader import batches
from src.data.preprocess import Preprocess
from src.fold.deadline import FoldTime, shortened
from src.fold.lesson import Lesson
from src.inference.tta import parse_views
from src.log import say
from src.tracking import Trackers
from src.training.budget import Watch
from src.training.checkpoint import CheckpointWriter
from src.training.device import from_main, workers_beside
from src.training.engine import fit
from src.training.interrupt import stop_on_signals
from src.training.learner import Learner
from src.training.plan import Plan
from src.training.progress import Afterwards, ProgressBar
from src.training.session import Progress, Session

Validate = Callable[[nn.Module, int], Mapping[str, float]]


@dataclass(frozen=True)
class Around:
    """What looks on while a fold trains; metric: the score that is shown; precisions, crops: see `resume`; after: what
    follows the steps; costs: of a step of each stage, relative to each other, where they were measured."""

    config: Config
    tracker: Trackers
    writer: CheckpointWriter
    metric: str
    precisions: list[list[Any]]
    crops: list[list[Any]]
    after: Afterwards
    costs: Sequence[float] | None


def after_steps(config: Config, learner: Learner, plan: Plan, watched: int, held_out: int, tests: int) -> Afterwards:
    """What is left to do behind the steps, for the time left: each kind of weights on the held-out rows, all views of
    these and of the test rows, and fresh BatchNorm statistics for SWA. watched: rows of a validation amid the steps."""
    kinds = 1 + (learner.ema is not None) + (learner.swa is not None) if config.average.compare else 1
    fresh = config.average.bn_batches if learner.swa is not None and not plan.holds_statistics else 0
    return Afterwards(watched, kinds * held_out + len(parse_views(config.tta)) * (held_out + tests), fresh)


def train_in_time(
    learner: Learner,
    lesson: Lesson,
    preprocess: Preprocess,
    whole: Plan,
    cuts: list[list[float]],
    timing: FoldTime | None,
    validate: Validate,
    around: Around,
    so_far: Progress,
) -> tuple[Progress, Plan]:
    """`fit` to the plan's end, which a time budget may shorten on the way; each time is another entry of `cuts`.

    Returns how far it came and the plan that it came to the end of.
    """
    config, accelerator = around.config, learner.accelerator
    rank, world = accelerator.process_index, accelerator.num_processes
    plan = shortened(whole, cuts)
    while so_far.step < plan.steps:  # once, unless the time budget asks for a shorter plan on the way
        watch = timing.watch(plan.stages, so_far.step) if timing is not None else None
        bar = ProgressBar(
            plan.stages,
            so_far.step,
            around.metric,
            accelerator.is_main_process,
            around.tracker.log,
            config.eval.every,
            around.after,
            around.costs,
        )
        orders = plan.orders(so_far.step, rank, world)
        workers = workers_beside(config.workers, accelerator)
        made = batches(lesson.store, orders, workers, accelerator.device, lesson.resident)
        notes = {
            "cuts": cuts,
            "wandb": around.tracker.id or "",
            "trackers": around.tracker.ids,
            "processes": world,
            "precision": around.precisions,
            "augment_on": around.crops,
            "batches": [stage.total_batch for stage in plan.stages],
        }
        with stop_on_signals() as wish:
            session = Session(bar, around.writer, config.checkpoint.every, watch, wish, notes)
            so_far = fit(learner, lesson.objective, plan, made, preprocess, timed(validate, watch), session, so_far)
        bar.close()
        if watch is not None and so_far.step < plan.steps:
            cuts.append([so_far.step, from_main(accelerator, watch.factor(so_far.step))])
            before, plan = plan, shortened(whole, cuts)
            if plan.steps < before.steps:  # else each stage has but one step left
                say(f"time_budget: behind the plan at step {so_far.step}; {plan.steps} steps instead of {before.steps}")
    return so_far, plan


def timed(validate: Validate, watch: Watch | None) -> Validate:
    """`validate`, its seconds kept apart from the pace of the steps."""
    if watch is None:
        return validate

    def measured(network: nn.Module, size: int) -> Mapping[str, float]:
        began = time.monotonic()
        found = validate(network, size)
        watch.validated(time.monotonic() - began)
        return found

    return measured
