"""Which objective belongs to a kind of task."""

from __future__ import annotations

import numpy as np
import torch

from src.competition.task import Task
from src.config import LossConfig
from src.model.outputs import Outputs
from src.training.losses import balanced_weights
from src.training.objective import Objective, one_label


def labelled(
    task: Task, y: np.ndarray, rows: np.ndarray, outputs: Outputs, config: LossConfig, device: torch.device
) -> Objective:
    """The objective of a kind of task: y of all rows, class weights from `rows`."""
    weights = None
    if config.class_weights == "balanced":
        weights = torch.from_numpy(balanced_weights(y[rows], len(task.names))).to(device)
    return one_label(torch.from_numpy(y).to(device), len(task.names), outputs, config, weights)
