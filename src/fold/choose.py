"""Which of a fold's weights are kept: the last ones, or one of their averages; and what that says of the held-out rows.

The best of several on the rows that they are scored on is better than it will be elsewhere: +0.003 to +0.007 for
accuracies of 0.8 on 682 rows. So each half of the held-out rows is predicted by what is best on the other half, and the
fold's score is that of these predictions. What is best on all of them is saved, and predicts the test rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from src.competition.metrics import Metric
from src.data.preprocess import Preprocess
from src.errors import UserError
from src.fold.lesson import Lesson, augmented_inputs
from src.log import say
from src.model.convolutions import fused
from src.training.averaging import average_buffers, refresh_batchnorm
from src.training.device import seed_torch
from src.training.learner import Learner
from src.training.plan import Plan


@dataclass(frozen=True)
class Kept:
    """kind: raw, ema or swa, the best on all held-out rows; by_row (V,) str: what each of these is predicted by, chosen
    on others; scores: of the metric on all held-out rows, by kind, the best of which is too good by as much as it was
    chosen on them. networks: by kind, with plain convolutions where ACNet trained."""

    networks: Mapping[str, nn.Module]
    kind: str
    by_row: np.ndarray
    scores: Mapping[str, float]

    @property
    def network(self) -> nn.Module:
        return self.networks[self.kind]

    def held_out(self, predict: Callable[[nn.Module, np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
        """(V, C) predictions of the held-out `rows` (V,), each by the weights that were chosen without it."""
        kinds = np.unique(self.by_row).tolist()
        if len(kinds) == 1:
            return predict(self.networks[kinds[0]], rows)
        parts = {kind: predict(self.networks[kind], rows[self.by_row == kind]) for kind in kinds}
        pred = np.empty((len(rows), parts[kinds[0]].shape[1]), np.float32)
        for kind, part in parts.items():
            pred[self.by_row == kind] = part
        return pred


def choose_weights(
    learner: Learner,
    lesson: Lesson,
    plan: Plan,
    preprocess: Preprocess,
    metric: Metric,
    y: np.ndarray,
    halves: np.ndarray,
    predict: Callable[[nn.Module], np.ndarray],
    in_time: bool,
) -> Kept:
    """Compare the raw weights, their moving average, and SWA with fresh BatchNorm statistics.

    y, halves (V,) bool: targets of the held-out rows and which half each is in. predict: network -> (V, C) for them.
    in_time: whether there is time to compare; if not, or if `average.compare` is false, the last of them that there is
    is kept.
    """
    candidates = averages_of(learner, lesson, plan, preprocess, with_swa=in_time)
    if not in_time:
        say("time_budget: no time to compare the weights; their moving average is taken if there is one")
    if not (in_time and plan.average.compare):
        candidates = dict([list(candidates.items())[-1]])
    networks = {kind: fused(network) for kind, network in candidates.items()}
    preds = {kind: predict(network) for kind, network in networks.items()}
    kept, by_row = cross_fitted(metric, y, preds, halves)
    compared = {kind: metric.score(y, pred) for kind, pred in preds.items()}
    say(f"{metric.name} of the weights: " + ", ".join(f"{n} {s:.4f}" for n, s in compared.items()) + f"; {kept} kept")
    return Kept(networks, kept, by_row, compared)


def cross_fitted(
    metric: Metric, y: np.ndarray, preds: Mapping[str, np.ndarray], halves: np.ndarray
) -> tuple[str, np.ndarray]:
    """The kind whose predictions (V, C) are best on all rows, and for each row (V,) str that which is best on the half
    that it is not in. Where a half alone cannot be scored (of one class, say), the last kind, unseen, for all rows."""
    kinds = list(preds)

    def best(rows: np.ndarray) -> str:
        return metric.best({kind: metric.function(y[rows], pred[rows]) for kind, pred in preds.items()})

    if len(kinds) == 1:
        return kinds[0], np.full(len(y), kinds[0])
    try:
        by_row = np.where(halves, best(~halves), best(halves))
        return best(np.ones(len(y), bool)), by_row
    except (UserError, ValueError, ZeroDivisionError):
        return kinds[-1], np.full(len(y), kinds[-1])


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
        if not plan.holds_statistics:  # which are then as true of the average as of every network in it
            orders = plan.orders(plan.stages[-1].start, accelerator.process_index, accelerator.num_processes)
            inputs = augmented_inputs(lesson.store, orders, plan.average.bn_batches, preprocess, lesson.resident)
            seed_torch(plan.seed, accelerator.device)  # drop path draws here too, and a resumed run draws the same
            reduce = accelerator.reduce if accelerator.num_processes > 1 else None
            refresh_batchnorm(learner.swa.module, inputs, reduce)
        found["swa"] = learner.swa.module
    return found
