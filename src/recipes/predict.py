"""Predict the test rows with the finished folds of a run: for a hidden test set, other views or another size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.artefacts import Predictions, finished_folds, fold_folder, fold_mean, read_config, read_json
from src.competition.submission import submission_table, write_submission
from src.competition.tables import Competition
from src.config import Config
from src.data.cache import ImageStore
from src.errors import UserError, first_few
from src.inference.predict import fill_unreadable, predict, softmax
from src.inference.tta import Pose, parse_views
from src.model.backbone import Normalisation
from src.model.weights import WeightsSource
from src.recipes.batch_size import usual
from src.recipes.network import build_from, trained_model
from src.recipes.task import open_competition, run_lock, run_name
from src.training.device import loader_workers, make_accelerator, say


def make_predictor(
    config: Config, accelerator: Any, normalisation: Normalisation, activation: Callable[[Tensor], Tensor] = softmax
) -> Callable[..., np.ndarray]:
    """`inference.predict.predict` with all that the configuration and the network's normalisation decide: what is left
    to give is (model, store, rows, size=, views=)."""
    return partial(
        predict,
        activation=activation,
        accelerator=accelerator,
        crop=config.eval.crop,
        batch_size=config.eval.batch_size or 2 * usual(config),
        workers=loader_workers(config.workers),
        mean=torch.tensor(normalisation.mean, device=accelerator.device),
        std=torch.tensor(normalisation.std, device=accelerator.device),
    )


def load_network(runs: Path, run: str, k: int, classes: int) -> tuple[nn.Module, Normalisation, int]:
    """The kept network of fold k of a finished run, the normalisation that it expects and the size it was chosen at."""
    folder = fold_folder(runs, run, k)
    config, manifest = read_config(runs / run / "config.yaml"), read_json(folder / "manifest.json")
    source = WeightsSource("run", folder / "weights.safetensors")
    network, normalisation = build_from(trained_model(config), classes, source, trained=True)
    if "normalisation" in manifest:  # a run with normalise=data has one of its own
        normalisation = Normalisation(*(tuple(manifest["normalisation"][of]) for of in ("mean", "std")))
    return network.eval(), normalisation, int(manifest["size"])


def predict_test(
    probabilities: Callable[..., np.ndarray],
    network: nn.Module,
    store: ImageStore,
    competition: Competition,
    labels: np.ndarray,
    *,
    size: int,
    views: Sequence[Pose],
    say: Callable[[str], None],
) -> tuple[np.ndarray, np.ndarray]:
    """(M, C) float32 of every test row, and the numbers of those whose image cannot be read: they get the classes'
    shares among `labels` (n,), which is said. probabilities: from `make_predictor`; store: the test images, "mark"."""
    pred = probabilities(network, store, np.arange(len(competition.test_ids)), size=size, views=views)
    pred, unreadable = fill_unreadable(pred, np.bincount(labels, minlength=len(competition.classes)) / len(labels))
    if len(unreadable):
        names = first_few(competition.test_ids[unreadable].tolist())
        say(f"warning: {len(unreadable)} test images cannot be read ({names}); they get the classes' shares")
    return pred, unreadable


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
            f"run={run}: has no weights of its own, it combines {', '.join([*config.runs, *config.features])}; "
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
