"""Which objective belongs to a kind of task."""

from __future__ import annotations

import numpy as np
import torch

from src.competition.task import Task
from src.config import LossConfig
from src.model.outputs import Outputs
from src.training.losses import balanced_weights
from src.training.objective import Objective, one_label, several_labels


def labelled(
    task: Task, y: np.ndarray, rows: np.ndarray, outputs: Outputs, config: LossConfig, device: torch.device
) -> Objective:
    """The objective of a kind of task: y of all rows, class weights from `rows`."""
    if task.kind == "multi":
        share, positive = y[rows].mean(axis=0), None
        if config.class_weights == "balanced":  # as much for the true rows of a column as for its false ones
            positive = torch.from_numpy(((1 - share) / np.maximum(share, 1 / len(rows))).astype(np.float32)).to(device)
        return several_labels(torch.from_numpy(y.astype(np.float32)).to(device), outputs, config, positive)
    weights = None
    if config.class_weights == "balanced":
        weights = torch.from_numpy(balanced_weights(y[rows], len(task.names))).to(device)
    return one_label(torch.from_numpy(y).to(device), len(task.names), outputs, config, weights)
