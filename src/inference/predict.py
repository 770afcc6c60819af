"""Probabilities for rows of a table: every row once, in the order asked for, on any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.competition.metrics import refuse_non_finite
from src.data.cache import ImageStore
from src.data.loader import batches, evaluation_orders, to_input
from src.inference.tta import Pose, apply_symmetry, windows


def softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits, dim=1)


@torch.no_grad()  # not inference_mode: XLA tensors cannot be made in it
def predict(
    model: nn.Module,
    store: ImageStore,
    rows: np.ndarray,
    *,
    accelerator: Any,
    views: Sequence[Pose],
    size: int,
    crop: float,
    batch_size: int,
    workers: int,
    mean: Tensor,
    std: Tensor,
    activation: Callable[[Tensor], Tensor] = softmax,
) -> np.ndarray:
    """(N, C) float32 probabilities of `rows` (N,) in their order: the weighted mean over views of the softmax.

    activation: what is done to the network's output (B, C) before the mean; the identity gives pooled features.
    NaN in all columns of a row whose image could not be read (a store with unreadable="mark"); UserError if the model
    itself yields NaN or infinity. Each image is fetched once for all views. The row number travels with each batch
    and is gathered with the predictions; that every row came exactly once is asserted before anything is returned.
    """
    model.eval()
    assert len(rows), "no rows to predict"
    orders = evaluation_orders(
        rows, batch_size, size, crop, windows(views), accelerator.process_index, accelerator.num_processes
    )
    total_weight = sum(view.weight for view in views)
    which = {window: i for i, window in enumerate(windows(views))}
    seen, predicted = [], []
    for batch in batches(store, orders, workers, accelerator.device):
        images = batch.images.to(accelerator.device, non_blocking=True)
        inputs = [to_input(window, mean, std) for window in images]
        mixed = torch.zeros((), device=accelerator.device)
        for view in views:
            with accelerator.autocast():
                logits = model(apply_symmetry(inputs[which[view.window]], view))
            mixed = mixed + view.weight / total_weight * activation(logits.float())
        seen.append(batch.rows.to(accelerator.device))
        predicted.append(mixed)
    all_rows = accelerator.gather(torch.cat(seen)).cpu().numpy()
    all_predictions = accelerator.gather(torch.cat(predicted)).cpu().numpy()
    readable = all_rows[all_rows > -2]
    result = in_order(rows, all_rows, all_predictions)
    refuse_non_finite(result, np.isin(rows, readable))
    return result


def in_order(rows: np.ndarray, seen: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """`predicted` sorted into the order of `rows`. Asserts that each row came once.

    In `seen`, -1 is padding and -2 - row a row whose image could not be read: its prediction becomes NaN.
    """
    real = seen != -1
    seen, predicted = seen[real], predicted[real].astype(np.float32)
    predicted[seen < -1] = np.nan
    seen = np.where(seen < -1, -2 - seen, seen)
    assert len(seen) == len(rows), f"{len(seen)} predictions for {len(rows)} rows"
    order = np.argsort(seen, kind="stable")
    place = np.searchsorted(seen[order], rows).clip(max=len(rows) - 1)
    assert np.array_equal(seen[order][place], rows), "a row was predicted twice or not at all"
    return predicted[order][place]


def fill_unreadable(pred: np.ndarray, prior: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, C) with `prior` (C,) in the rows that `predict` left NaN, and the numbers of these rows (int64)."""
    rows = np.flatnonzero(np.isnan(pred).all(axis=1))
    filled = pred.copy()
    filled[rows] = prior
    return filled, rows
