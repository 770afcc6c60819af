"""What a finished fold looked at: its surest right and wrong held-out predictions with Grad-CAM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from src.data.cache import ImageStore
from src.data.loader import Order, evaluation_batch
from src.data.preprocess import Preprocess
from src.log import say
from src.model.grad_cam import grad_cam
from src.predictions import Predictions
from src.reporting.gallery import Exhibit, gallery, surest


def look(
    path: Path,
    network: nn.Module,
    store: ImageStore,
    rows: np.ndarray,
    oof: Predictions,
    *,
    size: int,
    crop: float,
    preprocess: Preprocess,
    title: str,
) -> Path | None:
    """A PNG of at most 12 of the held-out `rows` (N,) of `store`, whose predictions are `oof`, in the same order.

    The heat maps are of the plain view of `size` pixels; the probabilities may be a mean over TTA views. None, and a
    line that says why, for a network that Grad-CAM cannot be had of.
    """
    right, wrong = surest(oof.pred, oof.labels())
    shown = np.concatenate([right, wrong])
    pixels = evaluation_batch(store, Order(rows[shown], size, crop=crop)).images[0]
    guesses = oof.pred[shown].argmax(1)
    try:
        heat = grad_cam(network, preprocess(pixels), torch.from_numpy(guesses).to(preprocess.device)).numpy()
    except (ValueError, RuntimeError) as error:  # of timm's thousand networks, some do not lend themselves to it
        say(f"no Grad-CAM of this network: {' '.join(str(error).split())[:160]}")
        return None
    assert oof.target is not None
    exhibits = [
        Exhibit(store.spec.visible(image), each, str(true), str(oof.classes[guess]), float(share))
        for image, each, true, guess, share in zip(
            pixels.numpy(), heat, oof.target[shown], guesses, oof.pred[shown].max(1), strict=True
        )
    ]
    return gallery(path, [("right", exhibits[: len(right)]), ("wrong", exhibits[len(right) :])], title)
