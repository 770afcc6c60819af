"""The whole path on a few images of the competition, in under a minute: does everything work here?"""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Literal

from src.config import Config, PathsConfig, SoupConfig, StackConfig, StageConfig
from src.files import read_json
from src.recipes.distill import distill
from src.recipes.ensemble import ensemble
from src.recipes.features import extract_features
from src.recipes.predict import predict_run
from src.recipes.soup import soup
from src.recipes.stack import stack_runs
from src.recipes.train import train
from src.runs.opening import open_competition

PER_CLASS, RUN = 12, "smoke"


def smoke(config: Config) -> None:
    """Train two folds in two stages, predict, submit, predict again from the saved weights, compare; then a second run,
    an ensemble and a soup of both, features, a stack, and a student of the ensemble."""
    began = time.monotonic()
    competition = open_competition(config)
    scratch = Path(config.paths.cache) / "smoke" / competition.name
    shutil.rmtree(scratch, ignore_errors=True)  # of an earlier smoke test
    task = dataclasses.replace(config.competition, few=PER_CLASS, solution=None)
    paths = PathsConfig(**{name: str(scratch / name) for name in ("runs", "cache", "folds", "submissions", "input")})
    small = dataclasses.replace(
        config,
        competition=task,
        paths=paths,
        fold="all",
        folds=dataclasses.replace(config.folds, n=2, file=None),
        run=RUN,
        epochs=4.0,
        least_steps=0,
        size=min(config.size, 64),
        batch_size=16,
        stages=(StageConfig(length="50%", size=0.75, rows=0.5, augment=0.5), StageConfig(length="50%")),
        tta="flip",
        time_budget=None,
        parallel="data",
    )
    train(small, time.time())
    submission = scratch / "submissions" / f"{RUN}.csv"
    first = submission.read_text()
    predict_run(small, time.time())
    if submission.read_text() != first:
        raise RuntimeError(f"{submission}: the saved weights predict something else than the run did")

    # ---- second level -----------------------------------------------------------------------------------------------
    untracked = dataclasses.replace(config.wandb, mode="disabled")
    quiet = dataclasses.replace(small, wandb=untracked, epochs=2.0, report=False)
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
