"""What finished runs left behind, read for a report."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.competition.kinds import task_of
from src.competition.tables import Competition
from src.config import build
from src.errors import UserError
from src.files import read_config, read_json
from src.predictions import concatenate, load_predictions
from src.reporting.report.record import Record
from src.runs.folder import Runs, finished_folds, fold_folder
from src.runs.scoring import metric_of


def load_record(runs: Runs, name: str, competition: Competition) -> Record:
    """All finished folds of a run. Raises UserError if none is, or if it is of other classes than the competition."""
    folds = finished_folds(runs, name)
    if not folds or not (runs / name / "cv.json").is_file():
        raise UserError(f"run={name}: no fold is finished; train it first")
    config = read_config(runs / name / "config.yaml")
    folders = {k: fold_folder(runs, name, k) for k in folds}
    oof = concatenate([load_predictions(folder / "oof.npz") for folder in folders.values()])
    if not np.array_equal(oof.classes, competition.task.names) or oof.target is None:
        raise UserError(f"run={name}: was made for other classes than {competition.root} has")
    task = task_of(oof.kind, oof.classes)
    members = runs / name / "members.json"
    return Record(
        name=name,
        config=config,
        cv=read_json(runs / name / "cv.json"),
        manifests={k: read_json(folder / "manifest.json") for k, folder in folders.items()},
        histories={k: read_history(folder / "history.csv") for k, folder in folders.items()},
        task=task,
        metric=metric_of(build(config), competition),
        oof=oof,
        y=task.encode(oof.target),
        members=read_json(members) if members.is_file() else None,
    )


def read_history(path: Path) -> list[dict[str, float]]:
    """The lines of history.csv; none where there is no such file."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def trained_under(runs: Runs, name: str, depth: int = 5) -> list[str]:
    """The runs with weights of their own that a run is made of, itself if it is one of them, in order."""
    if any((runs / name).glob("fold*/weights.safetensors")):
        return [name]
    file = runs / name / "config.yaml"
    if not file.is_file() or not depth:
        return []
    below: Sequence[Any] = read_config(file).get("runs") or ()
    return list(dict.fromkeys(found for member in below for found in trained_under(runs, str(member), depth - 1)))
