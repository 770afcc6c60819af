"""What a pruned run starts from, fold by fold, and what it has become: size, work, pace and score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from src.config import PruneConfig
from src.data.spec import ImageSpec
from src.errors import UserError
from src.files import read_json
from src.fold.network import on_device
from src.fold.predictor import load_network
from src.fold.teacher import check_unseen
from src.model.report import inspect
from src.model.weights import WeightsSource
from src.runs.folder import Runs, finished, finished_folds, fold_folder
from src.training.budget import forward_seconds

BATCH = 32  # images of a timed forward pass


def weights_to_prune(runs: Runs | Path, run: str, k: int, classes: np.ndarray, held_out: np.ndarray) -> WeightsSource:
    """The weights of fold k of `run`. Raises UserError if that fold is not finished, has no weights of its own, knows
    other classes (C,) or may have seen one of the rows held_out (V,) str ids."""
    folder = fold_folder(runs, run, k)
    if not finished(folder):
        raise UserError(f"prune.run={run}: {folder} is not finished; train it first (./run.sh run={run} fold={k})")
    if not (folder / "weights.safetensors").is_file():
        raise UserError(f"prune.run={run}: has no weights of its own, it combines others; prune one of those")
    check_unseen(f"prune.run={run}", folder, k, classes, held_out)
    return WeightsSource("run", folder / "weights.safetensors", f"pruned weights of fold {k} of {run}")


def before_and_after(
    runs: Runs | Path,
    config: PruneConfig,
    k: int,
    network: nn.Module,
    size: int,
    score: float,
    accelerator: Any,
    spec: ImageSpec,
) -> dict[str, Any] | None:
    """For the manifest: what fold k of `config.run` is, at its own size in pixels, and what `network` is now."""
    if config.run is None:
        return None
    manifest = read_json(fold_folder(runs, config.run, k) / "manifest.json")
    old = load_network(runs, config.run, k)
    cost = _cost(on_device(old.network, accelerator), old.size, accelerator, spec)
    before = {**cost, "size": old.size, "score": manifest["score"]}
    after = {**_cost(network, size, accelerator, spec), "size": size, "score": score}
    return {"run": config.run, "ratio": config.ratio, "before": before, "after": after}


def _cost(network: nn.Module, size: int, accelerator: Any, spec: ImageSpec) -> dict[str, float | None]:
    """Parameters, multiply-adds of an image (None where they cannot be counted), images per second of a forward pass
    in this process."""
    report = inspect(network, size, spec)
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "macs": None if report is None else report.macs,
        "images_per_second": 1 / forward_seconds(network, spec, BATCH, size, accelerator),
    }


def comparison(runs: Runs | Path, run: str) -> str:
    """A table of every finished fold of the pruned run `run`: before → after."""
    columns = {
        "M parameters": ("parameters", 1e-6, ".3f"),
        "G multiply-adds": ("macs", 1e-9, ".4f"),
        "img/s forward": ("images_per_second", 1.0, ".0f"),
        "score": ("score", 1.0, ".4f"),
    }
    lines = [f"{'before → after':<16}" + "".join(f"{name:>20}" for name in columns)]
    for k in finished_folds(runs, run):
        pruned = read_json(fold_folder(runs, run, k) / "manifest.json")["pruned"]
        cells = []
        for key, unit, form in columns.values():
            values = [pruned[at][key] for at in ("before", "after")]
            cells.append(" → ".join("?" if value is None else format(value * unit, form) for value in values))
        lines.append(f"  fold {k:<9}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)
