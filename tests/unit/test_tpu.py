"""What is done for a TPU, on a machine that only says that it is one; tests/process/test_xla.py trains on XLA's CPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import accelerate
import pytest
import torch
from torch import nn

from src import launch
from src.data.loader import Batch, handed_over
from src.errors import UserError
from src.training.averaging import Ema
from src.training.device import end_step, from_main, make_accelerator, precision_of, prepare_tpu
from src.training.learner import Learner
from src.training.memory import worker_killed

XLA = ("XLA_USE_BF16", "XLA_DOWNCAST_BF16", "TPU_PROCESS_ADDRESSES", "XLA_PERSISTENT_CACHE_PATH")


@pytest.fixture
def tpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The environment of Kaggle's TPU image, and a torch_xla that notes what it is asked for."""
    for name in (*XLA, "XLA_PERSISTENT_CACHE_READ_ONLY", "WORLD_SIZE", "PJRT_DEVICE"):
        monkeypatch.setenv(name, "")  # so that all of them are as before afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("ISTPUVM", "1")
    monkeypatch.setenv("TPU_PROCESS_ADDRESSES", "local")
    xla, core, model = (ModuleType(f"torch_xla{name}") for name in ("", ".core", ".core.xla_model"))
    xla.core, core.xla_model = core, model  # type: ignore[attr-defined]
    for module in (xla, core, model):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return xla


