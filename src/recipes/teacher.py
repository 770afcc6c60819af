"""The teacher of one fold: the networks of a finished run, or of all runs of an ensemble, that never saw the fold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from src.artefacts import finished, fold_folder, load_predictions, read_config, read_json
from src.errors import UserError, first_few
from src.model.backbone import Normalisation, build_model
from src.model.ensemble import Ensemble
from src.model.weights import WeightsSource

# How an ensemble's members are combined, where a network can do it: a rank or a vote says nothing about one image.
KINDS = {"soft": "mean", "climb": "mean", "convex": "mean", "geometric": "geometric"}


def load_teacher(
    runs: Path, run: str, k: int, *, inputs: Normalisation, classes: np.ndarray, held_out: np.ndarray
) -> nn.Module:
    """A network of what `run` learnt for fold k; it takes images normalised for `inputs` and returns log-probabilities.

    classes (C,) and held_out (V,) str ids of the fold: a teacher that may have seen a held-out row, or knows other
    classes, is refused (UserError), and so is an ensemble that no network can stand for.
    """
    folder = fold_folder(runs, run, k)
    if not finished(folder):
        raise UserError(f"teacher={run}: {folder} is not finished; train it first (./run.sh run={run} fold={k})")
    _check(run, k, folder, classes, held_out)
    manifest = read_json(folder / "manifest.json")
    if "members" in manifest:
        if manifest["method"] not in KINDS:
            raise UserError(
                f"teacher={run}: method={manifest['method']} cannot teach; make an ensemble with one of "
                f"{', '.join(KINDS)}"
            )
        names = [name for name, weight in manifest["members"].items() if weight > 0]
        teachers = [load_teacher(runs, name, k, inputs=inputs, classes=classes, held_out=held_out) for name in names]
        weights = [manifest["members"][name] for name in names]
        return combined(teachers, weights, inputs, KINDS[manifest["method"]])
    if not (folder / "weights.safetensors").is_file():
        raise UserError(f"teacher={run}: {folder} holds no weights; take a trained run, or an ensemble of such runs")
    network, normalisation, size = load_network(runs, run, k, len(classes))
    return Ensemble([network], [size], [normalisation], [1.0], inputs).eval().requires_grad_(False)


def combined(teachers: Sequence[nn.Module], weights: Sequence[float], inputs: Normalisation, kind: str) -> nn.Module:
    """Teachers that all take `inputs`, at whatever size they are given, as one."""
    return (
        Ensemble(
            teachers,
            [0] * len(teachers),
            [inputs] * len(teachers),
            weights,
            inputs,
            kind,  # type: ignore[arg-type]
        )
        .eval()
        .requires_grad_(False)
    )


def load_network(runs: Path, run: str, k: int, classes: int) -> tuple[nn.Module, Normalisation, int]:
    """The kept network of fold k of a finished run, the normalisation that it expects and the size it was chosen at."""
    folder = fold_folder(runs, run, k)
    config, manifest = read_config(runs / run / "config.yaml"), read_json(folder / "manifest.json")
    source = WeightsSource("file", folder / "weights.safetensors")
    network, normalisation = build_model(config["model"]["name"], classes, source, options=config["model"]["options"])
    return network.eval(), normalisation, int(manifest["size"])


def _check(run: str, k: int, folder: Path, classes: np.ndarray, held_out: np.ndarray) -> None:
    oof = load_predictions(folder / "oof.npz")
    if not np.array_equal(oof.classes, classes):
        raise UserError(f"teacher={run}: knows other classes ({first_few(oof.classes.tolist())}) than this competition")
    seen = np.setdiff1d(held_out, oof.ids)
    if len(seen):
        raise UserError(
            f"teacher={run}: was trained on {len(seen)} rows that fold {k} holds out ({first_few(seen.tolist())}); "
            "teacher and student need the same fold file"
        )
