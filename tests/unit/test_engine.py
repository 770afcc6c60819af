"""The loop against a few lines of plain torch: stages of other sizes and batches, the weights carried on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.data.loader import Batch
from src.data.preprocess import Preprocess
from src.data.spec import Normalisation
from src.training.checkpoint import CheckpointWriter
from src.training.device import make_accelerator
from src.training.engine import Trained, fit
from src.training.interrupt import StopWish
from src.training.losses import cross_entropy
from src.training.progress import Progress
from src.training.stages import Stage

MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
LABELS = torch.tensor([0, 1, 2] * 8)
SHAPES = [(12, 8)] * 3 + [(20, 4)] * 4  # size and batch of each step: small images in larger batches first


def network() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(4, 3))


def micro_batches(accumulate: int) -> Iterator[Batch]:
    rng = np.random.default_rng(0)
    for size, count in SHAPES:
        for _ in range(accumulate):
            pixels = rng.integers(0, 256, (1, count, size, size, 3)).astype(np.uint8)
            rows = torch.from_numpy(rng.integers(0, len(LABELS), count))
            yield Batch(torch.from_numpy(pixels), None, rows, torch.ones(count, dtype=torch.bool))


def share(step: int) -> float:
    return 1 / (1 + step)


def by_the_loop(folder: Path, accumulate: int) -> tuple[nn.Module, Trained, list[int]]:
    accelerator = make_accelerator("cpu", "fp32", accumulate)
    stages = [
        Stage(0, 0, 3, 12, np.arange(24), 8, 1.0, 8 * accumulate),
        Stage(1, 3, 7, 20, np.arange(24), 4, 1.0, 4 * accumulate),
    ]
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, nesterov=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    validated: list[int] = []

    def validate(net: nn.Module, size: int) -> dict[str, float]:
        validated.append(size)
        return {}

    done = fit(
        accelerator=accelerator,
        model=model,
        optimizer=optimizer,
        stages=stages,
        batches=micro_batches(accumulate),
        targets=lambda rows: F.one_hot(LABELS[rows], 3).float(),
        loss_function=lambda logits, y, x: cross_entropy(logits, y),
        rate=share,
        base_lr=16.0,
        momentum=lambda step: None,
        trains=lambda step: "all",
        preprocess=Preprocess(Normalisation(tuple(MEAN.tolist()), tuple(STD.tolist()))),
        draw_mix=lambda step, count, size: None,
        clip=None,
        ema=None,
        swa=None,
        swa_at=lambda step: False,
        validate=validate,
        validate_every=100,
        wish=StopWish(),
        late=lambda step: False,
        progress=Progress(stages, 0, "accuracy", False, lambda row: None),
        checkpoints=CheckpointWriter(folder, 1),
        checkpoint_every=1e9,
        seed=0,
        notes={},
        so_far=Trained(0, [], 0.0),
    )
    return accelerator.unwrap_model(model), done, validated


def by_hand(accumulate: int) -> tuple[nn.Module, list[float]]:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, nesterov=True)
    batches, losses = micro_batches(accumulate), []
    for step, (_, count) in enumerate(SHAPES):
        optimizer.param_groups[0]["lr"] = 16.0 * accumulate * count / 256 * share(step)
        optimizer.zero_grad()
        for _ in range(accumulate):
            batch = next(batches)
            x: Tensor = (batch.images[0].permute(0, 3, 1, 2).float() / 255 - MEAN[:, None, None]) / STD[:, None, None]
            loss = F.cross_entropy(model(x), LABELS[batch.rows])
            (loss / accumulate).backward()
            losses.append(loss.item())
        optimizer.step()
    return model, losses


@pytest.mark.parametrize("accumulate", [1, 2])
def test_stages_of_growing_size_train_one_network(tmp_path: Path, accumulate: int) -> None:
    found, done, validated = by_the_loop(tmp_path, accumulate)
    expected, losses = by_hand(accumulate)
    torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=1e-4, atol=1e-5)
    assert (next(found.parameters()) - next(network().parameters())).abs().max() > 0.01, "it went somewhere"
    assert (done.step, [row["size"] for row in done.history], validated) == (7, [12, 20], [12, 20])
    first = 3 * accumulate
    means = [np.mean(losses[:first]), np.mean(losses[first:])]
    assert [row["loss"] for row in done.history] == pytest.approx(means, rel=1e-4)
