"""The finished folds of a run as one result: CV table, cv.json and the submission of their mean."""

from __future__ import annotations

import glob
from functools import partial
from pathlib import Path

import numpy as np

from src.competition.grading import grade
from src.competition.metrics.metric import Undefined
from src.competition.submission import submission_table, write_submission
from src.competition.tables import Competition
from src.config import Config
from src.errors import first_few
from src.files import read_json, remove_leftovers, write_json
from src.predictions import concatenate, fold_mean, load_predictions
from src.runs.claims import run_lock
from src.runs.decided import decide, quote, save_decision
from src.runs.folder import finished_folds, fold_folder
from src.runs.kept import keep_competition
from src.runs.opening import solution_path
from src.runs.scoring import metric_of


def summarise_run(config: Config, competition: Competition, run: str) -> None:
    """Write cv.json and submissions/<run>.csv from every finished fold, and print the table and the paths.

    Locked, because folds of one run may be trained by several processes: the last writer sees every finished fold.
    """
    with run_lock(config, run):
        remove_leftovers(Path(config.paths.runs) / run)
        remove_leftovers(Path(config.paths.submissions), f"{glob.escape(run)}.csv")
        _summarise(config, competition, run)


def _summarise(config: Config, competition: Competition, run: str) -> None:
    runs = Path(config.paths.runs)
    keep_competition(runs / run, config, competition)
    folds = finished_folds(runs, run)
    folders = [fold_folder(runs, run, k) for k in folds]
    task, metric = competition.task, metric_of(config, competition)
    manifests = [read_json(folder / "manifest.json") for folder in folders]
    oof = concatenate([load_predictions(folder / "oof.npz") for folder in folders])
    test = fold_mean([load_predictions(folder / "test.npz") for folder in folders])
    per_fold = [manifest["score"] for manifest in manifests]
    scored = [score for score in per_fold if score == score]  # a fold of one class has no AUC: NaN
    quoted = quote(config, competition, oof)
    bad = {name for manifest in manifests for name in manifest.get("unreadable_test_ids", ())}
    unreadable = [name for name in test.ids.tolist() if name in bad]
    summary = {
        "run": run,
        "competition": competition.name,
        "metric": metric.name,
        "greater_is_better": metric.greater_is_better,
        "folds": dict(zip(map(str, folds), per_fold, strict=True)),
        "mean": float(np.mean(scored)) if scored else float("nan"),
        "std": float(np.std(scored, ddof=1)) if len(scored) > 1 else 0.0,
        "oof": quoted.scores[metric.name],
        "plain": quoted.plain,
        "scores": quoted.scores,
        "decision": None if quoted.decision is None else quoted.decision.to_json(),
        "unreadable_test_ids": unreadable,
        "seconds": sum(manifest["seconds"]["total"] for manifest in manifests),
    }
    submission = Path(config.paths.submissions) / f"{run}.csv"
    decision = partial(decide, quoted.decision)
    table = submission_table(competition.sample, test.ids, test.pred, task, competition.links, decision)
    write_submission(submission, table, competition.sample, task, competition.links)
    save_decision(runs / run, quoted.decision, folds)

    write_json(runs / run / "cv.json", summary)  # before the grading, which may find fault with the solution file
    solution = solution_path(config)
    if solution is not None:
        try:
            summary["test"] = grade(
                submission,
                solution,
                metric,
                id_column=competition.id_column,
                target_column=competition.target_column,
                task=task,
                sample=competition.sample,
                rows=config.competition.rows,
                part=config.competition.few > 0,
            )[metric.name]
        except Undefined as error:
            if not config.competition.few:
                raise
            print(f"no test score of so few rows (competition.few={config.competition.few}): {error}")
        write_json(runs / run / "cv.json", summary)

    print(f"\n{run}   {metric.name}")
    for k, manifest in zip(folds, manifests, strict=True):
        print(f"  fold {k}   {manifest['score']:.4f}   kept {manifest['kept']}   {manifest['seconds']['total']:.0f} s")
    print(f"  mean     {summary['mean']:.4f} +- {summary['std']:.4f}   out-of-fold {summary['oof']:.4f}")
    if quoted.decision is not None:
        by = "each fold by the others" if len(folds) > 1 else "each half of the fold by the other"
        print(f"  decided  {quoted.decision.note}; scores are nested ({by}), plain {quoted.plain:.4f}")
    if unreadable:
        share = f"{len(unreadable)} of {len(test.ids)} test images"
        print(
            f"  warning: {share} cannot be read ({first_few(unreadable)}); their rows have the prior of the training "
            f"rows, all of them are in {runs / run / 'cv.json'} (unreadable_test_ids)"
        )
    if "test" in summary:
        few = f", of {len(competition.sample.ids)} rows" if config.competition.few else ""
        print(f"  test     {summary['test']:.4f}   (hidden labels: {solution}{few})")
    print(f"wrote {runs / run} and {submission}", flush=True)
