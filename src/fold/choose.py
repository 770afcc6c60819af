"""Which of a fold's weights are kept: the last ones, or one of their averages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from src.competition.metrics import Metric
from src.data.preprocess import Preprocess
from src.fold.lesson import Lesson, augmented_inputs
from src.log import say
from src.model.convolutions import fused
from src.training.averaging import average_buffers, refresh_batchnorm
from src.training.device import seed_torch
from src.training.learner import Learner
from src.training.plan import Plan


@dataclass(frozen=True)
class Kept:
    """network: the weights that are kept, with plain convolutions where ACNet trained; kind: raw, ema or swa; scores:
    of the metric on the held-out rows, by kind."""

    network: nn.Module
    kind: str
    scores: Mapping[str, float]


def choose_weights(
    learner: Learner,
    lesson: Lesson,
    plan: Plan,
    preprocess: Preprocess,
    metric: Metric,
    score: Callable[[nn.Module, int], Mapping[str, float]],
    in_time: bool,
) -> Kept:
    """The best on the held-out rows of the raw weights, their moving average and SWA with fresh BatchNorm statistics.

    score: (network, size) -> scores of the held-out fold. in_time: whether there is time to compare; if not, or if
    `average.compare` is false, the last of them that there is is kept.
    """
    candidates = averages_of(learner, lesson, plan, preprocess, with_swa=in_time)
    if not in_time:
        say("time_budget: no time to compare the weights; their moving average is taken if there is one")
    if not (in_time and plan.average.compare):
        candidates = dict([list(candidates.items())[-1]])
    networks = {kind: fused(network) for kind, network in candidates.items()}
    compared = {kind: score(network, plan.stages[-1].size)[metric.name] for kind, network in networks.items()}
    best = metric.best(compared)
    say(f"{metric.name} of the weights: " + ", ".join(f"{n} {s:.4f}" for n, s in compared.items()) + f"; {best} kept")
    return Kept(networks[best], best, compared)


def averages_of(
    learner: Learner, lesson: Lesson, plan: Plan, preprocess: Preprocess, with_swa: bool
) -> dict[str, nn.Module]:
    """The networks that may be kept, by kind."""
    accelerator = learner.accelerator
    average_buffers(learner.network, accelerator)
    found = {"raw": learner.network}
    if learner.ema is not None:
        average_buffers(learner.ema.module, accelerator)
        found["ema"] = learner.ema.module
    if learner.swa is not None and with_swa:
        orders = plan.orders(plan.stages[-1].start, accelerator.process_index, accelerator.num_processes)
        inputs = augmented_inputs(lesson.store, orders, plan.average.bn_batches, preprocess)
        seed_torch(plan.seed, accelerator.device)  # drop path draws here too, and a resumed run draws the same
        reduce = accelerator.reduce if accelerator.num_processes > 1 else None
        refresh_batchnorm(learner.swa.module, inputs, reduce)
        found["swa"] = learner.swa.module
    return found
