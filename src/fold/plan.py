"""The plan of a fold from its configuration."""

from __future__ import annotations

from functools import partial

import numpy as np

from src.config import Config
from src.data.augment import Augment
from src.fold.batch_size import batch_size_or_default
from src.training.plan import Plan
from src.training.stages import Stage, plan_stages, subset


def plan_fold(
    config: Config,
    rows: np.ndarray,
    strata: np.ndarray,
    augment: Augment,
    processes: int = 1,
    hold_norms: bool = False,
) -> Plan:
    """Of a fold that learns from `rows` (n,) int64; strata (n,) int64 as `Task.strata` gives them.

    Raises UserError naming the stage or key.
    """
    return Plan(
        stages=tuple(stages_of(config, rows, strata, processes, config.optimizer.accumulate)),
        rows=len(rows),
        seed=config.seed,
        base_lr=config.optimizer.lr,
        schedule=config.schedule,
        average=config.average,
        mixing=config.mix,
        augment=augment,
        scaling=config.optimizer.scaling,
        freeze=config.model.freeze,
        hold_norms=hold_norms,
        validate_every=config.eval.every,
    )


def stages_of(
    config: Config, rows: np.ndarray, strata: np.ndarray, processes: int = 1, accumulate: int = 1
) -> list[Stage]:
    """The configured stages; arguments as for `plan_fold`."""
    planned = partial(
        plan_stages,
        config.stages,
        rows=rows,
        strata=strata,
        size=config.size,
        batch_size=batch_size_or_default(config),
        processes=processes,
        accumulate=accumulate,
        seed=config.seed,
        balance=config.balance,
    )
    stages = planned(epochs=config.epochs)
    steps = stages[-1].stop
    return stages if steps >= config.least_steps else planned(epochs=config.epochs * config.least_steps / steps)


def watched_rows(config: Config, held_out: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Of the rows `held_out` (V,) int64 those that are predicted amid training: all, or a sample of about `eval.rows`
    that keeps the shares of `strata` (V,) int64, the same at every start. What follows training looks at all."""
    if len(held_out) <= config.eval.rows:
        return held_out
    return held_out[subset(strata, config.eval.rows / len(held_out), seed=config.seed)]
