"""Predict the test rows with the finished folds of a run: for a hidden test set, other views or another size."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np

from src.competition.submission import submission_table, write_submission
from src.config import Config
from src.data.preprocess import Preprocess
from src.errors import UserError, first_few
from src.files import read_config, read_json
from src.fold.network import on_device
from src.fold.predictor import load_network, make_predictor, predict_test
from src.inference.tta import parse_views
from src.log import say
from src.predictions import Predictions, fold_mean
from src.runs.claims import run_lock, run_name
from src.runs.decided import decide, load_decision
from src.runs.folder import finished_folds, fold_folder
from src.runs.opening import image_spec, open_competition, open_images
from src.training.device import make_accelerator


def predict_run(config: Config) -> None:
    """Writes submissions/<run>.csv for the test rows that are under `competition.root` now."""
    accelerator = make_accelerator(config.device, config.precision)
    with accelerator.main_process_first():
        competition = open_competition(config)
    run, runs = run_name(config), Path(config.paths.runs)
    folds = finished_folds(runs, run)
    if not folds:
        raise UserError(f"run={run}: no fold is finished; train it first")
    if not (fold_folder(runs, run, folds[0]) / "weights.safetensors").is_file():
        raise UserError(
            f"run={run}: has no weights of its own, it combines {', '.join([*config.runs, *config.stack.features])}; "
            "predict with those"
        )
    task = competition.task
    configured = read_config(runs / run / "config.yaml")["size"]
    parts, views = [], parse_views(config.tta)
    for k in folds:
        trained = load_network(runs, run, k)
        if list(competition.task.names) != read_json(fold_folder(runs, run, k) / "manifest.json")["classes"]:
            raise UserError(f"run={run}: was trained on other classes than {competition.root} has")
        # the size of the last stage, which is what the weights were chosen at, unless the user asks for another
        size = trained.size if config.size == configured else config.size
        short_side, spec = round(size / config.eval.crop), image_spec(config.competition)
        uncached = dataclasses.replace(config, cache=False)  # the test rows are predicted once
        store = open_images(uncached, competition, competition.test.images, short_side=short_side, unreadable="mark")
        preprocess = Preprocess(trained.normalisation, accelerator.device, spec)
        pred, unreadable = predict_test(
            make_predictor(config, accelerator, preprocess, trained.outputs.predict),
            on_device(trained.network, accelerator),
            store,
            competition.test.ids,
            task.prior(competition.y, config.competition.metric) if trained.prior is None else trained.prior,
            size=size,
            views=views,
        )
        parts.append(
            Predictions(
                competition.test.ids, pred, competition.task.names, np.full(len(pred), k), kind=competition.task.kind
            )
        )
        say(f"fold {k}: {len(pred)} test rows predicted")
    if accelerator.is_main_process:
        mean = fold_mean(parts)
        path = Path(config.paths.submissions) / f"{run}.csv"
        decision = None if config.competition.decide == "none" else load_decision(runs / run)
        table = submission_table(
            competition.sample, mean.ids, mean.pred, competition.task, competition.links, partial(decide, decision)
        )
        with run_lock(config, run):
            write_submission(path, table, competition.sample, competition.task, competition.links)
        if decision is not None:
            print(f"decided: {decision.note}")
        if len(unreadable):
            names = first_few(competition.test.ids[unreadable].tolist(), 10)
            print(f"warning: {len(unreadable)} of {len(mean.ids)} rows have the prior, for want of an image ({names})")
        print(f"wrote {path}")
