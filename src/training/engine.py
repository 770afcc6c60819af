"""The training loop: one pass over the planned steps, the same on a CPU, several GPUs and a TPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.data.loader import Batch, to_input
from src.errors import UserError
from src.training.averaging import average_buffers
from src.training.checkpoint import save_checkpoint
from src.training.device import seed_torch
from src.training.interrupt import Interrupted, StopWish
from src.training.mixing import Mix, apply_mix
from src.training.optimizer import scaled_rate, set_rate
from src.training.progress import Progress
from src.training.stages import Stage, is_epoch_end, stage_at


def fit(
    *,
    accelerator: Any,
    model: nn.Module,
    optimizer: Any,
    stages: Sequence[Stage],
    batches: Iterator[Batch],
    targets: Callable[[Tensor], Tensor],
    loss_function: Callable[[Tensor, Tensor], Tensor],
    rate: Callable[[int], float],
    base_lr: float,
    mean: Tensor,
    std: Tensor,
    draw_mix: Callable[[int, int, int], Mix | None],
    clip: float | None,
    ema: Any,
    swa: Any,
    swa_at: Callable[[int], bool],
    validate: Callable[[nn.Module, int], Mapping[str, float]],
    validate_every: int,
    wish: StopWish,
    progress: Progress,
    folder: Path,
    checkpoint_every: float,
    keep: int,
    seed: int,
    notes: Mapping[str, Any],
    first: int = 0,
    history: list[dict[str, float]] | None = None,
    spent: float = 0.0,
    loss_so_far: tuple[float, int] = (0.0, 0),
) -> tuple[list[dict[str, float]], float]:
    """Train `model` in place from step `first` to the last stage's end; returns the history and the seconds of work.

    batches: micro-batches from step `first` on, images (1, B, S, S, 3) uint8. targets: rows (B,) -> (B, C) soft.
    rate: step -> share of the peak rate, which is base_lr x total batch / 256. draw_mix: (step, B, size) -> Mix.
    validate: (model, size) -> scores of the held-out fold. history: one mapping per validated epoch. notes: what else a
    checkpoint should remember. spent: seconds of work so far; loss_so_far: sum and count of a broken epoch's losses.
    Raises Interrupted after a checkpoint when `wish` is set, UserError when the loss is no longer finite.
    """
    history = list(history or [])
    network = accelerator.unwrap_model(model)
    last, saved_at, began = stages[-1].stop - 1, time.monotonic(), time.monotonic()
    running, counted = torch.tensor(loss_so_far[0], device=accelerator.device), loss_so_far[1]
    model.train()

    for step in range(first, last + 1):
        stage = stage_at(stages, step)
        set_rate(optimizer, scaled_rate(base_lr, stage.total_batch) * rate(step))

        for micro in range(accelerator.gradient_accumulation_steps):
            batch = _on(next(batches), accelerator.device)
            # what torch draws (dropout, drop path) is a function of the step, as the data are: a resume needs no
            # generator states. After the batch, because starting the loader draws a number as well.
            seed_torch(hash((seed, step, micro, accelerator.process_index)), accelerator.device)
            with accelerator.accumulate(model):
                x = to_input(batch.images[0], mean, std, batch.colour)
                x, y = apply_mix(x, targets(batch.rows), draw_mix(step, len(x), stage.size))
                loss = loss_function(model(x), y)
                accelerator.backward(loss)
                if clip is not None and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
            running, counted = running + loss.detach(), counted + 1

        if ema is not None:
            ema.update(network, step + 1)
        if swa is not None and swa_at(step):
            swa.update_parameters(network)
        progress.step(stage, step)

        if is_epoch_end(stages, step, validate_every):
            mean_loss = float(accelerator.reduce(running, "mean")) / counted
            running, counted = torch.zeros((), device=accelerator.device), 0
            if not np.isfinite(mean_loss):
                raise UserError(
                    f"optimizer.lr={base_lr:g}: the loss became {mean_loss} by step {step}; try a third of it"
                )
            pace = progress.images_per_second()  # of training alone, so read before validation
            average_buffers(network, accelerator)
            scores = validate(network, stage.size)
            model.train()
            row = {
                "step": step + 1,
                "stage": stage.number + 1,
                "size": stage.size,
                "rate": rate(step),
                "loss": mean_loss,
            }
            row |= {"images_per_second": pace, "seconds": spent + time.monotonic() - began}
            history.append(row | dict(scores))
            progress.epoch(stage, history[-1])

        stop = _agreed(accelerator, wish, step % 10 == 0 or step == last)
        due = is_epoch_end(stages, step) or time.monotonic() - saved_at > checkpoint_every
        if accelerator.is_main_process and (due or stop):
            state = snapshot(accelerator, network, optimizer, ema, swa)
            extra = {
                **notes,
                "loss_so_far": (float(running), counted),
                "step": step + 1,
                "history": history,
                "spent": spent + time.monotonic() - began,
            }
            save_checkpoint(folder, step + 1, state | extra, keep)
            saved_at = time.monotonic()
        if stop:
            accelerator.wait_for_everyone()  # for the first process, which writes
            raise Interrupted(stop, f"stopped after step {step + 1} of {last + 1}, checkpoint in {folder}")

    return history, spent + time.monotonic() - began


def snapshot(accelerator: Any, network: nn.Module, optimizer: Any, ema: Any, swa: Any) -> dict[str, Any]:
    """All tensors that the loop changes, on the host; data, schedule and random numbers follow from the step."""
    state = {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else {},
        "ema": ema.module.state_dict() if ema is not None else {},
        "swa": swa.state_dict() if swa is not None else {},
    }
    from accelerate.utils import send_to_device

    return send_to_device(state, "cpu")  # an XLA tensor could only be unpickled by XLA's own code


def restore(state: Mapping[str, Any], accelerator: Any, network: nn.Module, optimizer: Any, ema: Any, swa: Any) -> None:
    """The inverse of `snapshot`."""
    network.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if accelerator.scaler is not None and state["scaler"]:  # empty after a device that needed none
        accelerator.scaler.load_state_dict(state["scaler"])
    if ema is not None:
        ema.module.load_state_dict(state["ema"])
    if swa is not None:
        swa.load_state_dict(state["swa"])


def _on(batch: Batch, device: torch.device) -> Batch:
    colour = None if batch.colour is None else batch.colour.to(device, non_blocking=True)
    return Batch(batch.images.to(device, non_blocking=True), colour, batch.rows.to(device, non_blocking=True))


def _agreed(accelerator: Any, wish: StopWish, ask: bool) -> int:
    """The signal to stop for, or 0. Several processes agree at some steps only, so that none waits in a collective
    call for one that has left; asking at every step would make each wait for the slowest process twice."""
    if accelerator.num_processes == 1:
        return wish.signum
    if not ask:
        return 0
    signals = accelerator.gather(torch.tensor([wish.signum], device=accelerator.device))
    return int(signals.max())
