"""The peak of memory that a fold's manifest holds."""

from __future__ import annotations

import sys

import pytest
import torch

from src.training.device import count_memory

MEGABYTE = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not forget an earlier peak")
def test_the_peak_is_that_since_the_counting_began() -> None:
    def touched(megabytes: int) -> int:
        return int(torch.ones(megabytes * MEGABYTE, dtype=torch.uint8)[-1])

    touched(400)
    before = count_memory(torch.device("cpu"))
    low = before()
    touched(200)
    assert 150 * MEGABYTE < before() - low < 250 * MEGABYTE
    assert count_memory(torch.device("cpu"))() - low < 50 * MEGABYTE, "the peak before it is forgotten"
