"""The network of a finished fold, and how it predicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from src.competition.kinds import task_of
from src.competition.kinds.number import Scaling
from src.config import Config, build
from src.data.cache import ImageStore
from src.data.preprocess import Preprocess
from src.data.spec import Normalisation
from src.errors import counted, first_few
from src.files import read_config, read_json
from src.fold.batch_size import batch_size_or_default
from src.fold.network import build_from, outputs_again, trained_model
from src.inference.predict import fill_unreadable, predict, softmax
from src.inference.tta import View
from src.log import say
from src.model.outputs import Outputs
from src.model.weights import WeightsSource
from src.runs.folder import Runs, fold_folder
from src.runs.opening import image_spec
from src.training.device import workers_beside


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
        batch_size=config.eval.batch_size or 2 * batch_size_or_default(config),
        workers=workers_beside(config.workers, accelerator),
        preprocess=preprocess,
    )


class TrainedFold(NamedTuple):
    """network: the kept one of a finished fold, in eval mode; size: the pixels that it was chosen at; prior (C,): what
    an image that cannot be read gets, or None in a run that was made before it was kept."""

    network: nn.Module
    normalisation: Normalisation
    size: int
    outputs: Outputs
    prior: np.ndarray | None


def load_network(runs: Runs | Path, run: str, k: int) -> TrainedFold:
    """Fold k of a finished run with weights of its own."""
    folder = fold_folder(runs, run, k)
    values, manifest = read_config(runs / run / "config.yaml"), read_json(folder / "manifest.json")
    config = build({key: values[key] for key in ("competition", "model", "loss") if key in values})
    task = task_of(config.competition.kind, np.array(manifest["classes"], np.str_))
    scaling = manifest.get("scaling")  # of numbers
    spec = image_spec(config.competition)
    outputs = outputs_again(config, task, None if scaling is None else Scaling(*map(tuple, scaling)))
    source = WeightsSource("run", folder / "weights.safetensors")
    network, expected = build_from(trained_model(values), outputs.width, source, spec=spec, trained=True)
    own = manifest.get("normalisation")  # a run with normalise=data has one of its own
    normalisation = Normalisation(tuple(own["mean"]), tuple(own["std"])) if own else expected
    prior = manifest.get("prior")
    return TrainedFold(
        network.eval(), normalisation, int(manifest["size"]), outputs, None if prior is None else np.array(prior)
    )


def predict_test(
    probabilities: Callable[..., np.ndarray],
    network: nn.Module,
    store: ImageStore,
    ids: np.ndarray,
    prior: np.ndarray,
    *,
    size: int,
    views: Sequence[View],
) -> tuple[np.ndarray, np.ndarray]:
    """(M, C) float32 of every test row `ids` (M,), and the numbers of those whose image cannot be read: they get
    `prior` (C,), with a warning. probabilities: from `make_predictor`; store: the test images, "mark"."""
    pred = probabilities(network, store, np.arange(len(ids)), size=size, views=views)
    filled, unreadable = fill_unreadable(pred, prior)
    if len(unreadable):
        say(unreadable_images(ids[unreadable]))
    return filled, unreadable


def unreadable_images(ids: np.ndarray) -> str:
    """What to say of the test rows `ids` (n,), whose images cannot be read."""
    images = counted(len(ids), "test image")
    return f"warning: {images} cannot be read ({first_few(ids.tolist())}) and will have the prior of the training rows"
