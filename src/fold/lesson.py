"""What a fold learns from: its labelled rows, and a teacher where one is configured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.competition.tables import Competition
from src.competition.task import Task
from src.config import Config, DistillConfig
from src.data.cache import ImageStore
from src.data.loader import Order, batches
from src.data.on_device import Resident
from src.data.preprocess import Preprocess
from src.errors import UserError
from src.fold.network import on_device
from src.fold.objective import labelled
from src.fold.setup import Setup
from src.fold.teacher import load_teacher
from src.inference.tta import parse_views
from src.log import say
from src.model.outputs import Outputs
from src.runs.folder import Runs
from src.runs.opening import open_images
from src.seeds import Stream, generator
from src.training.objective import Objective, taught_before, taught_on_sight, with_margin
from src.training.stages import pixels


@dataclass(frozen=True)
class Lesson:
    """store: the images; rows (n,) int64: those that are learnt from; strata: of every row of the store. resident: the
    images of rows where their crops are made on the device."""

    store: ImageStore
    rows: np.ndarray
    strata: np.ndarray
    objective: Objective
    resident: Resident | None = None


def open_lesson(
    config: Config,
    competition: Competition,
    start: Setup,
    k: int,
    runs: Runs | Path,
    accelerator: Any,
    predict: Callable[..., np.ndarray],
) -> Lesson:
    """Of fold k: its own labels, and the teacher `config.teacher`; `predict` is for what that is asked once."""
    own = from_labels(
        competition.task, competition.y, start.fold.train, start.train, start.outputs, config, accelerator.device
    )
    if config.teacher is None:
        return own
    held_out = competition.train.ids[start.fold.val]
    teacher = load_teacher(
        runs, config.teacher, k, inputs=start.preprocess.normalisation, task=competition.task, held_out=held_out
    )
    say(f"taught by fold {k} of {config.teacher}")
    return from_teacher(
        own,
        on_device(teacher, accelerator),
        config.distill,
        competition,
        test_store=start.test,
        open_images=partial(open_images, config, competition, short_side=start.train.short_side),
        predict=partial(
            predict,
            size=pixels(config.stages[-1].size, config.size),
            activation=torch.Tensor.float if competition.task.numeric else torch.exp,
        ),
        device=accelerator.device,
    )


def from_labels(
    task: Task,
    y: np.ndarray,
    rows: np.ndarray,
    store: ImageStore,
    outputs: Outputs,
    config: Config,
    device: torch.device,
) -> Lesson:
    """The fold's training `rows` (n,) int64 with their own targets, of which `loss.flip_labels` are made wrong by the
    seed. y: of all rows of the store."""
    wrong = flipped(y, rows, len(task.names), config.loss.flip_labels, config.seed)
    if config.model.head != "linear" and (outputs.width != len(task.names) or not task.groups):
        raise UserError(f"model.head={config.model.head}: tells one class from the others; use model.head=linear here")
    objective = labelled(task, wrong, rows, outputs, config.loss, device)
    return Lesson(store, rows, task.strata(y), with_margin(objective, config.model))


def flipped(y: np.ndarray, rows: np.ndarray, classes: int, share: float, seed: int) -> np.ndarray:
    """Targets y as a copy in which `share` of those of `rows`, drawn by `seed`, are wrong: another class, all but the
    row's own equally likely, or where y is (N, C) another row's. What the plan knows of strata stays as it was, so the
    batches hold the same rows as without."""
    wrong = y.copy()
    if share and classes > 1:
        rng = generator(seed, Stream.FLIP_LABELS)
        chosen = rng.permutation(rows)[: round(share * len(rows))]
        if y.ndim == 1:
            wrong[chosen] = (y[chosen] + rng.integers(1, classes, len(chosen))) % classes
        else:
            wrong[chosen] = y[rng.permutation(chosen)]
    return wrong


def from_teacher(
    lesson: Lesson,
    teacher: nn.Module,
    config: DistillConfig,
    competition: Competition,
    *,
    test_store: ImageStore,
    open_images: Callable[..., ImageStore],
    predict: Callable[..., np.ndarray],
    device: torch.device,
) -> Lesson:
    """The lesson with distillation targets, and with the test images that the teacher is sure of, if they may join.

    teacher: (B, C, S, S) -> (B, K) log-probabilities, or values; it must not have seen the fold's held-out rows.
    predict: (network, store, rows, views=) -> probabilities or values (n, K), for what it is asked before training.
    open_images: (paths, unreadable=) -> store, of other rows of the competition.
    """
    task, first = competition.task, len(competition.train)
    views = parse_views(config.views)
    known = torch.zeros(first + len(competition.test), len(task.names), device=device)

    def ask(store: ImageStore, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(predict(teacher, store, rows, views=views)).to(device)

    if config.targets == "precomputed":
        known[lesson.rows] = ask(lesson.store, lesson.rows)
    joint = lesson
    if config.unlabelled:
        if not task.exclusive:
            raise UserError("distill.unlabelled=true: takes the one class that a teacher is sure of; leave it out")
        known[first:] = ask(test_store, np.arange(len(competition.test)))  # NaN, which never joins, if unreadable
        paths = np.concatenate([competition.train.images, competition.test.images])  # test row i is row first + i
        store = open_images(paths, unreadable=lesson.store.unreadable)
        joint = with_unlabelled(lesson, store, known, first, config.confidence)
    if config.targets == "precomputed":
        return replace(joint, objective=taught_before(joint.objective, known, config))
    return replace(joint, objective=taught_on_sight(joint.objective, teacher, config))


def with_unlabelled(lesson: Lesson, store: ImageStore, known: Tensor, first: int, confidence: float) -> Lesson:
    """The lesson and, with their predictions `known` (rows of `store`, C) as targets, the rows from `first` on of which
    a teacher is at least so sure."""
    sure, guessed = (values.cpu().numpy() for values in known[first:].max(dim=1))
    joining = np.flatnonzero(sure >= confidence)
    say(f"{len(joining)} of {len(sure)} test images join: the teacher is at least {confidence:.0%} sure")
    own = lesson.objective

    def targets(rows: Tensor) -> Tensor:
        return torch.where((rows < first)[:, None], own.targets(rows.clamp(max=first - 1)), known[rows])

    rows = np.concatenate([lesson.rows, first + joining])
    return Lesson(store, rows, np.concatenate([lesson.strata, guessed]), replace(own, targets=targets))


def augmented_inputs(
    store: ImageStore, orders: Iterable[Order], count: int, preprocess: Preprocess, resident: Resident | None = None
) -> Iterator[Tensor]:
    """The first `count` batches of `orders` as a network sees them, unmixed: for fresh BatchNorm statistics."""
    for batch in batches(store, islice(orders, count), 0, preprocess.device, resident):
        yield preprocess(batch.images[0], batch.colour)
