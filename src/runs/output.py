"""What a finished fold leaves behind, on disk and in W&B; the manifest comes last."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from src import files, predictions
from src.competition.decisions import Decision
from src.competition.kinds.targets import Targets
from src.competition.metrics import Metric, per_class
from src.competition.task import Task
from src.predictions import Predictions
from src.reporting.figures import column_bars, confusion_matrix, history_picture, scatter
from src.tracking import NoTracker


@dataclass(frozen=True)
class FoldSummary:
    """The head of a manifest. kept, weights: what was chosen, and from what (scores by kind, shares by member)."""

    run: str
    fold: int
    competition: str
    metric: Metric
    scores: Mapping[str, float]
    plain: float  # of the metric by the task's plain rule, without the decision
    decision: Decision | None
    kept: str
    weights: Mapping[str, float]
    notes: Mapping[str, Any] = field(default_factory=dict)  # further entries: at least model and seconds

    @property
    def score(self) -> float:
        return self.scores[self.metric.name]

    def manifest(self, task: Task) -> dict[str, Any]:
        return {
            "run": self.run,
            "fold": self.fold,
            "competition": self.competition,
            "metric": self.metric.name,
            "greater_is_better": self.metric.greater_is_better,
            "score": self.score,
            "plain": self.plain,
            "scores": self.scores,
            "decision": None if self.decision is None else self.decision.to_json(),
            "kept": self.kept,
            "weights": self.weights,
            "classes": task.names.tolist(),
            **self.notes,
        }


def save_fold(
    folder: Path,
    summary: FoldSummary,
    task: Task,
    *,
    oof: Predictions,
    test: Predictions,
    weights: Mapping[str, Any] | None,
    history: Sequence[Mapping[str, float]],
    tracker: NoTracker,
) -> str | None:
    """Write what a fold leaves behind. A fold of an ensemble has no `weights` (None) and no history: it lies in its
    members. Returns the command that uploads an offline W&B run, or None.
    """
    predictions.save_predictions(folder / "oof.npz", oof)
    predictions.save_predictions(folder / "test.npz", test)
    if weights is not None:
        metadata = {"model": summary.notes["model"], "kept": summary.kept}
        files.save_weights(folder / "weights.safetensors", weights, metadata)
        files.write_csv(folder / "history.csv", history)
    title = f"{summary.run}/fold{summary.fold}: {summary.metric.name} {summary.score:.4f}"
    assert oof.target is not None
    y = task.encode(oof.target)
    for picture in outcome(folder / "figures", task, y, oof.pred, title):
        tracker.image(picture.stem, picture)
    if task.exclusive:
        table = per_class(y, oof.pred, oof.classes)
        tracker.table("per class", [str(name) for name in table.columns], table.values.tolist())
    if history:
        picture = history_picture(folder / "figures" / "history.png", history, summary.metric.name, title)
        tracker.image("history", picture)
    compared = {f"weights/{name}": value for name, value in summary.weights.items()}
    tracker.summary({**summary.scores, **compared, "kept": summary.kept})
    sync = tracker.finish()
    files.write_json(folder / "manifest.json", {**summary.manifest(task), "wandb": tracker.id})
    return sync


def outcome(folder: Path, task: Task, y: np.ndarray, pred: np.ndarray, title: str) -> list[Path]:
    """Pictures of predictions (N, C) beside what is true: a confusion matrix of the classes or of each target, the
    worth of each column where several may be true, or the numbers against the true ones."""
    if task.numeric:
        return [scatter(folder / "predicted.png", y, pred, task.names.tolist(), title)]
    if isinstance(task, Targets):
        parts = zip(task.classes.items(), task.parts(pred), strict=True)
        return [
            confusion_matrix(
                folder / f"confusion-{file_name(target)}.png", y[:, t], part, labels.tolist(), f"{title}, {target}"
            )
            for t, ((target, labels), part) in enumerate(parts)
        ]
    if task.exclusive:
        return [confusion_matrix(folder / "confusion.png", y, pred, task.names.tolist(), title)]
    return [column_bars(folder / "columns.png", y, pred, task.names.tolist(), title)]


def file_name(target: str) -> str:
    """The name of a target for a file: what may not be in one becomes a dash."""
    return re.sub(r"[^\w-]+", "-", target)
