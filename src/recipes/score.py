"""Grade a submission file against a solution file."""

from __future__ import annotations

from src.competition.grading import grade
from src.errors import UserError


def score_submission(
    submission: str | None = None, solution: str | None = None, metric: str = "accuracy", kind: str = "single"
) -> None:
    """Prints the metric, of targets of that kind (competition.kind). Both files align by id, in any order."""
    if submission is None or solution is None:
        raise UserError("score needs submission=FILE solution=FILE")
    for name, value in grade(submission, solution, metric.split(","), kind=kind).items():
        print(f"{name} {value:.4f}")
