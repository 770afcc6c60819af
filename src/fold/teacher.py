"""The teacher of one fold: the networks of a finished run, or of all runs of an ensemble, that never saw the fold."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from torch import nn

from src.competition.task import Task
from src.config import migrate
from src.data.spec import Normalisation
from src.ensembling.blend import FITTED
from src.errors import UserError, counted, first_few
from src.files import read_config, read_json
from src.fold.predictor import load_network
from src.ids import only_in
from src.model.ensemble import Ensemble
from src.predictions import load_predictions
from src.runs.folder import Runs, finished, finished_folds, fold_folder

# How an ensemble's members are combined, where a network can do it: a rank or a vote says nothing about one image.
KINDS: dict[str, Literal["mean", "geometric"]] = {
    "soft": "mean",
    "climb": "mean",
    "convex": "mean",
    "geometric": "geometric",
}


def load_teacher(
    runs: Runs | Path, run: str, k: int, *, inputs: Normalisation, task: Task, held_out: np.ndarray
) -> nn.Module:
    """A network of what `run` learnt for fold k; it takes images normalised for `inputs` and returns log-probabilities,
    or the values of a task of numbers.

    held_out (V,) str ids of the fold: a teacher that may have seen a held-out row, or knows other columns than `task`,
    is refused (UserError), and so is an ensemble that no network can stand for.
    """
    folder = fold_folder(runs, run, k)
    if not finished(folder):
        raise UserError(f"teacher={run}: {folder} is not finished; train it first (./run.sh run={run} fold={k})")
    check_unseen(f"teacher={run}", folder, k, task.names, held_out)
    if (folder / "weights.safetensors").is_file():
        own = load_network(runs, run, k)
        kind: Literal["mean", "values"] = "values" if task.numeric else "mean"
        alone = Ensemble([own.network], [own.size], [own.normalisation], [1.0], inputs, kind, [own.outputs.logs])
        return alone.eval().requires_grad_(False)
    config = migrate(read_config(runs / run / "config.yaml"))
    method = config["ensemble"]["method"] if config.get("combined") == "ensemble" else None
    if method not in KINDS:
        raise UserError(
            f"teacher={run}: {'a stack' if method is None else f'ensemble.method={method}'} cannot teach, it says "
            f"nothing about one image alone; make an ensemble with ensemble.method={', '.join(KINDS)}"
        )
    manifest = read_json(folder / "manifest.json")
    if manifest.get("fitted_on_itself", method in FITTED and finished_folds(runs, run) == [k]):
        raise UserError(
            f"teacher={run}: its weights were fitted on the rows that fold {k} holds out, as it has no other fold, and "
            "would tell the student of them; finish another fold of its members and make it again, or take "
            "ensemble.method=soft"
        )
    weights = {name: weight for name, weight in manifest["weights"].items() if weight > 0}
    members = [load_teacher(runs, name, k, inputs=inputs, task=task, held_out=held_out) for name in weights]
    as_they_are = [lambda said: said] * len(members)  # members say log-probabilities or values already
    together = Ensemble(
        members,
        [0] * len(members),
        [inputs] * len(members),
        [*weights.values()],
        inputs,
        "values" if task.numeric else KINDS[method],
        as_they_are,
    )
    return together.eval().requires_grad_(False)


def check_unseen(said: str, folder: Path, k: int, classes: np.ndarray, held_out: np.ndarray) -> None:
    """UserError, beginning with the key and value `said`, if the finished fold in `folder` knows other classes (C,) or
    may have seen one of the rows held_out (V,) str ids, which fold k of another run holds out."""
    oof = load_predictions(folder / "oof.npz")
    if not np.array_equal(oof.classes, classes):
        raise UserError(f"{said}: knows other classes ({first_few(oof.classes.tolist())}) than this competition")
    seen = only_in(held_out, oof.ids)
    if len(seen):
        raise UserError(
            f"{said}: was trained on {counted(len(seen), 'row')} that fold {k} holds out ({first_few(seen)}); "
            "both runs need the same fold file"
        )
