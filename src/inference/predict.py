"""Probabilities for rows of a table: every row once, in the order asked for, on any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.competition.metrics import refuse_non_finite
from src.data.cache import ImageStore
from src.data.loader import batches, evaluation_orders
from src.data.preprocess import Preprocess
from src.inference.tta import View, apply_symmetry, weights_of, windows
from src.log import Ticker, say


def softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits, dim=1)


@torch.no_grad()  # not inference_mode: XLA tensors cannot be made in it
def predict(
    model: nn.Module,
    store: ImageStore,
    rows: np.ndarray,
    *,
    accelerator: Any,
    preprocess: Preprocess,
    views: Sequence[View],
    size: int,
    crop: float,
    batch_size: int,
    workers: int,
    activation: Callable[[Tensor], Tensor] = softmax,
    go_on: Callable[[], bool] = lambda: True,
) -> np.ndarray:
    """(N, C) float32 probabilities of `rows` (N,) in their order: the weighted mean over views of the softmax, in
    which a view that shows the same picture as an earlier one does not count.

    activation: what is done to the network's output (B, C) before the mean; the identity gives pooled features.
    go_on: asked after each batch, False in all processes at once ends the pass: rows that it has not come to are NaN.
    NaN in all columns of a row whose image could not be read (a store with unreadable="mark"); UserError if the model
    itself yields NaN or infinity. Each image is fetched once for all views. The row number travels with each batch
    and is gathered with the predictions; that every row came exactly once is asserted before anything is returned.
    """
    model.eval()
    assert len(rows), "no rows to predict"
    orders = evaluation_orders(
        rows, batch_size, size, crop, windows(views), accelerator.process_index, accelerator.num_processes
    )
    which = {window: i for i, window in enumerate(windows(views))}
    counting: list[int] = []  # views of each row
    seen: list[Tensor] = []
    readable: list[Tensor] = []
    predicted: list[Tensor] = []
    ticker = Ticker("predicting", len(orders))
    for batch in batches(store, orders, workers, accelerator.device):
        weights = weights_of(views, batch.images.numpy())
        counting += (weights > 0).sum(axis=0)[batch.rows.numpy() >= 0].tolist()
        shares = torch.from_numpy((weights / weights.sum(axis=0)).astype(np.float32)).to(accelerator.device)
        inputs = [preprocess(window) for window in batch.images]
        mixed = torch.zeros((), device=accelerator.device)  # (B, C) from the first view on
        for view, weight, share in zip(views, weights, shares, strict=True):
            if not weight.any():
                continue
            with accelerator.autocast():
                logits = model(apply_symmetry(inputs[which[view.window]], view))
            mixed = mixed + share[:, None] * activation(logits.float())
        for values, more in ((seen, batch.rows), (readable, batch.readable), (predicted, mixed)):
            values.append(more.to(accelerator.device))
        ticker.step(1)
        if not go_on():
            break
    ticker.close()
    of_all = [accelerator.gather(torch.cat(values)).cpu().numpy() for values in (seen, readable, predicted)]
    reached = np.isin(rows, of_all[0])
    result, could_be_read = (in_order(rows[reached], of_all[0], of_all[i]) for i in (2, 1))
    refuse_non_finite(result, could_be_read)
    if sum(counting) < len(counting) * sum(view.weight > 0 for view in views):
        say(
            f"tta: of {len(views)} views of an image {np.mean(counting):.3g} are different pictures "
            f"({size} px, eval.crop={crop:g}); equal ones count once"
        )
    result[~could_be_read] = np.nan
    if reached.all():
        return result
    partial = np.full((len(rows), result.shape[1]), np.nan, np.float32)
    partial[reached] = result
    return partial


def in_order(rows: np.ndarray, seen: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """`predicted` (M, …) of the rows `seen` (M,), -1 being padding, in the order of `rows` (N,). Asserts that each came
    once."""
    real = seen != -1
    seen, predicted = seen[real], predicted[real]
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
