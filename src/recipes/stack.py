"""A second model on finished runs and feature files: load, fit nested, report, save as one more run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.competition.beside import columns_beside
from src.competition.folds import fold_rows
from src.config import Config
from src.ensembling.columns import apply_encoding, fit_encoding
from src.ensembling.learners import import_lightgbm
from src.ensembling.stack import COLUMNS, MEMBERS, OF_NUMBERS, FeaturesFor, features_of, said_by, stack
from src.errors import UserError, counted
from src.ids import find_rows
from src.predictions import Features, Predictions, load_features
from src.recipes.report import report_at_end
from src.runs.combined import FoldResult, compared, named, open_members, rows_of, save_run
from src.runs.folder import Runs, open_runs
from src.runs.members import load_test
from src.runs.opening import groups_of, open_competition, open_folds
from src.runs.scoring import metric_of


def stack_runs(config: Config, began: float | None = None) -> None:
    """Fit `config.stack.learner` on the log-odds of `config.runs` (of numbers, their values) and the blocks of
    `config.stack.features`: files, folders, and columns of the tables behind `columns:`.

    oof.npz holds the nested predictions; test.npz of fold k those of the model that was fitted without fold k, on the
    members' fold-k test predictions and fold k's features. began: a time.monotonic, where making the features counts.
    """
    began = time.monotonic() if began is None else began
    learner, features = config.stack.learner, config.stack.features
    if not config.runs and not features:
        raise UserError("stack: nothing to learn from; give runs=[a,b], features=[FILE.npz] or both")
    if learner == "lightgbm":
        import_lightgbm()  # refused before minutes of loading
    competition = open_competition(config)
    config = named(config, "stack", f"{competition.name}-stack-{learner}")
    task, metric = competition.task, metric_of(config, competition)
    if task.numeric and learner not in OF_NUMBERS:
        raise UserError(f"stack.learner={learner}: tells classes apart; for numbers choose {', '.join(OF_NUMBERS)}")
    runs = open_runs(config.paths)

    # ---- rows and blocks --------------------------------------------------------------------------------------------
    blocks: dict[str, FeaturesFor] = {}
    member_scores: dict[str, float] = {}
    wanted: list[int] = []
    if config.runs:
        members = open_members(config, competition)
        ids, y, folds, test_ids = members.ids, members.y, members.fold, members.test_ids
        odds = said_by(members.oof, task)
        test_odds = {k: said_by(load_test(runs, members, k), task) for k in members.folds}
        blocks[MEMBERS] = lambda k: (odds, test_odds[k])
        for name, pred in zip(members.names, members.oof, strict=True):
            member_scores[name] = metric.function(y, pred)
    else:
        ids, y, test_ids = competition.train.ids, competition.y, competition.test.ids
        folds = open_folds(config, competition)
        if config.fold != "all":
            wanted = [int(config.fold)]
            fold_rows(folds, wanted[0])  # refuses a fold that does not exist
    there = np.unique(folds[folds >= 0]).tolist()
    files, beside = split_features(features)
    encoding: list[Any] = []
    if beside:
        columns = columns_beside(config.competition, competition, beside)
        place = find_rows(competition.train.ids, ids)
        own = {name: cells[place] for name, cells in columns[0].items()}
        encoding = fit_encoding(own, columns[1])
        x, other = apply_encoding(encoding, own), apply_encoding(encoding, columns[1])
        blocks[f"{COLUMNS}{','.join(beside)}"] = lambda k: (x, other)
    for name in files:
        blocks[name] = features_of(find_features(name, runs), ids, folds, test_ids, name)
        for k in there:  # the inner parts need their own too; refused before anything is fitted
            blocks[name](k)
    print(f"{learner} on {', '.join(blocks)}: {counted(len(ids), 'row')} of {counted(len(there), 'fold')}", flush=True)

    # ---- fit, nested ------------------------------------------------------------------------------------------------
    found = stack(
        learner,
        list(blocks.values()),
        y,
        folds,
        task,
        metric,
        seed=config.seed,
        groups=groups_of(config, competition, rows_of(competition, ids)),
        wanted=wanted,
    )

    # ---- save -------------------------------------------------------------------------------------------------------
    results = {}
    for k, choice in found.chosen.items():
        options = ", ".join(f"{key}={value:g}" for key, value in choice.options.items())
        shares = dict(zip(blocks, choice.weights.tolist(), strict=True))
        text = f"{learner} {options}"
        if len(blocks) > 1:
            text += ", " + ", ".join(f"{name} x {weight:.2g}" for name, weight in shares.items())
        notes = {"model": learner, "options": choice.options}
        model = {"members": list(config.runs), "blocks": list(blocks), "encoding": encoding, "fitted": choice.tree()}
        results[k] = FoldResult(found.test[k], text, shares, notes, model=model)
    made = np.isin(folds, list(results))
    oof = Predictions(ids[made], found.pred[made], task.names, folds[made], task.cells(y[made]), task.kind)
    save_run(config, competition, oof, test_ids, results, began)
    print()
    for name, value in member_scores.items():
        print(f"member {name}   {metric.name} {value:.4f}")
    nested, plain = metric.function(y[made], found.pred[made]), metric.function(y, found.plain_pred)
    print(compared(metric, member_scores, nested, plain), flush=True)
    report_at_end(config)


def split_features(features: Sequence[str]) -> tuple[list[str], list[str]]:
    """Feature files and folders, and columns of the tables: [f.npz, columns:age, sex] has the columns age and sex."""
    files: list[str] = []
    columns: list[str] = []
    for name in features:
        if name.startswith(COLUMNS):
            columns.append(name.removeprefix(COLUMNS))
        elif columns and not name.endswith(".npz"):
            columns.append(name)
        else:
            files.append(name)
    return files, columns


def find_features(name: str, runs: Runs | Path) -> list[Features]:
    """The feature files of `name`: a file, or a folder (here or under `runs`) with one for all folds or one each."""
    own = runs if isinstance(runs, Runs) else Runs(runs)
    for place in (Path(name), *(there / name for there in (own.own, *own.attached))):
        if place.is_file():
            return [load_features(place)]
        files = [*place.glob("features.npz")] or sorted(place.glob("fold*/features.npz"))
        found = [load_features(file) for file in files]
        for file, features in zip(files, found, strict=True):
            if file.parent.name.startswith("fold") and file.parent.name != f"fold{features.fold}":
                raise UserError(f"{file}: holds features of fold {features.fold}; make the features again")
        if found:
            return found
    raise UserError(
        f"features: {name}: no such file, and no folder with features.npz or fold<k>/features.npz here or in {runs}"
    )
