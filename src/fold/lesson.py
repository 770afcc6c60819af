"""What a fold learns from: its labelled rows, and a teacher where one is configured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.competition.folds import Fold
from src.competition.tables import Competition
from src.config import DistillConfig, LossConfig, ModelConfig
from src.data.augment import Augment
from src.data.cache import ImageStore
from src.data.loader import batches
from src.data.preprocess import Preprocess
from src.inference.tta import parse_views
from src.log import say
from src.seeds import Stream, generator
from src.training.losses import add_margin, balanced_weights, distillation, make_loss, soft_targets
from src.training.stages import Stage, training_orders

# Keys of the section `loss` that decide what is learnt; all others are arguments of `make_loss`.
TARGET_KEYS = ("class_weights", "smoothing", "smoothing_kind", "flip_labels")


@dataclass(frozen=True)
class Lesson:
    """store: the images; rows (n,) int64: those that are learnt from; labels: the class of every row of the store.

    targets: rows (B,) -> (B, C) soft, or (B, 2C) with a teacher's probabilities beside them. loss: (logits (B, C),
    targets, inputs (B, 3, S, S)) -> scalar.
    """

    store: ImageStore
    rows: np.ndarray
    labels: np.ndarray
    targets: Callable[[Tensor], Tensor]
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]


def from_labels(
    competition: Competition, fold: Fold, store: ImageStore, config: LossConfig, device: torch.device, seed: int = 0
) -> Lesson:
    """The fold's training rows with their own labels, of which `config.flip_labels` are made wrong by `seed`."""
    classes = len(competition.classes)
    labels = torch.from_numpy(flipped(competition.labels, fold.train, classes, config.flip_labels, seed)).to(device)

    def targets(rows: Tensor) -> Tensor:
        return soft_targets(labels[rows], classes, config.smoothing, config.smoothing_kind)

    weights = None
    if config.class_weights == "balanced":
        each = balanced_weights(competition.labels[fold.train], classes)
        weights = torch.from_numpy(each).to(device)
    values = {key: value for key, value in asdict(config).items() if key not in TARGET_KEYS}
    loss = make_loss(**values, weights=weights)
    return Lesson(store, fold.train, competition.labels, targets, lambda logits, y, x: loss(logits, y))


def flipped(labels: np.ndarray, rows: np.ndarray, classes: int, share: float, seed: int) -> np.ndarray:
    """labels (N,) int64 as a copy in which `share` of those of `rows`, drawn by `seed`, are another class; all classes
    but the row's own are equally likely. What the plan knows of classes stays as it was, so the batches hold the same
    rows as without."""
    wrong = labels.copy()
    if share and classes > 1:
        rng = generator(seed, Stream.FLIP_LABELS)
        chosen = rng.permutation(rows)[: round(share * len(rows))]
        wrong[chosen] = (labels[chosen] + rng.integers(1, classes, len(chosen))) % classes
    return wrong


def with_margin(lesson: Lesson, config: ModelConfig) -> Lesson:
    """The lesson with its loss on logits that `model.head` has made harder by `model.margin`; a teacher comes after."""
    if config.head == "linear":
        return lesson
    harder = partial(add_margin, kind=config.head, margin=config.margin, scale=config.scale)
    return replace(lesson, loss=lambda logits, y, x: lesson.loss(harder(logits, y), y, x))


def from_teacher(
    lesson: Lesson,
    teacher: nn.Module,
    config: DistillConfig,
    competition: Competition,
    *,
    test_store: ImageStore,
    open_images: Callable[..., ImageStore],
    predict: Callable[..., np.ndarray],
    size: int,
    device: torch.device,
) -> Lesson:
    """The lesson with a teacher's word on every image, and with the test images that it is sure of, if they may join.

    teacher: (B, 3, S, S) -> (B, C) log-probabilities; it must not have seen the fold's held-out rows. predict: as
    `inference.predict.predict`, for what is asked of the teacher once, before training, at `size` pixels.
    open_images: (paths, unreadable=) -> store of other rows of the competition.
    """
    kd = partial(distillation, temperature=config.temperature)
    views = parse_views(config.views)
    known = torch.zeros(len(competition.ids) + len(competition.test_ids), len(competition.classes), device=device)

    def ask(store: ImageStore, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(predict(teacher, store, rows, size=size, views=views)).to(device)

    if config.targets == "precomputed":
        known[lesson.rows] = ask(lesson.store, lesson.rows)
    if config.unlabelled:
        first = len(competition.ids)  # test row i is row first + i of the joint store
        paths = np.concatenate([competition.paths, competition.test_paths])
        store = open_images(paths, unreadable=lesson.store.unreadable)
        known[first:] = ask(test_store, np.arange(len(competition.test_ids)))  # NaN, which never joins, if unreadable
        sure, guessed = (values.cpu().numpy() for values in known[first:].max(dim=1))
        joining = np.flatnonzero(sure >= config.confidence)
        say(f"{len(joining)} of {len(sure)} test images join: the teacher is at least {config.confidence:.0%} sure")
        rows = np.concatenate([lesson.rows, first + joining])
        labels, labelled = np.concatenate([lesson.labels, guessed]), lesson.targets

        def targets(rows: Tensor) -> Tensor:
            ours = labelled(rows.clamp(max=first - 1))
            return torch.where((rows < first)[:, None], ours, known[rows])

        lesson = replace(lesson, store=store, rows=rows, labels=labels, targets=targets)

    given, own_loss = lesson.targets, lesson.loss
    if config.targets == "precomputed":

        def loss(logits: Tensor, y: Tensor, x: Tensor) -> Tensor:
            own, theirs = y.chunk(2, dim=1)
            return own_loss(logits, own, x) + config.weight * kd(logits, theirs.clamp(min=1e-8).log())

        return replace(lesson, targets=lambda rows: torch.cat([given(rows), known[rows]], dim=1), loss=loss)

    def patient(logits: Tensor, y: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            theirs = teacher(x)
        return own_loss(logits, y, x) + config.weight * kd(logits, theirs)

    return replace(lesson, loss=patient)


def augmented_inputs(
    store: ImageStore,
    stage: Stage,
    augment: Augment,
    seed: int,
    count: int,
    accelerator: Any,
    preprocess: Preprocess,
) -> Iterator[Tensor]:
    """The first `count` batches of a stage as a network sees them, unmixed: for fresh BatchNorm statistics."""
    orders = training_orders([stage], augment, seed, stage.start, accelerator.process_index, accelerator.num_processes)
    for batch in batches(store, islice(orders, count), 0, accelerator.device):
        yield preprocess(batch.images[0], batch.colour)
