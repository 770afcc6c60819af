"""Which metrics a configuration means for a competition: the one that decides, and those beside it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from src.competition.metrics import Metric, find_metric
from src.competition.metrics.own import find_file, is_own, own_metric
from src.competition.tables import Competition
from src.competition.task import Task
from src.config import CompetitionConfig, Config
from src.errors import UserError, first_few, nearest
from src.files import contents_of, replacing
from src.log import say_once
from src.runs.folder import open_runs
from src.runs.start import is_started


def metric_of(config: Config, competition: Competition) -> Metric:
    """The metric that decides, with its weights. Raises UserError if there is none such, or if it does not fit."""
    name, task, weights = config.competition.metric, competition.task, config.competition.metric_weights
    metric = _find(name, config, competition)
    if metric.needs_weights and not weights:
        raise UserError(
            f"competition.metric={name}: whose weights? Give competition.metric_weights={{NAME: 2, OTHER: 1}}, "
            f"of {first_few(weighed(task))}"
        )
    return metric.weighted(weights_of(weights, task)) if weights else metric


def reported(config: Config, competition: Competition) -> list[Metric]:
    """The metric that decides and those beside it: the configured ones, or where those are the usual ones, such of them
    as fit the kind of target, else its first three."""
    first, beside, fitting = metric_of(config, competition), config.competition.metrics, competition.task.metrics
    if beside == CompetitionConfig().metrics:
        beside = tuple(name for name in beside if name in fitting) or tuple(fitting)[:3]
    others = [_find(name, config, competition) for name in beside]
    return list({metric.name: metric for metric in (first, *(m for m in others if m.name != first.name))}.values())


def _find(name: str, config: Config, competition: Competition) -> Metric:
    task = competition.task
    if is_own(name):
        return own_metric(name, metric_places(config), task, competition.sample, say_once)
    metric = find_metric(name, task.metrics)
    metric.check_classes(len(task.names))
    return metric


def metric_places(config: Config) -> list[Path]:
    """Where the file of the user's own metric may lie: the working folder, beside the configurations, beside the data,
    or kept in a run."""
    runs = open_runs(config.paths)
    kept = [runs / run for run in (config.run, config.prune.run, *config.runs) if run]
    return [Path(), Path("configs") / "competition", Path(config.competition.root), *kept]


def claim_metrics(config: Config, folder: Path) -> None:
    """Keep the files of the user's own metrics in the run's `folder`, so that they are found wherever the run goes.

    Raises UserError if the run has been started with another content of them: its scores would not be comparable.
    """
    for name in filter(is_own, (config.competition.metric, *config.competition.metrics)):
        path = find_file(name, metric_places(config))
        kept = folder / path.name
        if kept.is_file() and contents_of(kept) == contents_of(path):
            continue
        if kept.is_file() and is_started(folder):
            raise UserError(
                f"competition.metric={name}: {path} has changed since run={folder.name} was started with it ({kept}); "
                "restore it, choose another name with run=NAME, or delete the folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as temporary:
            shutil.copyfile(path, temporary)


def weighed(task: Task) -> list[str]:
    """What a metric may weigh: classes, columns, or targets."""
    names = task.names.tolist()
    return list(dict.fromkeys(name.partition("=")[0] for name in names)) if task.kind == "targets" else names


def weights_of(weights: Mapping[str, float], task: Task) -> np.ndarray:
    """Those of competition.metric_weights in the task's order, float64; what is not named has 1."""
    names = weighed(task)
    for name, weight in weights.items():
        if str(name) not in names:
            raise UserError(
                f"competition.metric_weights: there is no {str(name)!r}{nearest(str(name), names)} "
                f"({first_few(names, 10)})"
            )
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < np.inf:
            raise UserError(f"competition.metric_weights: {name}={weight!r}; a weight is a number from 0")
    given = {str(name): float(weight) for name, weight in weights.items()}
    return np.array([given.get(name, 1.0) for name in names])
