"""The range test against a loss that is known in closed form, and suggestions on curves whose answer is known."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from src.data.loader import Batch
from src.data.preprocess import Preprocess
from src.data.spec import Normalisation
from src.model.outputs import outputs_of
from src.training.device import make_accelerator
from src.training.learner import Learner
from src.training.objective import Objective
from src.training.range_test import range_test, smoothed, suggest


def black_images() -> Iterator[Batch]:
    while True:
        rows = torch.zeros(4, dtype=torch.long)
        yield Batch(torch.zeros(1, 4, 2, 2, 3, dtype=torch.uint8), None, rows, torch.ones(4, dtype=torch.bool))


class OneNumber(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.w.expand(len(x), 1)


def run(model: nn.Module, rates: np.ndarray, clip: float | None = None) -> np.ndarray:
    accelerator = make_accelerator("cpu", "fp32")
    prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=1.0))
    return range_test(
        Learner(accelerator, prepared, optimizer, None, None, clip),
        Objective(
            lambda rows: torch.zeros(len(rows), 1),
            lambda logits, y, x: (logits - y).square().mean(),
            outputs_of("single", "cross_entropy", 1),
        ),
        black_images(),
        Preprocess(Normalisation((0.0,) * 3, (1.0,) * 3)),
        rates,
        seed=0,
    )


def test_losses_of_a_parabola_and_weights_restored() -> None:
    """w ← w(1 - 2·lr) with lr = rate·4/256; the loss is w². It ends where that diverges."""
    rates = np.geomspace(1e-1, 1e4, 60)
    model = OneNumber()
    before = copy.deepcopy(model.state_dict())
    losses = run(model, rates)
    w, expected = 1.0, []
    for rate in rates:
        expected.append(w**2)
        w *= 1 - 2 * rate * 4 / 256
    assert 10 < len(losses) < 60
    np.testing.assert_allclose(losses, expected[: len(losses)], rtol=1e-4, atol=1e-12)
    smooth = smoothed(losses)
    assert smooth[-1] > 4 * smooth.min() and all(smooth[i] <= 4 * smooth[: i + 1].min() for i in range(len(smooth) - 1))
    assert model.w == before["w"]


def test_clipping() -> None:
    losses = run(OneNumber(), np.full(3, 64.0), clip=0.1)  # lr 1, gradient 2w cut to 0.1
    np.testing.assert_allclose(losses, [1, 0.81, 0.64], rtol=1e-4)


def test_smoothing_is_fastais() -> None:
    losses = np.random.default_rng(0).random(30)
    for t in range(30):
        weights = 0.9 ** np.arange(t, -1, -1)
        assert smoothed(losses)[t] == pytest.approx((weights * losses[: t + 1]).sum() / weights.sum())


def test_suggestions_on_a_sigmoid_that_turns_up() -> None:
    """The loss falls fastest at 1e-3 and is lowest at 1e-1; smoothing lags some 9 steps behind."""
    rates = np.geomspace(1e-6, 1e1, 700)
    x = np.log10(rates)
    losses = 2 - 1 / (1 + np.exp(-4 * (x + 3))) + 10 ** (3 * (x - 0.5))
    lowest = rates[losses.argmin()]
    found = suggest(rates, np.append(losses[:650], [np.nan]))
    lag = (rates[1] / rates[0]) ** 9
    assert found.steepest == pytest.approx(1e-3 * lag, rel=0.1)
    assert lowest / 10 <= found.tenth <= lowest * lag**1.5 / 10
    smooth = smoothed(losses[:650])
    within = [rate for rate, loss in zip(rates[:650], smooth, strict=True) if loss <= 1.05 * smooth.min()]
    assert found.edge == pytest.approx(max(within)) and lowest < found.edge < 10, "it rises once, at the end"
