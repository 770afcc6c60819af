"""Learning-rate range test on the first stage of a fold: build, run, picture, suggestion. Nothing is kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from src.competition.folds import fold_rows
from src.config import Config
from src.data.loader import batches
from src.data.preprocess import Preprocess
from src.files import write_csv
from src.fold.lesson import from_labels
from src.fold.measured import measure_pixels
from src.fold.network import build_from, make_learner, norms_to_hold, on_device, outputs_from
from src.fold.plan import stages_of
from src.fold.probe import start_from_probe
from src.fold.setup import Setup
from src.model.weights import find_weights
from src.reporting.figures import range_picture
from src.runs.claims import run_name
from src.runs.opening import image_spec, open_competition, open_folds, open_images
from src.runs.scoring import metric_of
from src.training.device import make_accelerator, workers_beside
from src.training.range_test import range_test, smoothed, suggest
from src.training.stages import training_orders

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 100


def lr_find(config: Config) -> None:
    """Writes runs/<run>/lr_find/loss.csv and loss.png and prints values for optimizer.lr, which is for 256 examples.

    With the model, optimiser, loss and augmentation of the configuration, on labels alone (no teacher, no mixing).
    """
    accelerator = make_accelerator(config.device, config.precision)
    competition = open_competition(config)
    fold = fold_rows(open_folds(config, competition), 0 if config.fold == "all" else int(config.fold))
    strata = competition.task.strata(competition.y)
    first = stages_of(config, fold.train, strata[fold.train])[0]
    short_side = round(first.size / config.eval.crop)
    policy, spec = config.competition.on_bad_image, image_spec(config.competition)
    unreadable: Literal["error", "blank"] = "error" if policy == "error" else "blank"
    store = open_images(config, competition, competition.train.images, short_side=short_side, unreadable=unreadable)
    source = find_weights(config.model.name, config.model.pretrained, config.model.weights, Path(config.paths.input))
    outputs = outputs_from(config, competition.task, competition.y[fold.train])
    network, expected = build_from(config.model, outputs.width, source, seed=config.seed, spec=spec)
    normalisation, augment = measure_pixels(config, store, fold.train, expected)
    without_averages = dataclasses.replace(config, average=dataclasses.replace(config.average, ema=0.0, swa=False))
    preprocess = Preprocess(normalisation, accelerator.device, spec)
    hold_norms, _ = norms_to_hold(config.model, source)
    placed = on_device(network, accelerator)
    start = Setup(fold, placed, outputs, source, store, store, preprocess, augment, hold_norms)  # no test image is seen
    start_from_probe(config, competition, start, first.size, metric_of(config, competition), accelerator)
    learner = make_learner(without_averages, placed, accelerator)
    lesson = from_labels(competition.task, competition.y, fold.train, store, outputs, config, accelerator.device)
    print(f"{config.model.name}: {source.why}\n{first.describe()}; {STEPS} of them for the range test", flush=True)

    rates = np.geomspace(LOWEST, HIGHEST, STEPS)
    orders = training_orders([dataclasses.replace(first, stop=STEPS)], augment, config.seed)
    losses = range_test(
        learner,
        lesson.objective,
        batches(store, orders, workers_beside(config.workers, accelerator), accelerator.device),
        preprocess,
        rates,
        config.seed,
        scaling=config.optimizer.scaling,
        hold_norms=hold_norms,
    )
    rates, smooth, found = rates[: len(losses)], smoothed(losses), suggest(rates, losses)
    folder = Path(config.paths.runs) / run_name(config) / "lr_find"
    columns = zip(rates.tolist(), losses.tolist(), smooth.tolist(), strict=True)
    write_csv(folder / "loss.csv", [dict(zip(("lr", "loss", "smoothed"), row, strict=True)) for row in columns])
    title = f"{config.model.name}, {config.optimizer.name}, {first.size} px, batch {first.total_batch}"
    marks = found._asdict()
    text = (
        f"steepest descent at optimizer.lr={found.steepest:.2g}, a tenth of where the loss is lowest {found.tenth:.2g}"
    )
    if config.model.start == "probe" and source.pretrained:  # little is left to fall: what it bears is what can be read
        marks = {"edge": found.edge}
        text = (
            f"the loss of the linear start begins to rise at optimizer.lr={found.edge:.2g}: a good peak for short runs"
        )
    picture = range_picture(folder / "loss.png", rates, losses, smooth, marks, title)
    print(text)
    print(f"wrote {picture}", flush=True)
