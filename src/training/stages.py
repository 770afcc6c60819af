"""The stages of a run with fixed first and last steps, and the batch that belongs to each step.

A batch is a function of (seed, step): the plan needs no state, so a resume at any step goes on with the same rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from src.config import StageConfig
from src.data.augment import Augment
from src.data.loader import Order
from src.errors import UserError, counted
from src.seeds import Stream, generator
from src.training.freezing import Part
from src.training.sampling import Balance, balance_classes, balanced_rows, order_of_pass
from src.training.schedule import duration


@dataclass(frozen=True)
class Stage:
    """Steps start .. stop-1 of the run on `rows` (n,) int64 at `size` pixels; batch_size is per process."""

    number: int
    start: int
    stop: int
    size: int
    rows: np.ndarray
    batch_size: int
    augment: float
    total_batch: int  # batch_size x processes x accumulation: what one optimiser step sees
    train: Part = "all"
    lr: float | None = None  # a constant rate of its own, per 256 examples
    balance: Balance | None = None  # None: every row once per pass

    @property
    def epoch_steps(self) -> int:
        return max(1, round(len(self.rows) / self.total_batch))

    def describe(self) -> str:
        return (
            f"stage {self.number + 1}: {counted(self.stop - self.start, 'step')}, {counted(len(self.rows), 'row')}, "
            f"{self.size} px, "
            f"batch {self.total_batch}, augment {self.augment:g}"
            + (f", {self.train} only" if self.train != "all" else "")
            + (f", lr {self.lr:g}" if self.lr is not None else "")
        )


def plan_stages(
    specs: Sequence[StageConfig],
    *,
    rows: np.ndarray,
    strata: np.ndarray,
    epochs: float,
    size: int,
    batch_size: int,
    processes: int = 1,
    accumulate: int = 1,
    seed: int = 0,
    balance: float = 0.0,
) -> list[Stage]:
    """The stages of one fold.

    rows: (N,) int64 training rows of the fold; strata: (N,) int64, whose shares a share of the rows keeps. A share of
    the run is a share of its examples, epochs x N. balance: see `balance_classes`. Raises UserError naming the stage.
    """
    stages: list[Stage] = []
    for number, spec in enumerate(specs):
        key = f"stages[{number}]"
        if not 0 < spec.rows <= 1 or not 0 <= spec.augment <= 1 or spec.size <= 0:
            raise UserError(f"{key}: rows must be in 0..1, augment in 0..1 and size above 0")
        if 2 < spec.size < 8:
            raise UserError(f"{key}.size={spec.size:g}: must be a share up to 2 or at least 8 pixels")
        if spec.lr is not None and not 0 <= spec.lr < math.inf:
            raise UserError(f"{key}.lr={spec.lr}: must not be negative")
        if spec.lr is None and stages and stages[-1].lr is not None:
            raise UserError(f"{key}.lr: stages with a rate of their own come last; give this one its lr as well")
        if spec.classes is not None and spec.classes < 1:
            raise UserError(f"{key}.classes={spec.classes}: must be at least 1")
        positions = subset(strata, spec.rows, spec.classes, seed)
        chosen = rows[positions]
        per_process = images_of_a_step(spec.batch_size, batch_size, f"{key}.batch_size")
        total_batch = per_process * processes * accumulate
        steps = duration(
            spec.length,
            total=round(epochs * len(rows) / total_batch),
            epoch=len(chosen) / total_batch,
            key=f"{key}.length",
        )
        start = stages[-1].stop if stages else 0
        stages.append(
            Stage(
                number=number,
                start=start,
                stop=start + max(1, steps),
                size=pixels(spec.size, size),
                rows=chosen,
                batch_size=per_process,
                augment=spec.augment,
                total_batch=total_batch,
                train=spec.train,
                lr=spec.lr,
                balance=balance_classes(chosen, strata[positions], balance) if balance else None,
            )
        )
    return stages


def images_of_a_step(value: int | str | None, batch_size: int, key: str = "stages.batch_size") -> int:
    """A share of `batch_size` ("200%"; None: all of it) as images, or images as they are; at least one.

    A share follows whoever has to choose a smaller batch for want of memory. Raises UserError naming `key`.
    """
    if value is None:
        return batch_size
    share = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*%\s*", str(value))
    images = max(1, round(float(share[1]) / 100 * batch_size)) if share and float(share[1]) else value
    if not isinstance(images, int) or images < 1:
        raise UserError(f"{key}={value}: expected images, at least 1, or a share of batch_size such as 200%")
    return images


def pixels(value: float, size: int) -> int:
    """A share of `size` (up to 2.0) as pixels, or pixels as they are.

    Shares are rounded to what networks like: multiples of 32, their usual total stride, of 16 below 64 px and of 4
    below 32 px. Off that grid a network sees a ragged last row: a ResNet-18-D that scored 0.72 at 96 px scored 0.60 at
    104 px (clothing, fold 0, no TTA).
    """
    if value > 2:
        return round(value)
    share = value * size
    grid = 32 if share >= 64 else 16 if share >= 32 else 4
    return size if value == 1 else max(grid, round(share / grid) * grid)


def subset(labels: np.ndarray, share: float, classes: int | None = None, seed: int = 0) -> np.ndarray:
    """Positions (n,) int64, ascending, of a stratified share of the rows, of the `classes` most frequent classes.

    Each class is shuffled once by `seed` and the first part of it is taken, so the same seed gives the same rows and a
    smaller share is contained in a larger one; so are fewer classes in more.
    """
    order = generator(seed, Stream.SUBSET).permutation(len(labels))
    counts = np.bincount(labels)
    kept = np.argsort(-counts, kind="stable")[: classes or len(counts)]
    rank = np.empty(len(labels), np.int64)  # of each row within its class, in shuffled order
    by_class = order[np.argsort(labels[order], kind="stable")]
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.flatnonzero((rank < np.ceil(np.round(share * counts, 6))[labels]) & np.isin(labels, kept))


def step_rows(stage: Stage, step: int, seed: int) -> np.ndarray:
    """(total_batch,) rows of one optimiser step: the next ones in an endless stream of reshuffled passes.

    Passes follow each other without a gap, so every batch is full and each row comes once per pass.
    """
    first = (step - stage.start) * stage.total_batch
    positions = np.arange(first, first + stage.total_batch)
    if stage.balance is not None:
        return balanced_rows(stage.balance, positions, (seed, Stream.ORDER, stage.number))
    passes, within = np.divmod(positions, len(stage.rows))
    found = np.empty(stage.total_batch, np.int64)
    for number in np.unique(passes):
        order = order_of_pass(len(stage.rows), (seed, Stream.ORDER, stage.number, int(number)))
        found[passes == number] = order[within[passes == number]]
    return stage.rows[found]


def training_orders(
    stages: Sequence[Stage], augment: Augment, seed: int, first: int = 0, rank: int = 0, world: int = 1
) -> Iterator[Order]:
    """This process' micro-batches from step `first` to the end of the last stage, in order."""
    for stage in stages:
        for step in range(max(first, stage.start), stage.stop):
            rows = step_rows(stage, step, seed).reshape(-1, world, stage.batch_size)
            for micro in range(len(rows)):
                yield Order(
                    rows[micro, rank],
                    stage.size,
                    augment.at_strength(stage.augment),
                    (seed, Stream.AUGMENT, step, micro, rank),
                )


def stage_at(stages: Sequence[Stage], step: int) -> Stage:
    return next(stage for stage in stages if step < stage.stop)


def is_epoch_end(stages: Sequence[Stage], step: int, every: int = 1) -> bool:
    """Whether `step` is the last of an epoch of its stage, or of the stage itself."""
    stage = stage_at(stages, step)
    done = step + 1 - stage.start
    return done % (stage.epoch_steps * every) == 0 or step + 1 == stage.stop


def shorten(stages: Sequence[Stage], step: int, factor: float) -> list[Stage]:
    """The plan with the steps from `step` on multiplied by `factor`, those of every stage alike; what is past stays.

    A stage that has not begun keeps at least one step.
    """
    shorter: list[Stage] = []
    for stage in stages:
        start = shorter[-1].stop if shorter else stage.start
        past = min(max(step - stage.start, 0), stage.stop - stage.start)
        length = past + round((stage.stop - stage.start - past) * factor)
        shorter.append(replace(stage, start=start, stop=start + max(length, 1)))
    return shorter
