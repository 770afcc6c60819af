"""Whether labels or probabilities are submitted: as the metric looks at them, where the sample leaves it open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from src.competition.metrics import Metric, find_metric
from src.competition.sample import Sample
from src.competition.task import Task
from src.config import CompetitionConfig
from src.errors import UserError, first_few


def fitted_form(sample: Sample, task: Task, keys: CompetitionConfig, say: Callable[[str], None]) -> Sample:
    """The sample with its kind: for `competition.submission=auto` what the metric looks at, else as it is given, with a
    word through `say` where the metric would look at something else. Raises UserError for classes that a submission of
    words could not tell apart."""
    found = _fitted(sample, task, keys, say)
    if found.kind in ("ranked", "confident") and task.kind == "single":
        spaced = [str(name) for name in task.names if len(str(name).split()) > 1]
        if spaced:
            raise UserError(
                f"competition.submission={found.kind}: classes stand between spaces, but there is a space within "
                f"{first_few(spaced)}; write _ for it in the training table, or set competition.submission=labels"
            )
    return found


def _fitted(sample: Sample, task: Task, keys: CompetitionConfig, say: Callable[[str], None]) -> Sample:
    metric, long = _metric(keys, task), "{target}" in keys.rows
    if keys.submission == "auto" and long:  # a column per target, were each not a row
        sample = replace(sample, kind="probabilities")
    if metric is None or task.kind not in ("single", "multi"):
        return sample
    wide, exact = long or len(sample.value_columns) > 1, metric.of == "labels"
    if keys.submission == "auto":
        if task.kind == "multi" or wide:  # of columns, probabilities, unless labels are asked for
            return sample
        if (metric.top or 1) > 1:
            return replace(sample, kind="ranked", guesses=metric.top or 1)
        if not exact and len(task.names) == 2:
            return replace(sample, kind="positive")
        if not exact:
            say(f"competition.metric={keys.metric} looks at probabilities, but the sample has one column: labels")
        return sample
    if exact and sample.kind in ("probabilities", "positive"):
        say(f"competition.submission={sample.kind}: {keys.metric} looks at labels, but probabilities are submitted")
    if not exact and sample.kind == "labels" and (wide or len(task.names) == 2):
        say(f"competition.submission=labels: {keys.metric} looks at probabilities, but labels are submitted")
    return sample


def _metric(keys: CompetitionConfig, task: Task) -> Metric | None:
    """The metric, if it is one of ours; a name that is none is refused elsewhere."""
    try:
        return find_metric(keys.metric, task.metrics)
    except UserError:
        return None
