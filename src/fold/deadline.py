"""When a run and each of its folds have to be over, and what a fold may do in its time."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from src.config import Config
from src.errors import UserError
from src.fold.lesson import Lesson
from src.fold.network import optimizer_from
from src.fold.setup import Setup
from src.inference.tta import View, parse_views
from src.log import clock, say
from src.training.budget import Cost, Watch, folds_in_time, least_time, measure, remaining, views_in_time
from src.training.device import from_main, notebook_began, on_tpu
from src.training.learner import rehearsal
from src.training.plan import Plan
from src.training.schedule import seconds
from src.training.stages import Stage

# Seconds of a budget that are kept for what follows the last fold: CV table, submission, the end of the process …
SUMMARY = 1.5
# … and for a fold's files, pictures and tracking.
SAVING = 2.5
# Steps as a multiple of bare ones, with loading, averaging and the optimiser: to choose how many folds to begin.
OVERHEAD = 1.15
# The share of a session that is left for a fold once its data are read, at least.
ROOMY = 0.9
# Steps of a run that is long enough for a trial of each stage's shape, to know how long it will take.
LONG = 1000


def deadline(config: Config, began: float) -> float | None:
    """When training has to be over (time.time()), or None: `time_budget` after `began`, or the end of the session."""
    if config.time_budget is None:
        return None
    if config.time_budget != "auto":
        return began + seconds(config.time_budget) - SUMMARY
    notebook = notebook_began()
    return None if notebook is None else notebook + whole_session(config)


@dataclass(frozen=True)
class Turn:
    """When (time.time()) a fold and all others of its start have to be over, how many of them `waiting` for time (it
    included), and which folds had been `finished` before the start."""

    end: float
    waiting: int = 1
    finished: tuple[int, ...] = ()

    def may_wait(self, finished: Collection[int], least: float, config: Config) -> bool:
        """Whether a fold that takes `least` seconds is better left to another start. finished: folds that are now.

        There has to be something to submit; and either this start has trained a fold, or the next session is long
        enough. Else the next start would be where this one is.
        """
        return bool(finished and (set(finished) - set(self.finished) or least < ROOMY * whole_session(config)))


def whole_session(config: Config) -> float:
    """Seconds that another session has from its beginning; 0 for a budget that was typed, as it will be again."""
    if config.time_budget != "auto":
        return 0.0
    limit, key = (config.session.tpu_limit, "tpu_limit") if on_tpu() else (config.session.limit, "limit")
    return seconds(limit, f"session.{key}") - seconds(config.session.reserve, "session.reserve") - SUMMARY


@dataclass(frozen=True)
class FoldTime:
    """Until when (time.time()) a fold has to be predicted, what its steps cost, and the seconds of what follows them
    and of a validation, both at the measured cost."""

    end: float
    cost: Cost
    after: float
    validation: float
    every: int  # epochs between two validations

    def watch(self, stages: Sequence[Stage], step: int) -> Watch:
        return Watch(self.end, stages, self.cost, step, self.after, self.validation, self.every)


def plan_in_time(
    config: Config,
    start: Setup,
    lesson: Lesson,
    whole: Plan,
    cuts: list[list[float]],
    step: int,
    accelerator: Any,
    turn: Turn,
    finished: Collection[int],
    knows: bool = False,
) -> FoldTime | None:
    """This fold's share of the time until the end of `turn`, which it divides with as many of the waiting folds as fit;
    None if not even this one does and it may wait for another start.

    finished: the run's folds that are. whole: the plan of which `step` steps are done and which `cuts` have shortened;
    another cut is appended where the steps to come do not fit. Raises UserError where not a single step would be taken
    and the network does not know the classes without.
    """
    optimizer = partial(optimizer_from, config.optimizer)
    with rehearsal(start.network, optimizer, lesson.objective, start.train.spec, accelerator) as one_step:
        cost = measure(one_step, start.network, whole.stages, start.train.spec, accelerator)
    views, held_out = len(parse_views(config.tta)), len(start.fold.val)
    # three candidates are compared in one view, the best one predicts in all views; SWA's statistics are forward passes
    after = (
        cost.image * ((held_out + len(start.test)) * views + 3 * held_out)
        + config.average.bn_batches * cost.steps[-1] / 2
    )
    left = turn.end - time.time()
    steps = OVERHEAD * remaining(whole.stages, cost, step)
    least = least_time(steps, after + SAVING)
    among = folds_in_time(left, turn.waiting, steps, after + SAVING)
    # clocks differ between processes, decisions must not
    among = from_main(accelerator, among or (0 if turn.may_wait(finished, least, config) else 1))
    if not among:
        say(
            f"time_budget: {clock(max(0.0, left))} left, too little for this fold, which takes {clock(least)} at "
            "least; start again to go on"
        )
        return None
    fold_end = from_main(accelerator, time.time() + left / among - SAVING)
    share = "this fold" if turn.waiting == 1 else f"{among} of {turn.waiting} folds"
    say(f"time_budget: {clock(max(0.0, left))} left, for {share}")
    watched = min(held_out, config.eval.rows)
    timing = FoldTime(fold_end, cost, after, watched * cost.image, config.eval.every)
    plan = shortened(whole, cuts)
    agreed = from_main(accelerator, timing.watch(plan.stages, step).factor(step))
    if step == 0 and not knows and agreed * plan.steps < 1:
        raise UserError(too_short(config, from_main(accelerator, left), from_main(accelerator, least)))
    if agreed < 1:
        cuts.append([step, agreed])
        say(f"time_budget: {agreed:.0%} of the steps still to come")
    return timing


def too_short(config: Config, left: float, least: float) -> str:
    """What to say of a fold that no step of training fits, with `left` seconds; one that takes `least` seconds fits.

    It would be finished, and submitted, as the network was before training.
    """
    text = f"time_budget={config.time_budget}: {clock(max(0.0, left))} left, too little for one step of training; "
    if config.time_budget == "auto":
        again = "start again in a new session, or with time_budget=null where sessions do not end"
        return f"{text}this fold takes {clock(least)} at least; {again}"
    # what has passed until now will pass again, on a machine that may be busier
    needed = math.ceil(2 * (seconds(config.time_budget or "0s") - left + least))
    return f"{text}give time_budget={needed}s or more"


def costs_of(config: Config, start: Setup, lesson: Lesson, plan: Plan, accelerator: Any) -> tuple[float, ...] | None:
    """Seconds of a step of each stage, to say how long the run will take; None where it is not worth the trial."""
    stages = plan.stages
    if len({(stage.batch_size, stage.size) for stage in stages}) == 1 or plan.steps < LONG or config.model.compile:
        return None
    optimizer = partial(optimizer_from, config.optimizer)
    with rehearsal(start.network, optimizer, lesson.objective, start.train.spec, accelerator) as one_step:
        return measure(one_step, start.network, stages, start.train.spec, accelerator).steps


def affordable_views(tta: Any, timing: FoldTime | None, each: float, accelerator: Any) -> list[View]:
    """The TTA views of the key `tta`, or as many of the first as there is time for at `each` seconds a view."""
    views = parse_views(tta)
    if timing is None:
        return views
    count = from_main(accelerator, len(views_in_time(views, timing.end - time.time(), each)))
    if count < len(views):
        say(f"time_budget: {count} of {len(views)} TTA views")
    return views[:count]


def shortened(whole: Plan, cuts: Sequence[Sequence[float]]) -> Plan:
    """The plan after the cuts that a time budget made, each [step, factor], in their order."""
    for step, factor in cuts:
        whole = whole.shortened(int(step), factor)
    return whole
