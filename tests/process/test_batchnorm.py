"""BatchNorm over two real processes: SyncBatchNorm and precise BN have the statistics of one process with all rows."""

from __future__ import annotations

import copy
import os
import socket
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
import timm
import torch
from torch import Tensor, nn

from src.training.averaging import refresh_batchnorm
from src.training.device import make_accelerator, sync_batchnorm

pytestmark = pytest.mark.process
SHARES = (slice(0, 5), slice(5, 8))  # of eight images, one share per process


class Gpus(NamedTuple):
    """What `sync_batchnorm` asks an Accelerator; the network itself stays on the CPU."""

    num_processes: int = 2
    device: torch.device = torch.device("cuda", 0)


def network() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_efficientnet", num_classes=3).train()


def images() -> Tensor:
    values = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return values * torch.arange(1, 9)[:, None, None, None] / 4 + torch.arange(8)[:, None, None, None]


def add_cpu_kernels() -> torch.library.Library:
    """torch synchronises with three kernels that it has for GPUs only; here they are by their formulas. Its list of
    devices that have them is patched where they are used."""

    def stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return x.mean((0, 2, 3)), (x.var((0, 2, 3), unbiased=False) + eps).rsqrt()

    def gather(
        x: Tensor, means: Tensor, inverses: Tensor, mean: Tensor, var: Tensor, momentum: float, eps: float, n: Tensor
    ) -> tuple[Tensor, Tensor]:
        share, total = (n / n.sum())[:, None], n.sum()
        whole = (share * means).sum(0)
        variance = (share * (inverses**-2 - eps + means**2)).sum(0) - whole**2
        mean.lerp_(whole, momentum)
        var.lerp_(variance * total / (total - 1), momentum)
        return whole, (variance + eps).rsqrt()

    def normalise(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor, eps: float) -> Tensor:
        scale, shift = weight * inverse, bias - mean * weight * inverse
        return x * scale[:, None, None] + shift[:, None, None]

    library = torch.library.Library("aten", "IMPL")
    library.impl("batch_norm_stats", stats, "CPU")
    library.impl("batch_norm_gather_stats_with_counts", gather, "CPU")
    library.impl("batch_norm_elemt", normalise, "CPU")
    return library


def work(rank: int, port: int, folder: Path) -> None:
    """One of the two processes; leaves its outputs and statistics in `folder`."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    accelerator, mine = make_accelerator("cpu", "fp32"), images()[SHARES[rank]]
    assert accelerator.num_processes == 2
    precise = network()
    refresh_batchnorm(precise, mine.split(3), accelerator.reduce)
    kept = add_cpu_kernels()
    synced = sync_batchnorm(network(), Gpus())
    with torch.no_grad(), mock.patch("torch._C._get_privateuse1_backend_name", return_value="cpu"):
        output = synced(mine)
    del kept
    found = {"output": output, "synced": synced.state_dict(), "precise": precise.state_dict()}
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(start_server: Any, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start_server.Process(target=work, args=(rank, port, folder)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(900)
        assert process.exitcode == 0
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def statistics(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if "running" in name}


def test_synchronised_statistics_are_those_of_one_process(found: list[dict]) -> None:
    alone = network()
    with torch.no_grad():
        output = alone(images())
        halves = [copy.deepcopy(network())(images()[share]) for share in SHARES]
    torch.testing.assert_close(torch.cat([each["output"] for each in found]), output, rtol=1e-4, atol=1e-4)
    assert (torch.cat(halves) - output).abs().max() > 1e-2, "each process for itself would be something else"
    for each in found:
        assert len(statistics(each["synced"])) > 6
        torch.testing.assert_close(statistics(each["synced"]), statistics(alone.state_dict()), rtol=1e-4, atol=1e-5)


def test_precise_statistics_of_two_processes_are_those_of_one(found: list[dict]) -> None:
    alone = network()
    batches = [batch for share in SHARES for batch in images()[share].split(3)]
    refresh_batchnorm(alone, batches)
    for each in found:
        torch.testing.assert_close(statistics(each["precise"]), statistics(alone.state_dict()), rtol=1e-5, atol=1e-6)
