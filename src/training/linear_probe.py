"""A regularised linear model on features, by full-batch L-BFGS on the loss that the network is trained with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Of the inverse strength C of the penalty, strongest penalty first: scikit-learn's, for features of variance 1.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
BIAS = 1e-3  # penalty of the biases, in all rows together: ends them where a column has no true row, or only such
ITERATIONS = 100  # of L-BFGS, at most; more move nothing that training would notice
TRIAL = 20  # of it at each strength that is tried; each begins where the stronger penalty ended
# A feature that varies less than this share of what features usually do is not stretched to a variance of 1.
LEAST_SCALE = 0.5

Loss = Callable[[Tensor, Tensor], Tensor]  # (logits (n, K), targets (n, T)) -> scalar, a mean over rows


class Linear(NamedTuple):
    weight: Tensor  # (K, D) float32
    bias: Tensor  # (K,) float32

    def __call__(self, x: Tensor) -> Tensor:
        """(n, D) -> (n, K)."""
        return F.linear(x, self.weight, self.bias)


class Chosen(NamedTuple):
    """C: the inverse strength of the penalty; held_out (n, K): logits of the rows that the inner parts score, in their
    order; by_part: the weights of each part at C, from which a fit on all rows begins."""

    c: float
    loss: float
    held_out: Tensor
    by_part: Sequence[Linear]


def fit(x: Tensor, y: Tensor, loss: Loss, c: float, start: Linear, iterations: int = ITERATIONS) -> Linear:
    """The minimum of loss + |weight|² / (2·C·n) from `start`.

    For cross-entropy that is scikit-learn's LogisticRegression(C), for two classes, which that gives one column,
    LogisticRegression(2·C). x (n, D), y (n, T) of the loss. In fp32. Where a row has several columns or numbers, each
    has a model of its own; C is shared by all of them.
    """
    weight, bias = (tensor.clone().requires_grad_() for tensor in start)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=iterations, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        total = loss(F.linear(x, weight, bias), y)
        total = total + (weight.square().sum() / c + BIAS * bias.square().sum()) / (2 * len(x))
        total.backward()  # type: ignore[no-untyped-call]
        return float(total.detach())

    optimizer.step(closure)
    return Linear(weight.detach(), bias.detach())


def choose(
    x: Tensor, y: Tensor, loss: Loss, parts: Sequence[tuple[Tensor, Tensor]], width: int, strengths: Sequence[float]
) -> Chosen:
    """The strength with the least loss on the rows that the parts, (rows to fit, rows to score), hold out.

    From the strongest penalty on, as long as the loss falls. x (n, D), y (n, T); width: K of the logits.
    """
    best, fitted = None, [nothing(x, width)] * len(parts)
    learnt, scored = [(x[rows], y[rows]) for rows, _ in parts], torch.cat([rows for _, rows in parts])
    for c in strengths:
        fitted = [fit(*rows, loss, c, own, TRIAL) for rows, own in zip(learnt, fitted, strict=True)]
        logits = torch.cat([own(x[rows]) for (_, rows), own in zip(parts, fitted, strict=True)])
        found = Chosen(c, float(loss(logits, y[scored])), logits, fitted)
        if best is not None and not found.loss < best.loss:
            break
        best = found
    assert best is not None
    return best


def nothing(x: Tensor, width: int) -> Linear:
    """All zero, for features x (n, D)."""
    return Linear(x.new_zeros(width, x.shape[1]), x.new_zeros(width))


def scaling_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and scale (D,) of features (n, D): the standard deviation, but no less than LEAST_SCALE of the root of
    the mean square of those of all features that vary.

    A unit that hardly speaks in the training rows would otherwise get a weight as large as it is silent, and a crop in
    which it does speak a loss of 40 (60 rows); the loss of rows held out is less too (docs/lab-book.md).
    """
    mean, std = x.mean(0), x.std(0, unbiased=False)
    varies = std > 1e-6 * (1 + mean.abs())
    if not varies.any():
        return mean, torch.ones_like(std)
    return mean, std.clamp(min=LEAST_SCALE * float(std[varies].square().mean().sqrt()))


def unscaled(model: Linear, mean: Tensor, std: Tensor) -> Linear:
    """The same model for features as they are, of one for (features - mean) / std."""
    weight = model.weight / std
    return Linear(weight, model.bias - weight @ mean)
