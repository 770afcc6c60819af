"""Take channels out of a finished run and train what is left."""

from __future__ import annotations

from src.config import Config
from src.errors import UserError
from src.fold.train_run import train_run
from src.recipes.report import report_at_end
from src.runs.claims import run_name
from src.runs.folder import finished_folds, open_runs


def prune(config: Config, began: float) -> None:
    """`train` from what is left of fold k of the run `config.prune.run` after its channels are cut."""
    source = config.prune.run
    if source is None:
        raise UserError("prune: which run? Give run=NAME, a finished run")
    if source == run_name(config):
        raise UserError(f"run={config.run}: is the run that is to be pruned; choose another run=NAME")
    if config.fold == "all" and not finished_folds(open_runs(config.paths), source):
        raise UserError(f"prune.run={source}: no fold is finished; train it first (./run.sh run={source})")
    train_run(config, began)
    report_at_end(config, began)
