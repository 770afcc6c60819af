"""The training loop: one pass over the planned steps, the same on a CPU, several GPUs and a TPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from src.data.loader import Batch
from src.data.preprocess import Preprocess
from src.errors import UserError
from src.training.averaging import average_buffers
from src.training.checkpoint import CheckpointWriter
from src.training.device import seed_torch
from src.training.freezing import Part, train_only
from src.training.interrupt import Interrupted, StopWish
from src.training.mixing import Mix, apply_mix
from src.training.optimizer import scaled_rate, set_rate
from src.training.progress import Progress
from src.training.stages import Stage, is_epoch_end, stage_at


class Trained(NamedTuple):
    """How far `fit` came: the steps done, one mapping per validated epoch, seconds of work, and the sum and the count
    of the losses of the epoch that it stopped in."""

    step: int
    history: list[dict[str, float]]
    spent: float
    loss_so_far: tuple[float, int] = (0.0, 0)


def fit(
    *,
    accelerator: Any,
    model: nn.Module,
    optimizer: Any,
    stages: Sequence[Stage],
    batches: Iterator[Batch],
    targets: Callable[[Tensor], Tensor],
    loss_function: Callable[[Tensor, Tensor, Tensor], Tensor],
    rate: Callable[[int], float],
    base_lr: float,
    momentum: Callable[[int], float | None],
    trains: Callable[[int], Part],
    preprocess: Preprocess,
    draw_mix: Callable[[int, int, int], Mix | None],
    clip: float | None,
    ema: Any,
    swa: Any,
    swa_at: Callable[[int], bool],
    validate: Callable[[nn.Module, int], Mapping[str, float]],
    validate_every: int,
    wish: StopWish,
    late: Callable[[int], bool],
    progress: Progress,
    checkpoints: CheckpointWriter,
    checkpoint_every: float,
    seed: int,
    notes: Mapping[str, Any],
    so_far: Trained,
) -> Trained:
    """Train `model` in place from step `so_far.step` to the last stage's end, or to a step that is `late`.

    batches: micro-batches from that step on, images (1, B, S, S, C) samples. targets: rows (B,) -> (B, C) soft.
    loss_function: (logits, targets, inputs) -> scalar; the inputs are there for a teacher that looks at the same crops.
    rate: step -> share of the peak rate, which is base_lr x total batch / 256. momentum: step -> the optimiser's, or
    None for its own. trains: step -> the part of the network that learns. draw_mix: (step, B, size) -> Mix.
    validate: (model, size) -> scores of the held-out fold. late: step -> whether the steps from there on have to be
    planned anew; the caller then calls again. notes: what else a checkpoint should remember.
    Raises Interrupted after a checkpoint when `wish` is set, UserError when the loss is no longer finite.
    """
    history, (loss_sum, counted) = list(so_far.history), so_far.loss_so_far
    network = accelerator.unwrap_model(model)
    last, saved_at, began = stages[-1].stop - 1, time.monotonic(), time.monotonic()
    running = torch.tensor(loss_sum, device=accelerator.device)

    for step in range(so_far.step, last + 1):
        stage = stage_at(stages, step)
        set_rate(optimizer, scaled_rate(base_lr, stage.total_batch) * rate(step), momentum(step))
        train_only(model, optimizer, trains(step))

        for micro in range(accelerator.gradient_accumulation_steps):
            batch = next(batches)
            # what torch draws (dropout, drop path) is a function of the step, as the data are: a resume needs no
            # generator states. After the batch, because starting the loader draws a number as well.
            seed_torch(hash((seed, step, micro, accelerator.process_index)), accelerator.device)
            with accelerator.accumulate(model):
                x, rows = (
                    preprocess(batch.images[0], batch.colour),
                    batch.rows.to(accelerator.device, non_blocking=True),
                )
                x, y = apply_mix(x, targets(rows), draw_mix(step, len(x), stage.size))
                loss = loss_function(model(x), y, x)
                accelerator.backward(loss)
                if clip is not None and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
            running, counted = running + loss.detach(), counted + 1

        if ema is not None:
            ema.update(network, step + 1, step == last)
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
            row = {
                "step": step + 1,
                "stage": stage.number + 1,
                "size": stage.size,
                "rate": rate(step),
                "loss": mean_loss,
            }
            row |= {"images_per_second": pace, "seconds": so_far.spent + time.monotonic() - began}
            history.append(row | dict(scores))
            progress.epoch(stage, history[-1])

        stop, behind = _agreed(accelerator, wish.signum, late(step + 1) and step < last, step % 10 == 0 or step == last)
        due = step == last or time.monotonic() - saved_at > checkpoint_every
        done = Trained(step + 1, history, so_far.spent + time.monotonic() - began)
        if accelerator.is_main_process and (due or stop):
            state = snapshot(accelerator, network, optimizer, ema, swa)
            extra = {"step": done.step, "history": list(history), "spent": done.spent}
            checkpoints.write(done.step, state | dict(notes) | extra | {"loss_so_far": (float(running), counted)})
            saved_at = time.monotonic()
        if stop:
            checkpoints.wait(strict=True)
            accelerator.wait_for_everyone()  # for the first process, which writes
            raise Interrupted(stop, f"stopped after step {done.step} of {last + 1}, checkpoint in {checkpoints.folder}")
        if behind:
            return done._replace(loss_so_far=(float(running), counted))

    return Trained(last + 1, history, so_far.spent + time.monotonic() - began)


def snapshot(accelerator: Any, network: nn.Module, optimizer: Any, ema: Any, swa: Any) -> dict[str, Any]:
    """Copies on the host of all tensors that the loop changes; data, schedule and random numbers follow from the step.

    On the host, because an XLA tensor could only be unpickled by XLA's own code.
    """
    state = {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else {},
        "ema": ema.module.state_dict() if ema is not None else {},
        "swa": swa.state_dict() if swa is not None else {},
    }
    from accelerate.utils import recursively_apply

    return recursively_apply(lambda tensor: tensor.detach().to("cpu", copy=True), state)


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


def _agreed(accelerator: Any, signum: int, behind: bool, ask: bool) -> tuple[int, bool]:
    """The signal to stop for, or 0, and whether the plan is behind. Several processes agree at some steps only, so that
    none waits in a collective call for one that has left; asking at every step would make each wait for the slowest
    process twice."""
    if accelerator.num_processes == 1:
        return signum, behind
    if not ask:
        return 0, False
    wishes = accelerator.gather(torch.tensor([[signum, int(behind)]], device=accelerator.device)).amax(0).tolist()
    return int(wishes[0]), bool(wishes[1])