def test_bf16_on_a_tpu_is_autocast_alone(tpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, their average, sums of losses and steps stay float32."""
    told: list[str] = []
    accelerators = accelerate.Accelerator
    monkeypatch.setattr(
        accelerate, "Accelerator", lambda **named: told.append(named["mixed_precision"]) or accelerators(**named)
    )
    accelerator = make_accelerator("tpu", "auto")
    assert told == ["no"], "of bf16 Accelerate makes XLA_USE_BF16 on a TPU"
    assert precision_of(accelerator) == "bf16" and accelerator.scaler is None
    assert not os.environ.keys() & {"XLA_USE_BF16", "XLA_DOWNCAST_BF16"}, "these turn every float32 into bf16"
    torch.manual_seed(0)
    layer, seen = nn.Linear(4, 3), []
    reference = nn.Linear(4, 3)
    reference.load_state_dict(layer.state_dict())
    ema = Ema(layer, 0.999)
    model, optimizer = accelerator.prepare(layer, torch.optim.SGD(layer.parameters(), lr=1e-4))
    learner = Learner(accelerator, model, optimizer, ema, None, None)
    x = torch.randn(8, 4)

    def loss(logits: torch.Tensor, y: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        seen.append(logits.dtype)
        return (logits - y).square().mean()

    objective, plain = SimpleNamespace(loss=loss), torch.optim.SGD(reference.parameters(), lr=1e-4)
    with accelerator.autocast():
        assert torch.mm(x, x.T).dtype == torch.bfloat16
    running = torch.tensor(0.0)
    for step in range(200):
        learner.step(x, torch.ones(8, 3), objective)
        learner.average(step + 1, step == 199, False)
        plain.zero_grad()
        (reference(x) - 1).square().mean().backward()
        plain.step()
        running = running + torch.tensor(0.7)
    assert set(seen) == {torch.float32}, "the loss is of float32 logits"
    assert {p.dtype for p in [*layer.parameters(), *ema.module.parameters()]} == {torch.float32}
    moved = (reference.weight - ema.module.weight).abs().max()
    torch.testing.assert_close(layer.weight, reference.weight, rtol=1e-3, atol=1e-5)
    assert 0 < moved < 0.1 and running.item() == pytest.approx(140, rel=1e-5)


def test_fp16_is_refused_in_one_line(tpu: ModuleType) -> None:
    with pytest.raises(UserError, match="precision=fp16: a TPU has bf16"):
        make_accelerator("tpu", "fp16")


def test_the_environment_is_made_ready_before_processes_are_spawned(tpu: ModuleType, tmp_path: Path) -> None:
    prepare_tpu(tmp_path)
    seen: list[tuple[str | None, str | None, str | None]] = []
    names = ("TPU_PROCESS_ADDRESSES", "XLA_PERSISTENT_CACHE_PATH", "XLA_PERSISTENT_CACHE_READ_ONLY")

    def start() -> int:
        seen.append(tuple(os.environ.get(name) for name in names))  # type: ignore[arg-type]
        return 0

    def spawn(function: object, args: tuple) -> None:
        for index in range(3):
            launch._start_on_tpu(index, *args)

    tpu.launch = spawn  # type: ignore[attr-defined]
    assert launch.launch(start, (), launch.processes_wanted("auto", "auto")) == 0
    folder = str(tmp_path / "xla")
    assert seen == [(None, folder, "0"), (None, folder, "1"), (None, folder, "1")], "one of them keeps the programs"


def test_nothing_is_touched_off_a_tpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ISTPUVM", "PJRT_DEVICE", "XLA_PERSISTENT_CACHE_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TPU_PROCESS_ADDRESSES", "local")
    prepare_tpu(tmp_path)
    assert os.environ["TPU_PROCESS_ADDRESSES"] == "local" and "XLA_PERSISTENT_CACHE_PATH" not in os.environ


@pytest.mark.parametrize("value", [Path("a/b"), (True, None), {"x": [1.5]}, "text", None])
def test_anything_can_be_told_by_the_first_process(tpu: ModuleType, value: object) -> None:
    payloads: list[bytes] = []

    def rendezvous(tag: str, payload: bytes) -> list[bytes]:
        payloads.append(payload)
        return [payloads[0], payload]

    tpu.core.xla_model.rendezvous = rendezvous  # type: ignore[attr-defined]
    for rank, own in enumerate((value, "the second one's")):
        there = SimpleNamespace(num_processes=2, process_index=rank, device=torch.device("xla"))
        assert from_main(there, own) == value


def test_a_step_ends_on_xla_alone(tpu: ModuleType) -> None:
    calls: list[int] = []
    tpu.sync = lambda: calls.append(1)  # type: ignore[attr-defined]
    end_step(torch.device("cpu"))
    assert not calls
    end_step(torch.device("xla"))
    assert calls == [1]


# ---- batches on their way -------------------------------------------------------------------------------------------


def made_of(count: int, training: bool = True) -> list[Batch | UserError]:
    images, colour = torch.zeros(1, 2, 4, 4, 3, dtype=torch.uint8), torch.zeros(2, 3, 4)
    return [
        Batch(images + i, colour + i if training else None, torch.tensor([i, -1]), torch.ones(2, dtype=torch.bool))
        for i in range(count)
    ]


def test_a_loader_process_that_dies_handing_over_is_known_as_killed() -> None:
    def cut() -> Iterator[Batch | UserError]:
        yield from made_of(1)
        raise ConnectionResetError(104, "Connection reset by peer")

    made = handed_over(cut())
    next(made)
    with pytest.raises(RuntimeError) as raised:
        next(made)
    assert worker_killed(raised.value)


@pytest.mark.parametrize("affine", [True, False])
def test_a_held_norm_is_batch_norm_in_evaluation_mode(affine: bool) -> None:
    from src.training.device import held_norm

    random = torch.Generator().manual_seed(0)
    norm = torch.nn.BatchNorm2d(3, affine=affine).eval()
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.normal_(generator=random)
    norm.running_var.uniform_(0.5, 2, generator=random)
    if affine:
        torch.nn.init.uniform_(norm.weight, 0.5, 2, generator=random)
        torch.nn.init.normal_(norm.bias, generator=random)
    x = torch.randn(4, 3, 5, 5, generator=random, requires_grad=True)
    found = held_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(found, norm(x))
    toward = torch.randn(found.shape, generator=random)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, toward)[0] for y in (found, norm(x))))
