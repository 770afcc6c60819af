"""Train a student: fold k learns from fold k of a finished run or ensemble as well."""

from __future__ import annotations

from src.config import Config
from src.errors import UserError
from src.fold.train_run import train_run
from src.recipes.report import report_at_end
from src.runs.claims import run_name


def distill(config: Config, began: float) -> None:
    """`train` with a teacher, the run `config.teacher`."""
    if config.teacher is None:
        raise UserError("distill: whose student? Give teacher=RUN, a finished run or ensemble")
    if config.teacher == run_name(config):
        raise UserError(f"run={config.run}: is its own teacher; choose another run=NAME")
    train_run(config, began)
    report_at_end(config, began)
