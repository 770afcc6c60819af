"""SyncBatchNorm as far as there is a CPU: what is converted, and that torch itself refuses to synchronise here."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import timm
import torch
from torch import nn

from src.errors import UserError
from src.training.device import sync_batchnorm


class Processes(NamedTuple):
    """The two facts about an Accelerator that decide."""

    num_processes: int
    device: torch.device


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])  # BatchNorm2d; timm's BatchNormAct2d
def test_conversion_changes_nothing_but_the_statistics(name: str) -> None:
    plain, model = (timm.create_model(name, num_classes=3) for _ in range(2))
    model.load_state_dict(plain.state_dict())
    before = list(model.parameters())
    synced = sync_batchnorm(model, Processes(2, torch.device("cuda", 0)))
    norms = [module for module in synced.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert len(norms) == sum(isinstance(module, nn.BatchNorm2d) for module in plain.modules()) > 3
    assert all(a is b for a, b in zip(before, synced.parameters(), strict=True)), "an EMA pairs them by their order"
    assert list(synced.state_dict()) == list(plain.state_dict())
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for training in (True, False):  # without a process group each falls back to a plain BatchNorm
        torch.testing.assert_close(synced.train(training)(x), plain.train(training)(x))


def test_only_between_gpus() -> None:
    model = timm.create_model("test_resnet")
    assert sync_batchnorm(model, Processes(1, torch.device("cpu"))) is model
    for device in ("cpu", "xla"):
        with pytest.raises(UserError, match=rf"model.sync_bn=true: .*not on {device}"):
            sync_batchnorm(model, Processes(2, torch.device(device)))


def test_torch_does_not_synchronise_on_a_cpu(tmp_path: Path) -> None:
    """Why the refusal, and why no test with two gloo processes: not even a group of one gets through on a CPU."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="expected input tensor to be on GPU"):
            nn.SyncBatchNorm(3)(torch.zeros(2, 3, 4, 4))
        with pytest.raises(NotImplementedError):
            torch.batch_norm_stats(torch.zeros(2, 3, 4, 4), 1e-5)
    finally:
        torch.distributed.destroy_process_group()
