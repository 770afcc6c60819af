"""The whole path on a few images of the competition, in under a minute: does everything work here?"""

from __future__ import annotations

import csv
import dataclasses
import shutil
import time
from pathlib import Path
from typing import Literal

import numpy as np

from src.competition.tables import Competition
from src.config import CompetitionConfig, Config, PathsConfig, SoupConfig, StackConfig, StageConfig
from src.files import read_json
from src.recipes.distill import distill
from src.recipes.ensemble import ensemble
from src.recipes.features import extract_features
from src.recipes.predict import predict_run
from src.recipes.soup import soup
from src.recipes.stack import stack_runs
from src.recipes.train import train
from src.runs.opening import open_competition

PER_CLASS, TEST_ROWS, RUN = 12, 20, "smoke"


def smoke(config: Config) -> None:
    """Train two folds in two stages, predict, submit, predict again from the saved weights, compare; then a second run,
    an ensemble and a soup of both, features, a stack, and a student of the ensemble."""
    began = time.monotonic()
    competition = open_competition(config)
    scratch = Path(config.paths.cache) / "smoke" / competition.name
    shutil.rmtree(scratch, ignore_errors=True)  # of an earlier smoke test
    task = cut_down(competition, config.competition, scratch / "competition")
    paths = PathsConfig(**{name: str(scratch / name) for name in ("runs", "cache", "folds", "submissions", "input")})
    small = dataclasses.replace(
        config,
        competition=task,
        paths=paths,
        fold="all",
        folds=dataclasses.replace(config.folds, n=2, file=None),
        run=RUN,
        epochs=4.0,
        size=min(config.size, 64),
        batch_size=16,
        stages=(StageConfig(length="50%", size=0.75, rows=0.5, augment=0.5), StageConfig(length="50%")),
        tta="flip",
        time_budget=None,
    )
    train(small, time.time())
    submission = scratch / "submissions" / f"{RUN}.csv"
    first = submission.read_text()
    predict_run(small)
    if submission.read_text() != first:
        raise RuntimeError(f"{submission}: the saved weights predict something else than the run did")

    # ---- second level -----------------------------------------------------------------------------------------------
    quiet = dataclasses.replace(small, wandb=dataclasses.replace(config.wandb, mode="disabled"), epochs=2.0)
    train(dataclasses.replace(quiet, run="other", seed=config.seed + 1), time.time())
    both = (RUN, "other")
    combined = dataclasses.replace(quiet, runs=both)
    climb = dataclasses.replace(config.ensemble, method="climb")  # can teach the student below
    ensemble(dataclasses.replace(combined, ensemble=climb, run="ensemble"))
    soup(dataclasses.replace(combined, soup=SoupConfig("uniform"), run="soup"))
    extract_features(dataclasses.replace(quiet, run=RUN, tta="none"))
    learner: Literal["ridge", "logistic"] = "ridge" if competition.task.numeric else "logistic"
    stack_runs(dataclasses.replace(combined, stack=StackConfig(learner, (RUN,)), run="stack"))
    distill(dataclasses.replace(quiet, teacher="ensemble", run="student"), time.time())
    for run in (RUN, "ensemble", "soup", "stack", "student"):
        if not (scratch / "submissions" / f"{run}.csv").is_file():
            raise RuntimeError(f"{run} wrote no submission")
    score = read_json(scratch / "runs" / RUN / "cv.json")["oof"]
    print(f"smoke test passed in {time.monotonic() - began:.0f} s (score {score:.3f} means nothing on so few images)")


def cut_down(competition: Competition, task: CompetitionConfig, root: Path) -> CompetitionConfig:
    """A competition of `PER_CLASS` rows of each class and `TEST_ROWS` test rows under `root`, its files copied."""
    strata = competition.task.strata(competition.y)
    kept = [np.flatnonzero(strata == stratum)[:PER_CLASS] for stratum in np.unique(strata)]
    rows = np.concatenate(kept)  # a class of one row is only ever learnt from
    ids, test_ids = set(competition.train.ids[rows].tolist()), set(competition.test.ids[:TEST_ROWS].tolist())
    for path in [*competition.train.images[rows], *competition.test.images[:TEST_ROWS]]:
        target = root / path.decode()
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(competition.root / path.decode(), target)
    column = competition.id_column
    for name, kept_ids in ((task.train_csv, ids), (task.test_csv, test_ids), (task.sample_csv, test_ids)):
        if (competition.root / name).exists():
            _copy_rows(competition.root / name, root / name, column, kept_ids)
    return dataclasses.replace(task, root=str(root), solution=None)


def _copy_rows(source: Path, target: Path, column: str, ids: set[str]) -> None:
    with open(source, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = next(reader)
        position = [name.strip() for name in header].index(column) if column in map(str.strip, header) else 0
        rows = [row for row in reader if row and row[position].strip() in ids]
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
