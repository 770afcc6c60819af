"""Train a fold, or all of them."""

from __future__ import annotations

from src.config import Config
from src.fold.train_run import train_run
from src.recipes.report import report_at_end


def train(config: Config, began: float) -> None:
    """Fold `config.fold`, or every unfinished fold; then the CV table and the submission of what is finished,
    with fold=all a report of them.

    began: time.time() when the command was started; a time budget counts from there.
    """
    train_run(config, began)
    report_at_end(config, began)
