"""What a finished run left behind, in memory: what most sections of a report are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.competition.kinds.targets import Targets
from src.competition.metrics import Metric
from src.competition.task import Task
from src.predictions import Predictions


@dataclass(frozen=True)
class Record:
    """cv: cv.json. manifests, histories: by fold, the latter of the folds that were trained. y: targets of the rows of
    `oof`, as the task encodes them. members: what members.json says, of a run that is made of others."""

    name: str
    config: Mapping[str, Any]
    cv: Mapping[str, Any]
    manifests: Mapping[int, Mapping[str, Any]]
    histories: Mapping[int, Sequence[Mapping[str, float]]]
    task: Task
    metric: Metric
    oof: Predictions
    y: np.ndarray
    members: Mapping[str, Any] | None = None

    @property
    def made_of(self) -> tuple[str, ...]:
        return tuple(self.config.get("runs") or ())

    def share_of(self, member: str) -> float | None:
        """The mean weight of a member over the folds of a run that is made of others; None if no fold weighs it."""
        weights = [manifest.get("weights") or {} for manifest in self.manifests.values()]
        if not any(member in weighed for weighed in weights):
            return None
        return float(np.mean([weighed.get(member, 0.0) for weighed in weights]))


@dataclass(frozen=True)
class Part:
    """Rows of which exactly one class is true: a whole task, or one of several targets. y (N,) int64, pred (N, C)."""

    title: str
    names: list[str]
    y: np.ndarray
    pred: np.ndarray


def parts_of(task: Task, y: np.ndarray, pred: np.ndarray) -> Iterator[Part]:
    """The classes of a task, target by target; nothing for several labels per row and for numbers."""
    if isinstance(task, Targets):
        for t, ((target, labels), part) in enumerate(zip(task.classes.items(), task.parts(pred), strict=True)):
            shares = part / np.maximum(part.sum(axis=1, keepdims=True), 1e-12)
            yield Part(target, [str(label) for label in labels], y[:, t], shares)
    elif task.exclusive:
        yield Part("", [str(name) for name in task.names], y, pred)


def score_text(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.4f}" if abs(value) < 1000 else f"{value:.6g}"
