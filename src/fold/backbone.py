"""A backbone as it comes, kept beside the features that it made, so that it makes those of other rows too."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from src.config import Config, build
from src.data.spec import Normalisation
from src.files import read_json, save_weights, write_json
from src.fold.network import build_from
from src.model.weights import WeightsSource
from src.runs.opening import image_spec

FILE, WEIGHTS = "backbone.json", "backbone.safetensors"


def keep_backbone(folder: Path, config: Config, network: nn.Module, normalisation: Normalisation, outputs: int) -> None:
    """Write the network, with its classifier of so many `outputs`, as `load_backbone` reads it."""
    save_weights(folder / WEIGHTS, network.state_dict(), {"model": config.model.name})
    made: dict[str, Any] = {
        "model": dataclasses.asdict(config.model),
        "competition": dataclasses.asdict(config.competition),
        "outputs": outputs,
        "normalisation": dataclasses.asdict(normalisation),
        "size": config.size,
        "short_side": round(config.size / config.eval.crop),
        "crop": config.eval.crop,
        "views": config.tta,
        "precision": config.precision,
    }
    write_json(folder / FILE, made)


def load_backbone(folder: Path) -> tuple[nn.Module, Normalisation]:
    """The kept network, in eval mode, its classifier still there, and how its images are normalised."""
    kept = read_json(folder / FILE)
    config = build({key: kept[key] for key in ("model", "competition")})
    source = WeightsSource("run", folder / WEIGHTS)
    spec = image_spec(config.competition)
    network, _ = build_from(config.model, kept["outputs"], source, spec=spec, trained=True)
    own = kept["normalisation"]
    return network.eval(), Normalisation(tuple(own["mean"]), tuple(own["std"]))
