"""Pooled features of a backbone for every train and test row: made once, kept under what they were made from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from src.competition.contents import contents_of_pictures
from src.competition.tables import Competition
from src.config import Config
from src.errors import UserError
from src.files import contents_of, read_json, write_json
from src.fold.network import architecture
from src.log import say
from src.predictions import FEATURES as FILE
from src.predictions import MADE_FROM, Features, load_predictions, save_features
from src.runs.claims import run_name
from src.runs.folder import finished_folds, fold_folder, open_runs
from src.runs.opening import image_spec, open_competition, open_images
from src.runs.start import TEST, check_data


def extract_features(config: Config) -> None:
    """runs/<run>/features.npz with a backbone as it comes, or fold<k>/features.npz with each network of a trained run.

    A fold's network makes features of all rows: of those it held out, which are the out-of-fold features, and of those
    it was trained on, for a second-level learner of the same fold (features of two folds' networks do not share axes).
    Features that were made from the same weights, size, crop, views and images are used again.
    """
    competition = open_competition(config)
    run, runs = run_name(config), open_runs(config.paths)
    trained = [k for k in finished_folds(runs, run) if (fold_folder(runs, run, k) / "weights.safetensors").is_file()]
    if trained:
        check_data(runs, run, f"run={run}", competition, but=TEST)
    places = {k: runs.own / run / f"fold{k}" for k in trained} or {-1: runs.own / run}
    todo = {}
    for k, folder in places.items():
        wanted = made_from(config, competition, fold_folder(runs, run, k) if k >= 0 else folder, k)
        if not (folder / FILE).is_file() or not (folder / MADE_FROM).is_file():
            todo[k] = wanted
            continue
        before = read_json(folder / MADE_FROM)
        changed = [f"{key}: {before.get(key)} -> {wanted[key]}" for key in wanted if before.get(key) != wanted[key]]
        if changed:
            raise UserError(
                f"{folder / FILE}: was made from something else ({'; '.join(changed)}); "
                f"{'delete it' if trained else 'choose another run=NAME or delete it'}"
            )
        print(f"{folder / FILE}: made before, used again", flush=True)
    if todo:
        _extract(config, competition, places, todo)
    print(f"for a second level: ./run.sh stack features=[{run}] …", flush=True)


def made_from(config: Config, competition: Competition, folder: Path, k: int) -> dict[str, Any]:
    """What the features depend on, as plain values; known without loading torch, so that using them again is quick."""
    file = folder / "weights.safetensors" if k >= 0 else Path(config.model.weights) if config.model.weights else None
    return {
        "model": config.model.name,
        "options": config.model.options,
        "network": {key: value for key, value in architecture(config.model).items() if key != "options"} or None,
        "weights": contents_of(file) if file and file.is_file() else f"pretrained={config.model.pretrained}",
        "size": config.size,
        "crop": config.eval.crop,
        "views": config.tta,
        "data": f"{contents_of_pictures(competition)}, up to {config.competition.max_megapixels:g} megapixels",
    }


def _extract(
    config: Config, competition: Competition, places: dict[int, Path], todo: dict[int, dict[str, Any]]
) -> None:
    from src.data.preprocess import Preprocess
    from src.fold.backbone import keep_backbone
    from src.fold.network import build_from, on_device
    from src.fold.predictor import load_network, make_predictor
    from src.inference.tta import parse_views
    from src.model.layers import without_classifier
    from src.model.weights import find_weights
    from src.training.device import make_accelerator

    accelerator = make_accelerator(config.device, config.precision)
    runs, views = open_runs(config.paths), parse_views(config.tta)
    short_side, spec = round(config.size / config.eval.crop), image_spec(config.competition)
    count = len(competition.train.ids) + len(competition.test.ids)
    stores = [
        open_images(config, competition, paths, short_side=short_side, unreadable="blank")
        for paths in (competition.train.images, competition.test.images)
    ]
    for k, wanted in todo.items():
        began = time.monotonic()
        if k >= 0:
            own = load_network(runs, run_name(config), k)
            network, normalisation = own.network, own.normalisation
            source = f"fold {k}"
        else:
            found = find_weights(
                config.model.name, config.model.pretrained, config.model.weights, Path(config.paths.input)
            )
            classes = len(competition.task.names)
            network, normalisation = build_from(config.model, classes, found, seed=config.seed, spec=spec)
            source = found.why
        if k < 0 and accelerator.is_main_process:
            keep_backbone(places[k], config, network, normalisation, classes)
        without_classifier(network)
        on_device(network, accelerator)
        preprocess = Preprocess(normalisation, accelerator.device, spec)
        activations = make_predictor(config, accelerator, preprocess, activation=lambda x: x.flatten(1))
        both = [activations(network, store, np.arange(len(store)), size=config.size, views=views) for store in stores]
        if accelerator.is_main_process:
            ids = np.concatenate([competition.train.ids, competition.test.ids])
            held_out = None if k < 0 else load_predictions(fold_folder(runs, run_name(config), k) / "oof.npz").ids
            save_features(places[k] / FILE, Features(ids, np.concatenate(both), k, held_out, len(competition.train)))
            write_json(places[k] / MADE_FROM, wanted)
        pace = count / (time.monotonic() - began)
        say(f"{places[k] / FILE}: {count} x {both[0].shape[1]}, {source}, {pace:.0f} img/s")
