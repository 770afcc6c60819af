"""The loop against a few lines of plain torch: stages of other sizes and batches, the weights carried on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.config import AverageConfig, MixConfig, ScheduleConfig
from src.data.augment import Augment
from src.data.loader import Batch
from src.data.preprocess import Preprocess
from src.data.spec import Normalisation
from src.errors import UserError
from src.model.outputs import outputs_of
from src.training.checkpoint import checkpoints, load_checkpoint
from src.training.device import make_accelerator
from src.training.engine import fit
from src.training.learner import Learner
from src.training.losses import cross_entropy
from src.training.objective import Objective
from src.training.plan import Plan
from src.training.session import Progress, Session
from src.training.stages import Stage
from tests.unit.silent import silent_session

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


class FallingPlan(Plan):
    def share(self, step: int) -> float:
        return share(step)


def by_the_loop(folder: Path, accumulate: int) -> tuple[nn.Module, Progress, list[int]]:
    accelerator = make_accelerator("cpu", "fp32", accumulate)
    stages = (
        Stage(0, 0, 3, 12, np.arange(24), 8, 1.0, 8 * accumulate),
        Stage(1, 3, 7, 20, np.arange(24), 4, 1.0, 4 * accumulate),
    )
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, nesterov=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    validated: list[int] = []

    def validate(net: nn.Module, size: int) -> dict[str, float]:
        validated.append(size)
        return {}

    done = fit(
        Learner(accelerator, model, optimizer, None, None, None),
        Objective(
            lambda rows: F.one_hot(LABELS[rows], 3).float(),
            lambda logits, y, x: cross_entropy(logits, y),
            outputs_of("single", "cross_entropy", 3),
        ),
        FallingPlan(stages, 24, 0, 16.0, ScheduleConfig(), AverageConfig(), MixConfig(), Augment(), validate_every=100),
        micro_batches(accumulate),
        Preprocess(Normalisation(tuple(MEAN.tolist()), tuple(STD.tolist()))),
        validate,
        silent_session(stages, folder),
        Progress(0, [], 0.0),
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


# ---- too little memory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "at", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "forward", "batch_size: out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "forward", "batch_size: out of memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "batch", "workers: a loader process"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's "
                      "workers are out of shared memory."), "batch", "--shm-size"),
        (torch.OutOfMemoryError("CUDA out of memory"), "step", "batch_size: out of memory"),
        (RuntimeError("a bug"), "forward", None),
    ],
)  # fmt: skip
def test_too_little_memory_is_one_line_after_a_checkpoint(
    error: Exception, at: str, told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the fourth step, of the second stage."""
    count = iter(range(100))
    fails = {
        "forward": (nn.Conv2d, "forward"), "batch": (Preprocess, "__call__"), "step": (torch.optim.SGD, "step")
    }[at]  # fmt: skip
    before = getattr(*fails)

    def failing(*arguments: object, **named: object) -> object:
        if next(count) == 3:
            raise error
        return before(*arguments, **named)

    monkeypatch.setattr(*fails, failing)
    with pytest.raises(UserError if told else RuntimeError) as raised:
        by_the_loop(tmp_path, 1)
    if told is None:
        assert str(raised.value) == "a bug" and not checkpoints(tmp_path)
        return
    assert str(raised.value).startswith(told) or told in str(raised.value)
    assert "in step 4 of 7" in str(raised.value)
    state = load_checkpoint(tmp_path)
    if at == "step":  # half of the weights may have moved
        assert state is None and "goes on" not in str(raised.value)
        return
    assert state is not None and state["step"] == 3 and str(tmp_path) in str(raised.value)
    assert "the same command goes on from the checkpoint" in str(raised.value)
    assert len(state["history"]) == 1 and state["loss_so_far"] == (0.0, 0)


def test_every_process_ends_the_step_before_the_first_one_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On XLA, reading a value runs what was recorded: collective calls that no other process makes at that point."""
    calls: list[str] = []
    monkeypatch.setattr("src.training.engine.end_step", lambda device: calls.append("end"))
    monkeypatch.setattr(Session, "save", lambda *arguments, **named: calls.append("save"))
    by_the_loop(tmp_path, 2)
    assert calls == ["end", "save"] * len(SHAPES)
