"""Which objective belongs to a kind of task."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from src.competition.task import Task
from src.config import LossConfig, loss_for
from src.model.outputs import Outputs
from src.training.losses import balanced_weights
from src.training.objective import Objective, numbers, one_label, several_labels, several_targets


def labelled(
    task: Task, y: np.ndarray, rows: np.ndarray, outputs: Outputs, config: LossConfig, device: torch.device
) -> Objective:
    """The objective of a kind of task: y of all rows, class weights from `rows`."""
    config = replace(config, name=loss_for(task.kind, config.name))  # type: ignore[arg-type]
    balanced = config.class_weights == "balanced"
    if task.kind == "number":
        return numbers(torch.from_numpy(y).to(device), outputs, config)
    if task.kind == "multi":
        share, positive = y[rows].mean(axis=0), None
        if balanced:  # as much for the true rows of a column as for its false ones
            positive = torch.from_numpy(((1 - share) / np.maximum(share, 1 / len(rows))).astype(np.float32)).to(device)
        return several_labels(torch.from_numpy(y.astype(np.float32)).to(device), outputs, config, positive)

    def weights_of(labels: np.ndarray, classes: int) -> torch.Tensor | None:
        return torch.from_numpy(balanced_weights(labels, classes)).to(device) if balanced else None

    if task.kind == "targets":
        weights = [weights_of(y[rows, t], classes) for t, classes in enumerate(outputs.groups)]
        return several_targets(torch.from_numpy(y).to(device), outputs, config, weights)
    classes = len(task.names)
    return one_label(torch.from_numpy(y).to(device), classes, outputs, config, weights_of(y[rows], classes))
