"""Learning-rate range test: the loss while the rate rises exponentially, and the rates that it suggests."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from src.data.loader import Batch
from src.data.preprocess import Preprocess
from src.training.device import seed_torch
from src.training.freezing import train_only
from src.training.learner import Learner
from src.training.objective import Objective
from src.training.optimizer import scaled_rate, set_rate


class Suggestion(NamedTuple):
    """steepest: the rate at which the smoothed loss falls fastest; tenth: a tenth of the one where it is lowest; edge:
    the largest until which it stays within 5 % of its lowest."""

    steepest: float
    tenth: float
    edge: float


def range_test(
    learner: Learner,
    objective: Objective,
    batches: Iterator[Batch],
    preprocess: Preprocess,
    rates: np.ndarray,
    seed: int,
    diverged: float = 4.0,
    scaling: str = "linear",
    hold_norms: bool = False,
) -> np.ndarray:
    """(n,) float64 losses of one step at each of `rates` (N,), n <= N: it ends once the smoothed loss is more than
    `diverged` times its lowest, or no number (Smith 1506.01186, with fastai's stop). The model gets its weights back.

    rates are for 256 examples, as optimizer.lr is, and scaled by the rule `scaling`; the rest is as in `engine.fit`,
    without mixing and accumulation.
    """
    before = copy.deepcopy(learner.network.state_dict())
    losses: list[float] = []
    train_only(learner.model, learner.optimizer, "all", hold_norms)
    for step, rate in enumerate(rates.tolist()):
        batch = next(batches)
        seed_torch(hash((seed, step)), preprocess.device)
        set_rate(learner.optimizer, scaled_rate(rate, len(batch.rows), scaling))
        y = objective.targets(batch.rows.to(preprocess.device))
        losses.append(float(learner.step(preprocess(batch.images[0], batch.colour), y, objective)))
        smooth = smoothed(np.array(losses))
        if not np.isfinite(losses[-1]) or smooth[-1] > diverged * smooth.min():
            break
    learner.network.load_state_dict(before)
    return np.array(losses)


def smoothed(losses: np.ndarray, beta: float = 0.9) -> np.ndarray:
    """(n,) moving average with decay `beta`, corrected for its start (divided by 1 - beta^t)."""
    average, found = 0.0, np.empty(len(losses))
    for t, loss in enumerate(losses):
        average = beta * average + (1 - beta) * loss
        found[t] = average / (1 - beta ** (t + 1))
    return found


def suggest(rates: np.ndarray, losses: np.ndarray) -> Suggestion:
    """From the smoothed losses (n,) at rates (n,) that rise exponentially; what comes after the lowest does not count.

    NaN and infinity, where the loss has diverged, are left out.
    """
    finite = np.isfinite(losses)
    smooth, rates = smoothed(losses[finite]), rates[: len(losses)][finite]
    lowest = int(smooth.argmin())
    slopes = np.gradient(smooth[: max(2, lowest + 1)], np.log(rates[: max(2, lowest + 1)]))
    risen = np.flatnonzero(smooth[lowest:] > 1.05 * smooth[lowest])
    edge = lowest + (int(risen[0]) - 1 if len(risen) else len(smooth) - 1 - lowest)
    return Suggestion(float(rates[slopes.argmin()]), float(rates[lowest] / 10), float(rates[edge]))
