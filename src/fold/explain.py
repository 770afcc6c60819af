"""What a finished fold looked at: its surest right and wrong held-out predictions, or its closest and farthest numbers,
with Grad-CAM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from src.competition.task import Task
from src.data.loader import Order, evaluation_batch
from src.data.preprocess import Preprocess
from src.fold.setup import Setup
from src.log import say
from src.model.grad_cam import grad_cam
from src.predictions import Predictions
from src.reporting.gallery import Exhibit, closest, gallery, surest
from src.reporting.guarded import picture


@picture
def explain(
    path: Path,
    network: nn.Module,
    start: Setup,
    oof: Predictions,
    task: Task,
    size: int,
    crop: float,
    of: str,
) -> Path | None:
    """A PNG of at most 12 of the held-out rows of a fold, whose predictions are `oof`, in the same order.

    The heat maps are of the plain view of `size` pixels, and of numbers show what raises them; the probabilities may be
    a mean over TTA views. of: the run and its fold, for the title. None, and a line that says why, for a network that
    Grad-CAM cannot be had of.
    """
    assert oof.target is not None
    y = task.encode(oof.target)
    column = task.shown(y, oof.pred)
    share = oof.pred[np.arange(len(oof.pred)), column]
    if task.numeric:
        names = ("closest", "farthest off")
        told = "closest and farthest predictions (true → predicted) and what raised them"
        off = np.abs(1 - task.credit(y, oof.pred))
        right, wrong = closest(off, y[:, 0])
    else:
        names = ("right", "wrong")
        told = "surest predictions (true → predicted, probability) and what decided them"
        said = np.zeros_like(oof.pred)
        said[np.arange(len(said)), column] = share
        right, wrong = surest(said, task.holds(y, column))
    shown = np.concatenate([right, wrong])
    pixels = evaluation_batch(start.train, Order(start.fold.val[shown], size, crop=crop)).images[0]
    heat = heat_maps(network, start.preprocess, pixels, column[shown], start.outputs.width < len(task.names))
    if heat is None:
        return None
    exhibits = []
    for image, each, row in zip(pixels.numpy(), heat, shown.tolist(), strict=True):
        at, value, picture = column[row], float(share[row]), start.train.spec.visible(image)
        if task.numeric:
            which = f"{oof.classes[at]} " if len(oof.classes) > 1 else ""
            exhibits.append(Exhibit(picture, each, f"{which}{y[row, at]:.4g}", f"{value:.4g}", None))
        else:
            exhibits.append(Exhibit(picture, each, str(oof.target[row]), str(oof.classes[at]), value))
    rows = [(names[0], exhibits[: len(right)]), (names[1], exhibits[len(right) :])]
    return gallery(path, rows, f"{of}: {told}")


def heat_maps(
    network: nn.Module, preprocess: Preprocess, pixels: Tensor, columns: np.ndarray, steps: bool
) -> np.ndarray | None:
    """What speaks for the column (n,) int64 of each of the `pixels` (n, S, S, C): (n, H, W) float32; None, and a line
    that says why, for a network that Grad-CAM cannot be had of.

    steps: of grades, the network says whether they are above each; what tells class c is the step "above c - 1".
    """
    asked = np.maximum(columns - 1, 0) if steps else columns
    try:
        return grad_cam(network, preprocess(pixels), torch.from_numpy(asked).to(preprocess.device)).numpy()
    except (ValueError, RuntimeError) as error:  # of timm's thousand networks, some do not lend themselves to it
        say(f"no Grad-CAM of this network: {' '.join(str(error).split())[:160]}")
        return None
