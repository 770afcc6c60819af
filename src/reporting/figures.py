"""Pictures of a fold: what the model is shown in each stage, and what it confuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from src.artefacts import replacing
from src.data.augment import Augment
from src.data.cache import ImageStore
from src.data.loader import Order, to_input, training_batch


def augmentation_grid(
    path: Path, store: ImageStore, rows: np.ndarray, size: int, augment: Augment, seed: int = 0, copies: int = 8
) -> Path:
    """A PNG with one row per image of `rows` (R,): the whole image, then `copies` augmented versions of it."""
    import cv2

    from src.data.loader import evaluation_batch

    zero, one = torch.zeros(3), torch.ones(3)
    order = Order(np.repeat(rows, copies), size, augment, (seed, 4))
    batch = training_batch(store, order)
    pixels = to_input(batch.images[0], zero, one, batch.colour).clamp(0, 1).mul(255).byte().permute(0, 2, 3, 1).numpy()
    whole = evaluation_batch(store, Order(rows, size)).images[0].numpy()
    grid = np.concatenate([whole[:, None], pixels.reshape(len(rows), copies, size, size, 3)], axis=1)
    grid = np.pad(grid, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    picture = np.ascontiguousarray(grid.transpose(0, 2, 1, 3, 4)).reshape(len(rows) * (size + 2), -1, 3)
    enlarge = max(1, 96 // size)  # digits of 28 px would be too small to look at
    picture = picture.repeat(enlarge, 0).repeat(enlarge, 1)
    with replacing(path) as temporary:  # imencode, because imwrite returns False where a write fails, and nobody looks
        temporary.write_bytes(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes())
    return path


def confusion_matrix(path: Path, target: np.ndarray, pred: np.ndarray, classes: Sequence[str], title: str) -> Path:
    """A PNG: share of each true class (rows) that was predicted as each class (columns), with counts.

    target (N,) int64, pred (N, C) probabilities.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(classes)
    table = np.zeros((count, count), np.int64)
    np.add.at(table, (target, pred.argmax(1)), 1)
    share = table / np.maximum(1, table.sum(1, keepdims=True))
    side = min(24.0, 3.5 + 0.55 * count)
    figure = Figure(figsize=(side + 1, side), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if count <= 40:
        axes.set_xticks(range(count), classes, rotation=45, ha="right")
        axes.set_yticks(range(count), [f"{name} ({total})" for name, total in zip(classes, table.sum(1), strict=True)])
        for row, column in zip(*np.nonzero(table), strict=True):
            colour = "white" if share[row, column] > 0.6 else "black"
            axes.text(column, row, str(table[row, column]), ha="center", va="center", color=colour, fontsize=9)
    axes.set(xlabel="predicted", ylabel="true (rows)", title=title)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return path
