"""Mixed precision on the CPU: what a T4 (fp16 with loss scaling) and newer devices (bf16) will do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from src.training.device import make_accelerator, natural_precision
from src.training.losses import cross_entropy, soft_targets

pytestmark = pytest.mark.fold


def toy(precision: str, steps: int, init_scale: float | None = None) -> tuple[list[float], nn.Module, object]:
    """Losses of a small network that separates two clouds, trained as the loop does it."""
    accelerator = make_accelerator("cpu", precision)
    if init_scale is not None:
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
    torch.manual_seed(0)
    labels = torch.arange(64) % 2
    x = torch.randn(64, 8) + 2 * labels[:, None]
    y = soft_targets(labels, 2)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9))
    losses = []
    for _ in range(steps):
        with accelerator.accumulate(model):
            loss = cross_entropy(model(x), y)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    return losses, model, accelerator


def test_fp32_bf16_and_fp16_agree_on_a_toy_problem() -> None:
    exact, _, _ = toy("fp32", 40)
    assert exact[-1] < 0.1 < exact[0]
    for precision in ("bf16", "fp16"):
        losses, model, accelerator = toy(precision, 40)
        assert losses == pytest.approx(exact, abs=0.03)
        assert losses != exact, f"{precision} was not used"
        assert {p.dtype for p in model.parameters()} == {torch.float32}, "the master weights stay fp32"
        assert (accelerator.scaler is not None) == (precision == "fp16")


def test_an_overflow_of_the_loss_scale_is_survived() -> None:
    """Scaled gradients are infinite at first: those steps are skipped and the scale halved until they fit."""
    losses, model, accelerator = toy("fp16", 60, init_scale=2.0**40)
    assert losses[0] == losses[1], "the first step must have been skipped"
    assert accelerator.scaler.get_scale() < 2.0**40
    assert losses[-1] < 0.2
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_precision_follows_the_device() -> None:
    assert natural_precision("tpu") == "bf16"
    assert natural_precision("mps") == "fp32"
    assert natural_precision("cpu") in ("fp32", "bf16")
