"""The submission and the predictions that `./run.sh predict` leaves: valid at any moment, whatever ends it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from src.competition.decisions import Decision
from src.competition.submission import check_submission, submission_table, write_submission
from src.competition.tables import Competition
from src.errors import UserError
from src.files import replacing
from src.predictions import Predictions, save_predictions
from src.runs.decided import decide


class Published:
    """`<folder>/<run>.csv`, and beside it the predictions as .npz; never anything in the run's own folder.

    A submission that fits the present test rows already stays until there is all that is to take its place.
    """

    def __init__(self, folder: Path, run: str, competition: Competition, decision: Decision | None) -> None:
        self.csv, self.npz = folder / f"{run}.csv", folder / f"{run}.npz"
        self.competition, self.decision = competition, decision
        self.complete = fits(self.csv, competition)
        self.stopgap = False  # whether what is there is the prior, written here
        self.fresh = False  # whether predictions have been written here
        self.before: bytes | None = None  # what stood there before it
        self.holds = "is as it was, and fits the test rows"

    def write_prior(self, prior: np.ndarray) -> None:
        """The prior (C,) for every row, unless there is a submission that fits."""
        if not self.complete:
            self.before = self.csv.read_bytes() if self.csv.is_file() else None
            self._write_csv(np.tile(prior, (len(self.competition.test), 1)))
            self.stopgap, self.holds = True, "holds the prior of the training rows"

    def withdraw(self) -> None:
        """Take back what `write_prior` has written, if it is still there."""
        if self.stopgap and self.before is None:
            self.csv.unlink(missing_ok=True)
        elif self.stopgap:
            with replacing(self.csv) as temporary:
                temporary.write_bytes(self.before or b"")

    def write(self, pred: np.ndarray, fold: int, last: bool, holds: str) -> None:
        """Predictions (M, C) float32 so far, in the order of the test rows; fold: theirs, -1 for a mean. holds: what
        the file has then, for messages."""
        if self.complete and not last:
            return
        test, task = self.competition.test, self.competition.task
        save_predictions(self.npz, Predictions(test.ids, pred, task.names, np.full(len(pred), fold), kind=task.kind))
        self._write_csv(pred)
        self.stopgap, self.fresh, self.holds = False, True, holds

    def _write_csv(self, pred: np.ndarray) -> None:
        known = self.competition
        table = submission_table(
            known.sample, known.test.ids, pred, known.task, known.links, partial(decide, self.decision)
        )
        write_submission(self.csv, table, known.sample, known.task, known.links)


def fits(path: Path, competition: Competition) -> bool:
    """Whether the file is a submission for the present test rows."""
    import pandas as pd

    if not path.is_file():
        return False
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        check_submission(table, competition.sample, competition.task, competition.links)
    except (UserError, ValueError, KeyError, OSError):
        return False
    return True
