"""Grade a submission file against a solution file."""

from __future__ import annotations

from pathlib import Path

from src.competition.grading import grade
from src.competition.metrics.own import is_own, score_files
from src.errors import UserError


def score_submission(
    submission: str | None = None, solution: str | None = None, metric: str = "accuracy", kind: str = "single"
) -> None:
    """Prints the metric, a name or FILE.py:FUNCTION of tables, of targets of that kind (competition.kind). Both files
    align by id, in any order."""
    if submission is None or solution is None:
        raise UserError("score needs submission=FILE solution=FILE")
    wanted = metric.split(",")
    found = dict(score_files(one, [Path()], Path(submission), Path(solution)) for one in wanted if is_own(one))
    if names := [one for one in wanted if not is_own(one)]:
        found = {**grade(submission, solution, names, kind=kind), **found}
    for name, value in found.items():
        print(f"{name} {value:.4f}")
