"""Predict the test rows with the finished folds of a run: for a hidden test set, other views or another size."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from src.competition.submission import submission_table, write_submission
from src.config import Config
from src.data.cache import ImageStore
from src.errors import UserError
from src.files import read_config, read_json
from src.fold.predictor import load_network, make_predictor, predict_test
from src.inference.tta import parse_views
from src.predictions import Predictions, fold_mean
from src.runs.claims import run_lock, run_name
from src.runs.folder import finished_folds, fold_folder
from src.runs.opening import open_competition
from src.training.device import make_accelerator, say


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
    trained = read_config(runs / run / "config.yaml")["size"]
    parts, views = [], parse_views(config.tta)
    for k in folds:
        model, normalisation, kept_size = load_network(runs, run, k, len(competition.classes))
        if list(competition.classes) != read_json(fold_folder(runs, run, k) / "manifest.json")["classes"]:
            raise UserError(f"run={run}: was trained on other classes than {competition.root} has")
        # the size of the last stage, which is what the weights were chosen at, unless the user asks for another
        size = kept_size if config.size == trained else config.size
        limit = config.competition.max_megapixels
        store = ImageStore(
            competition.root, competition.test_paths, round(size / config.eval.crop), None, "mark", limit
        )
        pred, _ = predict_test(
            make_predictor(config, accelerator, normalisation),
            model.to(accelerator.device, memory_format=torch.channels_last),
            store,
            competition,
            competition.labels,
            size=size,
            views=views,
            say=partial(say, accelerator),
        )
        parts.append(Predictions(competition.test_ids, pred, competition.classes, np.full(len(pred), k)))
        say(accelerator, f"fold {k}: {len(pred)} test rows predicted")
    if accelerator.is_main_process:
        mean = fold_mean(parts)
        path = Path(config.paths.submissions) / f"{run}.csv"
        table = submission_table(competition.sample, mean.ids, mean.pred, mean.classes.tolist())
        with run_lock(config, run):
            write_submission(path, table, competition.sample, mean.classes.tolist())
        print(f"wrote {path}")
