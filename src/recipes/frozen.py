"""A pretrained backbone as it comes, with a second-level learner on its features: what everything else has to beat."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from src.config import Config
from src.errors import UserError
from src.log import say
from src.model.weights import find_weights
from src.recipes.features import extract_features
from src.recipes.stack import stack_runs
from src.runs.claims import claim_run, run_name
from src.runs.combined import named
from src.runs.opening import open_competition

# Rows x classes above which ridge takes the place of logistic regression, whose 125 fits would take hours. Of 100,000
# rows, ten classes are just within it.
CELLS = 1_000_000


def frozen(config: Config) -> None:
    """Make features of all rows, one forward pass per image and view, and stack on them: out-of-fold and test
    predictions and a submission, as the run <competition>-<model>-frozen.

    The strength of `stack.learner` is chosen for each fold on the other folds' rows. Numbers, and many rows of many
    classes, have `ridge` for `logistic`. Raises UserError where no pretrained weights are found: features of random
    weights say nothing.
    """
    began, model = time.monotonic(), config.model
    source = find_weights(model.name, model.pretrained, model.weights, Path(config.paths.input))
    if not source.pretrained:
        raise UserError(f"frozen: {source.why}; give model.weights=FILE, or another model=")
    competition, learner = open_competition(config), config.stack.learner
    large = len(competition.train) * len(competition.task.names) > CELLS
    if learner == "logistic" and (competition.task.numeric or large):
        learner = "ridge"
        say(f"stack.learner=ridge in place of logistic, {'which takes hours here' if large else 'as for all numbers'}")
    run = config.run or f"{run_name(config)}-frozen"
    stack = dataclasses.replace(config.stack, learner=learner, features=(run,))
    config = named(dataclasses.replace(config, runs=(), stack=stack), "stack", run)
    claim_run(config, run)
    extract_features(config)
    stack_runs(config, began)
