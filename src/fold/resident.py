"""Who makes the training crops of a fold: the loader's workers, or the device, from images that lie there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from src.config import Config
from src.data.on_device import Resident
from src.errors import UserError
from src.fold.lesson import Lesson
from src.fold.network import optimizer_from
from src.fold.setup import Setup
from src.log import say
from src.training.device import workers_beside
from src.training.learner import rehearsal
from src.training.memory import free_memory
from src.training.plan import Plan

# Of what a training step leaves of the device: while images are put together they are there twice, and evaluation
# takes larger batches than training.
SHARE = 0.5


class Place(NamedTuple):
    """on: who makes the crops, workers or device; why."""

    on: str
    why: str


def open_resident(
    config: Config, start: Setup, lesson: Lesson, plan: Plan, state: Mapping[str, Any] | None, accelerator: Any
) -> Resident | None:
    """The images of all rows that the plan visits, on the device, or None where workers make the crops. Several
    processes decide alike. Raises UserError for augment_on=device where it cannot be."""
    device = accelerator.device

    def rows() -> np.ndarray:
        return np.unique(np.concatenate([stage.rows for stage in plan.stages]))

    place = choose(
        config.augment_on,
        made_before(state),
        device.type,
        transforms=bool(plan.augment.albumentations),
        need=lambda: lesson.store.at_most(rows()),
        room=lambda: room_beside(config, start, lesson, plan, accelerator),
    )
    on_device = place.on == "device"
    if accelerator.num_processes > 1:
        on_device = bool(accelerator.gather(torch.tensor([on_device], device=device)).all())
    if not on_device:
        if device.type == "cuda" or config.augment_on == "device":
            say(f"crops are made by workers: {place.why}")
        return None
    with accelerator.main_process_first():  # which decodes all images into the cache
        resident = Resident(lesson.store, visited := rows(), device, workers_beside(config.workers, accelerator))
    say(f"crops are made on {device}: {len(visited)} images take {gigabytes(resident.nbytes)} there")
    return resident


def choose(
    wanted: str,
    before: str | None,
    device: str,
    *,
    transforms: bool,
    need: Callable[[], float],
    room: Callable[[], float],
) -> Place:
    """wanted: the key augment_on. before: who made the crops of the part of the fold that is done, or None. device: its
    type. transforms: whether there are albumentations. need: () -> bytes of the images, at most; room: () -> bytes for
    them; both are asked only where they decide."""
    if wanted == "workers":
        return Place("workers", "augment_on=workers")
    if transforms:
        if wanted == "device":
            raise UserError(
                "augment_on=device: augment.albumentations work in the loader's workers; leave one of the two out"
            )
        return Place("workers", "augment.albumentations work there")
    if wanted == "auto" and before == "workers":
        return Place("workers", "as before in this fold")
    if device == "xla":
        if wanted == "device":
            raise UserError("augment_on=device: a TPU compiles anew for crops of each size; use augment_on=auto")
        return Place("workers", "on a TPU")
    if wanted == "auto" and device != "cuda":
        return Place("workers", f"on device={device}")
    most, left = need(), int(room())
    if most <= left:
        return Place("device", f"{gigabytes(most)} of images at most, room for {gigabytes(left)}")
    if wanted == "device":
        raise UserError(
            f"augment_on=device: the images take up to {gigabytes(most)}, and there is room for {gigabytes(left)} "
            "beside training; use augment_on=workers, or a smaller size or batch_size"
        )
    return Place("workers", f"the images take up to {gigabytes(most)}, room for {gigabytes(left)}")


def made_before(state: Mapping[str, Any] | None) -> str | None:
    """Who has made the last crops before a checkpoint; those of before there was a choice were the workers'."""
    return None if state is None else str(state.get("augment_on", [[0, "workers"]])[-1][1])


def room_beside(config: Config, start: Setup, lesson: Lesson, plan: Plan, accelerator: Any) -> float:
    """Bytes of the device for images: SHARE of what the dearest stage's step leaves, which a card is tried for."""
    device = accelerator.device
    if device.type != "cuda":
        return SHARE * free_memory()
    batch, size = max(
        ((stage.batch_size, stage.size) for stage in plan.stages), key=lambda each: each[0] * each[1] ** 2
    )
    torch.cuda.empty_cache()
    free, before = torch.cuda.mem_get_info(device)[0], torch.cuda.memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    optimizer = partial(optimizer_from, config.optimizer)
    with rehearsal(start.network, optimizer, lesson.objective, start.train.spec, accelerator) as step:
        for _ in range(2):  # the optimiser's state is there from the second on
            step(batch, size)
    dearest = torch.cuda.max_memory_reserved(device) - before
    torch.cuda.empty_cache()
    return SHARE * max(0, free - dearest)


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.2g} GB" if count >= 1e8 else f"{count / 1e6:.2g} MB"
