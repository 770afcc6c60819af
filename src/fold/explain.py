"""What a finished fold looked at: its surest right and wrong held-out predictions with Grad-CAM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from src.competition.task import Task
from src.data.loader import Order, evaluation_batch
from src.fold.setup import Setup
from src.log import say
from src.model.grad_cam import grad_cam
from src.predictions import Predictions
from src.reporting.gallery import Exhibit, gallery, surest


def explain(
    path: Path,
    network: nn.Module,
    start: Setup,
    oof: Predictions,
    task: Task,
    size: int,
    crop: float,
    title: str,
) -> Path | None:
    """A PNG of at most 12 of the held-out rows of a fold, whose predictions are `oof`, in the same order.

    The heat maps are of the plain view of `size` pixels; the probabilities may be a mean over TTA views. None, and a
    line that says why, for a network that Grad-CAM cannot be had of.
    """
    assert oof.target is not None
    guess = oof.pred.argmax(1)
    right, wrong = surest(oof.pred, task.holds(task.encode(oof.target), guess))
    shown = np.concatenate([right, wrong])
    pixels = evaluation_batch(start.train, Order(start.fold.val[shown], size, crop=crop)).images[0]
    guesses = guess[shown]
    try:
        columns = torch.from_numpy(guesses).to(start.preprocess.device)
        heat = grad_cam(network, start.preprocess(pixels), columns).numpy()
    except (ValueError, RuntimeError) as error:  # of timm's thousand networks, some do not lend themselves to it
        say(f"no Grad-CAM of this network: {' '.join(str(error).split())[:160]}")
        return None
    exhibits = [
        Exhibit(start.train.spec.visible(image), each, str(true), str(oof.classes[column]), float(share))
        for image, each, true, column, share in zip(
            pixels.numpy(), heat, oof.target[shown], guesses, oof.pred[shown].max(1), strict=True
        )
    ]
    return gallery(path, [("right", exhibits[: len(right)]), ("wrong", exhibits[len(right) :])], title)
