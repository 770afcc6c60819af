"""The network of a finished fold, and how it predicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from src.competition.tables import Competition
from src.config import Config, build
from src.data.cache import ImageStore
from src.data.preprocess import Preprocess
from src.data.spec import Normalisation
from src.errors import first_few
from src.files import read_config, read_json
from src.fold.batch_size import usual
from src.fold.network import build_from, trained_model
from src.inference.predict import fill_unreadable, predict, softmax
from src.inference.tta import View
from src.log import say
from src.model.weights import WeightsSource
from src.runs.folder import fold_folder
from src.runs.opening import image_spec
from src.training.device import loader_workers


def make_predictor(
    config: Config, accelerator: Any, preprocess: Preprocess, activation: Callable[[Tensor], Tensor] = softmax
) -> Callable[..., np.ndarray]:
    """`inference.predict.predict` with all that the configuration and the network decide: what is left
    to give is (model, store, rows, size=, views=)."""
    return partial(
        predict,
        activation=activation,
        accelerator=accelerator,
        crop=config.eval.crop,
        batch_size=config.eval.batch_size or 2 * usual(config),
        workers=loader_workers(config.workers),
        preprocess=preprocess,
    )


def load_network(runs: Path, run: str, k: int, classes: int) -> tuple[nn.Module, Normalisation, int]:
    """The kept network of fold k of a finished run, the normalisation that it expects and the size it was chosen at."""
    folder = fold_folder(runs, run, k)
    config, manifest = read_config(runs / run / "config.yaml"), read_json(folder / "manifest.json")
    source = WeightsSource("run", folder / "weights.safetensors")
    spec = image_spec(build({"competition": config["competition"]}).competition)
    network, normalisation = build_from(trained_model(config), classes, source, spec=spec, trained=True)
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
    views: Sequence[View],
) -> tuple[np.ndarray, np.ndarray]:
    """(M, C) float32 of every test row, and the numbers of those whose image cannot be read: they get the classes'
    shares among `labels` (n,), with a warning. probabilities: from `make_predictor`; store: the test images, "mark"."""
    pred = probabilities(network, store, np.arange(len(competition.test_ids)), size=size, views=views)
    pred, unreadable = fill_unreadable(pred, np.bincount(labels, minlength=len(competition.classes)) / len(labels))
    if len(unreadable):
        names = first_few(competition.test_ids[unreadable].tolist())
        say(f"warning: {len(unreadable)} test images cannot be read ({names}); they get the classes' shares")
    return pred, unreadable
