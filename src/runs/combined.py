"""What ensemble, stack and soup share: members checked against the competition, results written as a run's folds."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from src.competition.contents import contents_of_data
from src.competition.metrics import Metric
from src.competition.tables import Competition
from src.config import Config
from src.ensembling.learners import save_tree
from src.errors import UserError, first_few
from src.ids import differ, find_rows
from src.predictions import Predictions
from src.runs.claims import claim_run, run_name
from src.runs.decided import quote
from src.runs.folder import finished_folds, fold_folder, open_runs
from src.runs.made_by import made_by
from src.runs.members import Members, load_members
from src.runs.output import FoldSummary, save_fold
from src.runs.scoring import metric_of
from src.runs.start import check_data, claim_data
from src.runs.summary import summarise_run
from src.tracking import NoTracker

SECOND_LEVEL = "stack.npz"  # in a fold of a stack: its model, how blocks are scaled and columns are encoded


@dataclasses.dataclass(frozen=True)
class FoldResult:
    """One fold of a second-level run; its rows are those of the out-of-fold predictions with this fold."""

    test: np.ndarray  # (M, C) float32
    kept: str  # what was fitted, for the table of the folds
    weights: Mapping[str, float]  # by member or block
    notes: Mapping[str, Any]  # further entries of the manifest
    state: Mapping[str, Any] | None = None  # a network of its own (a soup); an ensemble lies in its members
    model: Mapping[str, Any] | None = None  # of a stack: what `learners.save_tree` writes


def open_members(config: Config, competition: Competition) -> Members:
    """`config.runs`, all their finished folds or the one of `config.fold`. Raises UserError if they are of others."""
    fold = None if config.fold == "all" else int(config.fold)
    runs = open_runs(config.paths)
    members = load_members(runs, config.runs, fold)
    for what, mine, theirs in (
        ("classes", competition.task.names, members.task.names),
        ("test rows", np.sort(competition.test.ids), np.sort(members.test_ids)),
    ):
        if not np.array_equal(mine, theirs):
            raise UserError(
                f"runs: {members.names[0]!r} has other {what} than {competition.root}: "
                f"{differ(mine, theirs) or 'in another order'}; "
                "set competition.root= to the data that it was trained on"
            )
    data = contents_of_data(competition)
    for name in members.names:
        check_data(runs, name, "runs", competition, now=data)
    now = competition.task.cells(competition.y[rows_of(competition, members.ids)])
    then = members.task.cells(members.y)
    moved = np.flatnonzero(now != then)
    if len(moved):
        examples = [f"{members.ids[row]}: {then[row]} -> {now[row]}" for row in moved[:4].tolist()]
        raise UserError(
            f"runs: {len(moved)} targets in {competition.root} are not those that {members.names[0]!r} was scored with "
            f"({first_few(examples)}); train the runs again, or restore the table"
        )
    return members


def rows_of(competition: Competition, ids: np.ndarray) -> np.ndarray:
    """The training rows (N,) int64 of `ids` (N,). UserError for ids that the competition lacks."""
    rows = find_rows(competition.train.ids, ids)
    unknown = ids[rows < 0].tolist()
    if unknown:
        raise UserError(
            f"runs: {len(unknown)} of their rows are not in {competition.root} ({first_few(unknown)}); "
            "set competition.root= to the data that they were trained on"
        )
    return rows


def named(config: Config, combined: Literal["ensemble", "stack", "soup"], default: str) -> Config:
    """Fill in by which verb the run is made of others, and its name; a run cannot be a member of itself."""
    config = dataclasses.replace(config, combined=combined, run=config.run or default)
    if run_name(config) in config.runs:
        raise UserError(f"run={config.run}: is one of its own runs=[{','.join(config.runs)}]; choose another name")
    return config


def save_run(
    config: Config,
    competition: Competition,
    oof: Predictions,
    test_ids: np.ndarray,
    results: Mapping[int, FoldResult],
    began: float,
) -> Path:
    """Write each fold of `results` as a finished fold of `config.run`, then cv.json and the submission.

    oof has all rows of these folds, with targets; `began` is a time.monotonic. A run of the same configuration is
    made again. Raises UserError if the run exists with another configuration or with folds that are not made now.
    """
    run, runs = run_name(config), Path(config.paths.runs)
    folder = claim_run(config, run)
    claim_data(folder, competition, None)
    others = sorted(set(finished_folds(runs, run)) - set(results))
    if others:
        raise UserError(
            f"run={run}: {folder} has fold {others[0]} too, which would be of another fit; choose another name with "
            "run=NAME, or delete the folder"
        )
    task, metric = competition.task, metric_of(config, competition)
    seconds = (time.monotonic() - began) / len(results)
    for k, result in results.items():
        own = oof.take(np.flatnonzero(oof.fold == k))
        place = fold_folder(runs, run, k)
        (place / "manifest.json").unlink(missing_ok=True)  # while its files are replaced, the fold is not finished
        if result.model is None:
            (place / SECOND_LEVEL).unlink(missing_ok=True)
        else:
            save_tree(place / SECOND_LEVEL, dict(result.model))
        notes = {"members": list(config.runs), "features": list(config.stack.features), "seconds": {"total": seconds}}
        notes["made_by"] = made_by()
        quoted = quote(config, competition, own)
        summary = FoldSummary(
            run=run,
            fold=k,
            competition=competition.name,
            metric=metric,
            scores=quoted.scores,
            plain=quoted.plain,
            decision=quoted.decision,
            kept=result.kept,
            weights=result.weights,
            notes={**notes, **result.notes},
        )
        test = Predictions(test_ids, result.test, oof.classes, np.full(len(test_ids), k), kind=oof.kind)
        save_fold(place, summary, task, oof=own, test=test, weights=result.state, history=(), tracker=NoTracker())
    summarise_run(config, competition, run)
    return folder


def compared(metric: Metric, member_scores: Mapping[str, float], nested: float, plain: float) -> str:
    """`nested 0.9, plain 0.91 (…), best single member a 0.88` in one line."""
    text = f"{metric.name} nested {nested:.4f}   plain {plain:.4f} (on the rows that it was fitted on)"
    if member_scores:
        best = metric.best(member_scores)
        text += f"   best single member {best} {member_scores[best]:.4f}"
    return text
