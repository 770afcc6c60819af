"""The batch size of a run with batch_size=auto: found once, kept for its other folds and resumes."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.competition.tables import Competition
from src.config import Config
from src.files import read_json, write_json
from src.fold.network import build_from, on_device, optimizer_from, outputs_from
from src.fold.objective import labelled
from src.log import say
from src.model.weights import WeightsSource
from src.runs.claims import run_lock
from src.runs.opening import image_spec
from src.training.batch_finder import LARGEST, SMALLEST, largest_batch, step_fits
from src.training.device import from_main
from src.training.learner import rehearsal
from src.training.stages import images_of_a_step, pixels

# An epoch keeps at least so many steps, whatever would fit: with a few steps an epoch, little is learnt in it.
STEPS_PER_EPOCH = 20


def resolve_batch_size(config: Config, competition: Competition, rows: int, run: Path, accelerator: Any) -> Config:
    """`config` with a number as batch_size. With auto: what the run in the folder `run` has found before, or else the
    largest batch per process that runs forwards, backwards and through the optimiser at the largest stage's size.

    rows: of the fold's training part.
    """
    if config.batch_size != "auto":
        return config
    file = run / "batch_size.json"
    known = from_main(accelerator, read_json(file)["batch_size"] if file.is_file() else None)
    if known is None:
        size = max(pixels(stage.size, config.size) for stage in config.stages)
        per_step = STEPS_PER_EPOCH * accelerator.num_processes * config.optimizer.accumulate
        most = max(SMALLEST, min(LARGEST, rows // per_step))
        found = torch.tensor([find_batch_size(config, competition, size, most, accelerator)])
        least = int(accelerator.gather(found.to(accelerator.device)).min())  # of all processes' devices
        if accelerator.is_main_process:
            with run_lock(config, run.name):  # folds of one run may be started at the same time: the first one decides
                if not file.is_file():
                    write_json(
                        file, {"batch_size": least, "size": size, "most": most, "device": str(accelerator.device)}
                    )
        accelerator.wait_for_everyone()
        known = from_main(accelerator, read_json(file)["batch_size"] if accelerator.is_main_process else None)
    say(f"batch_size=auto: {known} per process")
    return dataclasses.replace(config, batch_size=known)


def find_batch_size(config: Config, competition: Competition, size: int, most: int, accelerator: Any) -> int:
    """The largest batch up to `most` of which a step fits, with a network that is let go again; its weights do not
    matter, nor does the label."""
    spec = image_spec(config.competition)
    outputs = outputs_from(config, competition.task, competition.y)
    untrained = WeightsSource("scratch")
    network = on_device(build_from(config.model, outputs.width, untrained, spec=spec)[0], accelerator)
    rows = np.arange(len(competition.train))
    objective = labelled(competition.task, competition.y, rows, outputs, config.loss, accelerator.device)
    optimizer = partial(optimizer_from, config.optimizer)
    with rehearsal(network, optimizer, objective, spec, accelerator) as step:
        return largest_batch(step_fits(lambda batch: step(batch, size), network, size, accelerator, spec), most)


def batch_size_or_default(config: Config) -> int:
    """The configured number, or 64 where it is auto, for verbs that do not train."""
    return config.batch_size if isinstance(config.batch_size, int) else 64


def dividing(config: Config, processes: int) -> int:
    """The largest number of processes up to `processes` that can divide every stage's batch among them."""
    found = config.batch_size if isinstance(config.batch_size, int) else SMALLEST  # of which all others are multiples

    def divides(size: int | str | None, parts: int) -> bool:
        part = size // parts if isinstance(size, int) else images_of_a_step(size, found // parts)
        return part * parts == images_of_a_step(size, found)

    sizes = {None, *(stage.batch_size for stage in config.stages)}
    return max(parts for parts in range(1, processes + 1) if all(divides(size, parts) for size in sizes))


def spread(config: Config, parts: int) -> Config:
    """`config` with the batches, whose sizes are numbers, that each of `parts` processes has of the same steps."""
    if parts == 1:
        return config
    assert isinstance(config.batch_size, int)
    stages = tuple(
        dataclasses.replace(stage, batch_size=stage.batch_size // parts) if isinstance(stage.batch_size, int) else stage
        for stage in config.stages
    )
    return dataclasses.replace(config, batch_size=config.batch_size // parts, stages=stages)
