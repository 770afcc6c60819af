"""What goes on around the steps of a fold: progress, checkpoints, the deadline, and the wish to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from src.errors import NoMemory, UserError
from src.training.budget import Watch
from src.training.checkpoint import CheckpointWriter, checkpoints
from src.training.interrupt import StopWish
from src.training.learner import Learner
from src.training.memory import in_one_line, out_of_memory
from src.training.progress import ProgressBar


class Progress(NamedTuple):
    """How far `fit` came: the steps done, one mapping per validated epoch, seconds of work, and the sum and the count
    of the losses of the epoch that it stopped in."""

    step: int
    history: list[dict[str, float]]
    spent: float
    loss_so_far: tuple[Any, Any] = (0.0, 0)

    def settled(self) -> Progress:
        """As plain values that do not change any more; waits for the device, where the sum still lies."""
        return self._replace(
            history=list(self.history), loss_so_far=(float(self.loss_so_far[0]), int(self.loss_so_far[1]))
        )


@dataclass
class Session:
    """bar: what the user sees. checkpoint_every: seconds of work between two. watch: whether the plan ends in time, or
    None. notes: what else a checkpoint should remember."""

    bar: ProgressBar
    checkpoints: CheckpointWriter
    checkpoint_every: float
    watch: Watch | None
    wish: StopWish
    notes: Mapping[str, Any]
    saved_at: float = field(default_factory=time.monotonic)

    def agreed(self, accelerator: Any, step: int, last: int) -> tuple[int, bool]:
        """After `step`: the signal to stop for, or 0, and whether the plan has to be made again.

        Several processes agree at some steps only, so that none waits in a collective call for one that has left;
        asking at every step would make each wait for the slowest process twice.
        """
        signum = self.wish.signum
        behind = self.watch is not None and self.watch.must_replan(step + 1) and step < last
        if accelerator.num_processes == 1:
            return signum, behind
        if step % 10 and step != last:
            return 0, False
        wishes = accelerator.gather(torch.tensor([[signum, int(behind)]], device=accelerator.device)).amax(0).tolist()
        return int(wishes[0]), bool(wishes[1])

    def save(self, done: Progress, snapshot: Callable[[], Mapping[str, Any]], now: bool) -> None:
        """Write a checkpoint if one is due, or `now`."""
        if now or time.monotonic() - self.saved_at > self.checkpoint_every:
            self.checkpoints.write(done.step, {**snapshot(), **self.notes, **done.settled()._asdict()})
            self.saved_at = time.monotonic()

    def rescue(self, error: BaseException, learner: Learner, done: Progress, last: int) -> UserError | None:
        """What to end with for an error in the step after `done` that means "too little memory", in one line, after a
        checkpoint if there is something to keep; None for any other error."""
        told = in_one_line(error, f" in step {done.step + 1} of {last + 1}")
        if told is None:
            return None
        if learner.accelerator.is_main_process and learner.at == done.step > 0:
            self.save(done, learner.snapshot, now=True)
        self.checkpoints.wait()
        kept = any(checkpoints(self.checkpoints.folder))
        goes_on = f"; the same command goes on from the checkpoint in {self.checkpoints.folder}" if kept else ""
        if not out_of_memory(error):
            return UserError(f"{told}{goes_on}")
        return NoMemory(f"{told}{goes_on}{'; another batch_size is another run (run=NAME)' if kept else ''}")
