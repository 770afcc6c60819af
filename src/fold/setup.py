"""What a fold starts from: its network, its images, and how they are shown to the network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from src.competition.folds import Fold
from src.competition.tables import Competition
from src.config import Config
from src.data.augment import Augment
from src.data.bad_images import unreadable_rows
from src.data.cache import ImageStore
from src.data.preprocess import Preprocess
from src.data.sight import doubts, see
from src.data.transforms import check_albumentations
from src.errors import counted
from src.fold.measured import measure_pixels
from src.fold.network import build_from, norms_to_hold, on_device, outputs_from
from src.fold.pruned import weights_to_prune
from src.log import say
from src.model.outputs import Outputs
from src.model.pruning import prune
from src.model.weights import WeightsSource, find_weights
from src.runs.folder import open_runs
from src.runs.opening import image_spec, names_of, open_images
from src.runs.start import claim_start
from src.training.device import precision_of, workers_beside
from src.training.stages import pixels


@dataclass(frozen=True)
class Setup:
    """fold: the rows whose images can be read. train, test: stores of the training and the test images. hold_norms:
    whether BatchNorm keeps the statistics that it has."""

    fold: Fold
    network: nn.Module
    outputs: Outputs
    source: WeightsSource
    train: ImageStore
    test: ImageStore
    preprocess: Preprocess
    augment: Augment
    hold_norms: bool = False


def set_up(config: Config, competition: Competition, fold: Fold, k: int, run: Path, accelerator: Any) -> Setup:
    """Of fold k of the run in the folder `run`: the network on its device with its first weights, the image stores, and
    what is measured on pixels."""
    # ---- network ----------------------------------------------------------------------------------------------------
    spec = image_spec(config.competition)
    outputs = outputs_from(config, competition.task, competition.y[fold.train])
    if config.prune.run is not None:
        source = weights_to_prune(
            open_runs(config.paths), config.prune.run, k, competition.task.names, competition.train.ids[fold.val]
        )
    else:
        source = find_weights(
            config.model.name, config.model.pretrained, config.model.weights, Path(config.paths.input)
        )
    network, expected = build_from(config.model, outputs.width, source, seed=config.seed, spec=spec)
    if config.prune.run is not None:
        prune(network, config.prune.ratio, pixels(config.stages[-1].size, config.size), spec)
    else:
        claim_start(run, k, source, config.model.name)
    say(f"{config.model.name}: {source.why}")
    hold_norms, why_not = norms_to_hold(config.model, source)
    if why_not:
        say(f"model.hold_norms=true: {why_not}; BatchNorm normalises by its batches")
    say(f"{accelerator.num_processes} x {accelerator.device}, {precision_of(accelerator)}")

    # ---- images -----------------------------------------------------------------------------------------------------
    short_side = round(max(pixels(stage.size, config.size) for stage in config.stages) / config.eval.crop)
    policy = config.competition.on_bad_image
    images = partial(open_images, config, competition, short_side=short_side)
    train = images(competition.train.images, unreadable="blank" if policy == "blank" else "error")
    test = images(competition.test.images, unreadable="mark")
    if policy == "skip":
        with accelerator.main_process_first():  # which decodes all images into the cache
            readable = without_unreadable(fold, train, workers_beside(config.workers, accelerator))
    else:
        readable = fold
    sizes = [pixels(stage.size, config.size) for stage in config.stages]
    check_albumentations(config.augment.albumentations, sizes, spec.channels, spec.dtype)
    if accelerator.is_main_process:
        tell_sight(competition, train, readable.train)
    normalisation, augment = measure_pixels(config, train, readable.train, expected)
    preprocess = Preprocess(normalisation, accelerator.device, spec)
    placed = on_device(network, accelerator)
    return Setup(readable, placed, outputs, source, train, test, preprocess, augment, hold_norms)


def tell_sight(competition: Competition, store: ImageStore, rows: np.ndarray) -> None:
    """One line about what the network will see of the training `rows` (n,) int64, and one for each doubt."""
    sight = see(store, rows)
    if sight is None:
        return
    say(sight.line())
    for line in doubts(sight, store, names_of(competition, sight.rows)):
        say(line)


def without_unreadable(fold: Fold, store: ImageStore, workers: int) -> Fold:
    """The rows whose images can be read; prints how many cannot, and why the first few."""
    found = unreadable_rows(store, np.concatenate([fold.train, fold.val]), workers)
    bad = [row for row, _ in found]
    say(
        f"competition.on_bad_image=skip: {counted(len(bad), 'row')} left out"
        + "".join(f"\n  {why}" for _, why in found[:5])
    )
    return Fold(np.setdiff1d(fold.train, bad), np.setdiff1d(fold.val, bad))
