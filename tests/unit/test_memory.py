"""The memory of freed tensors, and the peak of memory that a fold's manifest holds."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from src.training.memory import count_memory

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


FAULTS = """
import resource
import torch
from src.training.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(2**26, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
cleared = faults()
keep_freed_memory()
for _ in range(5):  # the heap grows into shape
    faults()
print(cleared, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_freed_memory_is_used_again_without_the_kernel() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    cleared, kept = map(int, done.stdout.split())
    assert cleared > 20 * max(1, kept), "page faults of 4 x 64 MB, mapped anew each time, or kept"
