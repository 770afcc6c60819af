"""The search against all sizes tried one by one; what autograd keeps against a count by hand; memory that runs out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from src.training import batch_finder
from src.training.batch_finder import largest_batch, saved_bytes, step_fits
from src.training.device import make_accelerator
from src.training.optimizer import build_optimizer


@pytest.mark.parametrize("limit", [0, 8, 9, 16, 23, 24, 100, 104, 127, 128, 1000, 10**6])
@pytest.mark.parametrize("most", [8, 40, 100, 1024])
def test_the_search_finds_the_largest_multiple_of_eight(limit: int, most: int) -> None:
    asked: list[int] = []

    def fits(batch: int) -> bool:
        asked.append(batch)
        return batch <= limit

    found = largest_batch(fits, most)
    assert found == max([8, *(batch for batch in range(8, most + 1, 8) if batch <= limit)])
    assert max(asked) <= max(8, most) and len(asked) == len(set(asked)) <= 16
    assert found in asked, "what is taken has really run"


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 2))


def test_what_autograd_keeps() -> None:
    """The input, the output of the ReLU and, as images are channels_last, its flattened copy; weights do not count."""
    assert saved_bytes(network(), 8) == 4 * (3 * 8 * 8 + 2 * 4 * 6 * 6)


def fits_of(model: nn.Module) -> Callable[[int], bool]:
    optimizer = partial(build_optimizer, name="adamw", weight_decay=0.1)
    return step_fits(model, optimizer, 8, make_accelerator("cpu", "fp32"))


def test_a_share_of_the_free_memory_bounds_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    each = 2 * 4 * (3 * 8 * 8 + 2 * 4 * 6 * 6)  # twice what autograd keeps
    monkeypatch.setattr(batch_finder, "free_memory", lambda: 2 * each * 100)
    assert largest_batch(fits_of(network())) == 96


class Hungry(nn.Sequential):
    """Asks for a petabyte for more than 40 images, which torch's allocator refuses."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 40:
            torch.empty(10**15, dtype=torch.uint8)
        return super().forward(x)


def test_memory_that_runs_out_is_stepped_back_from() -> None:
    model = Hungry(*network())
    before = [parameter.clone() for parameter in model.parameters()]
    assert largest_batch(fits_of(model)) == 40
    assert all(map(torch.equal, before, model.parameters())), "a copy is tried"


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 2))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fits_of(model)(8)
