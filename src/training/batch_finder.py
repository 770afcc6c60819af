"""The largest batch that a device can train with, found by trying; on a CPU within a share of its free memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from src.data.spec import RGB, ImageSpec, example_input
from src.training.memory import free_memory, out_of_memory

# Share of a CPU's free memory that a training step may take: the rest is for the page cache, workers and other people.
SHARE = 0.5
# What a step needs beside what autograd keeps: gradients of activations, work space of convolutions.
BESIDE = 2.0
SMALLEST, LARGEST = 8, 1024


def largest_batch(fits: Callable[[int], bool], most: int = LARGEST) -> int:
    """The largest batch, a multiple of 8, that `fits`, by doubling from 8, then halving the way back; up to `most`.

    Eight if even that does not fit: the run itself will then say what is wrong.
    """
    good = SMALLEST
    if not fits(good):
        return good
    while 2 * good <= most and fits(2 * good):
        good *= 2
    step = good // 2
    while step >= 8:
        if good + step <= most and fits(good + step):
            good += step
        step //= 2
    return good


def step_fits(
    step: Callable[[int], None], network: nn.Module, size: int, accelerator: Any, spec: ImageSpec = RGB
) -> Callable[[int], bool]:
    """batch -> whether `step` (batch), a whole step of `network` at `size` pixels, runs on its device.

    It is taken twice, because the optimiser's state is there from the second on, beside copies for the two averages.
    On a CPU, where a process that asks for too much is killed, only what should fit into SHARE of the free memory is
    tried.
    """

    def fits(batch: int) -> bool:
        if (
            accelerator.device.type == "cpu"
            and BESIDE * batch * saved_bytes(network, size, spec) > SHARE * free_memory()
        ):
            return False
        try:
            _averages = [copy.deepcopy(network) for _ in range(2)]
            for _ in range(2):
                step(batch)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            return False
        return True

    return fits


def saved_bytes(model: nn.Module, size: int, spec: ImageSpec = RGB) -> float:
    """Bytes that autograd keeps for the backward pass of one image (3, size, size), counted over two."""
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    trial = copy.deepcopy(model).train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kept = trial(example_input(spec, 2, size, next(trial.parameters()).device))
    own = {tensor.untyped_storage().data_ptr() for tensor in trial.state_dict().values()}
    del kept
    return sum(size for pointer, size in held.items() if pointer not in own) / 2
