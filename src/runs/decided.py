"""How out-of-fold predictions are scored and test predictions submitted: by a decision where the metric asks for one.

A score with a decision is of rows that did not fit it: each fold by the others, or where there is but one, each half of
it by the other half. The submission takes the decision that is fitted on all out-of-fold rows there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.competition.decisions import Decision, fits_for, nested
from src.competition.folds import halves_of
from src.competition.links import pool
from src.competition.metrics import scores
from src.competition.tables import Competition
from src.config import Config
from src.files import read_json, write_json
from src.ids import find_rows
from src.predictions import Predictions
from src.runs.opening import groups_of
from src.runs.scoring import metric_of, reported

FILE = "decision.json"
PLAIN = "plain_"  # before the name of the metric: its score by the task's plain rule, undecided


@dataclass(frozen=True)
class Quoted:
    """scores: by metric, the deciding one nested; where something was fitted, its plain score beside it under PLAIN.
    decision: fitted on all of the rows; None: the plain rule."""

    scores: dict[str, float]
    plain: float
    decision: Decision | None


def quote(config: Config, competition: Competition, oof: Predictions) -> Quoted:
    """Score predictions with targets, of one fold or several."""
    assert oof.target is not None
    task, metric, new = competition.task, metric_of(config, competition), config.competition.new
    one = as_submitted(config, competition, task.encode(oof.target), oof)
    y = one.y
    found = scores(reported(config, competition), y, one.pred, strict=False)
    plain = found[metric.name]
    if config.competition.decide == "none" or not fits_for(metric, task, new):
        return Quoted(found, plain, None)
    groups, parts = one.groups, one.fold
    if len(np.unique(parts)) == 1:
        parts = halves_of(task.strata(y), groups, config.seed).astype(np.int64)
    pred, decision = nested(metric, task, y, one.pred, parts, groups=groups, seed=config.seed, new=new)
    decided = metric.function(y, pred)
    return Quoted({**found, metric.name: decided, PLAIN + metric.name: plain}, plain, decision)


@dataclass(frozen=True)
class Rows:
    """Rows of a submission: targets y (R, …), pred (R, C), fold (R,) int64, groups (R,) str or None."""

    y: np.ndarray
    pred: np.ndarray
    fold: np.ndarray
    groups: np.ndarray | None


def as_submitted(config: Config, competition: Competition, y: np.ndarray, oof: Predictions) -> Rows:
    """Out-of-fold rows as they would be submitted: where several pictures make one row, their predictions pooled.

    Pictures of one row in several folds make a row of each. Its target is the largest that its pictures have (one of
    them shows it), of numbers the mean.
    """
    rows, of_row = find_rows(competition.train.ids, oof.ids), competition.train.submitted
    if (rows < 0).any():  # of another table
        return Rows(y, oof.pred, oof.fold, None)
    groups, how = groups_of(config, competition, rows), config.competition.pool
    if of_row is None:
        return Rows(y, oof.pred, oof.fold, groups)
    keys = np.char.add(np.char.add(oof.fold.astype(np.str_), "\t"), of_row[rows])
    _, first, unit = np.unique(keys, return_index=True, return_inverse=True)
    unit = unit.reshape(-1)
    pred = pool(oof.pred, unit, len(first), how).astype(np.float32)
    if competition.task.numeric:
        pooled = pool(y, unit, len(first), "mean").astype(y.dtype)
    else:
        pooled = y[first].copy()
        np.maximum.at(pooled, unit, y)
    return Rows(pooled, pred, oof.fold[first], None if groups is None else groups[first])


def decide(decision: Decision | None, pred: np.ndarray) -> np.ndarray:
    return pred if decision is None else decision.apply(pred)


def save_decision(folder: Path, decision: Decision | None, folds: list[int]) -> None:
    """Write it beside a run's config.yaml, with the folds whose rows it was fitted on; remove it if there is none."""
    if decision is None:
        (folder / FILE).unlink(missing_ok=True)
    else:
        write_json(folder / FILE, {**decision.to_json(), "fitted_on_folds": folds})


def load_decision(folder: Path) -> Decision | None:
    path = folder / FILE
    return Decision.from_json(read_json(path)) if path.is_file() else None
