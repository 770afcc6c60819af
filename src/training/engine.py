"""The training loop: one pass over the planned steps, the same on a CPU, several GPUs and a TPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import nn

from src.data.loader import Batch
from src.data.preprocess import Preprocess
from src.errors import UserError
from src.training.averaging import average_buffers
from src.training.device import end_step, seed_torch
from src.training.freezing import train_only
from src.training.interrupt import Interrupted
from src.training.learner import Learner
from src.training.mixing import apply_mix
from src.training.objective import Objective
from src.training.optimizer import set_rate
from src.training.plan import Plan
from src.training.session import Progress, Session
from src.training.stages import is_epoch_end, stage_at


def fit(
    learner: Learner,
    objective: Objective,
    plan: Plan,
    batches: Iterator[Batch],
    preprocess: Preprocess,
    validate: Callable[[nn.Module, int], Mapping[str, float]],
    session: Session,
    so_far: Progress,
) -> Progress:
    """Train `learner` from step `so_far.step` to the plan's end, or to a step after which it has to be planned again.

    batches: micro-batches from that step on, images (1, B, S, S, C) samples. validate: (network, size) -> scores of the
    held-out fold. The caller compares the step with the plan's end, and calls again with a shorter plan.
    Raises Interrupted after a checkpoint when the session wishes so, UserError when the loss is no longer finite, and
    after a checkpoint when memory runs out or kills a loader process.
    """
    accelerator, history, (loss_sum, counted) = learner.accelerator, list(so_far.history), so_far.loss_so_far
    rank, last, began = accelerator.process_index, plan.steps - 1, time.monotonic()
    running = torch.tensor(loss_sum, device=accelerator.device)

    for step in range(so_far.step, plan.steps):
        stage = stage_at(plan.stages, step)
        # ---- learn --------------------------------------------------------------------------------------------------
        learner.at, before = step, Progress(step, history, so_far.spent + time.monotonic() - began, (running, counted))
        try:
            set_rate(learner.optimizer, plan.rate(step), plan.momentum(step))
            train_only(learner.model, learner.optimizer, plan.part(step), plan.hold_norms)
            for micro in range(accelerator.gradient_accumulation_steps):
                batch = next(batches)
                # what torch draws (dropout, drop path) is a function of the step, as the data are: a resume needs no
                # generator states. After the batch, because starting the loader draws a number as well.
                seed_torch(hash((plan.seed, step, micro, rank)), accelerator.device)
                x = preprocess(batch.images[0], batch.colour)
                y = objective.targets(batch.rows.to(x.device, non_blocking=True))
                loss = learner.step(*apply_mix(x, y, plan.mix(step, len(x), rank)), objective)
                if accelerator.scaler is None:
                    running, counted = running + loss, counted + 1
                else:  # in fp16 a loss may overflow: the scaler skips the step, and the mean leaves it out
                    fine = torch.isfinite(loss)
                    running, counted = running + torch.where(fine, loss, torch.zeros_like(loss)), counted + fine.long()
            learner.average(step + 1, step == last, plan.in_swa(step))
            end_step(accelerator.device)
            session.bar.step(stage, step)
        except (RuntimeError, MemoryError) as error:  # a dead loader process is reported at any moment
            if learner.at == step + 1 and not is_epoch_end(plan.stages, step, plan.validate_every):
                before = before._replace(step=step + 1, loss_so_far=(running, counted))
            if (told := session.rescue(error, learner, before, last)) is None:
                raise
            raise told from None

        # ---- look ---------------------------------------------------------------------------------------------------
        if is_epoch_end(plan.stages, step, plan.validate_every):
            count = float(accelerator.reduce(torch.as_tensor(counted, device=running.device).float(), "mean"))
            mean_loss = float(accelerator.reduce(running, "mean")) / count if count else float("nan")
            running, counted = torch.zeros((), device=accelerator.device), 0
            if not np.isfinite(mean_loss):
                raise UserError(
                    f"optimizer.lr={plan.base_lr:g}: the loss became {mean_loss} by step {step}; try a third of it, "
                    f"optimizer.lr={plan.base_lr / 3:.2g}, as another run=NAME"
                )
            pace = session.bar.images_per_second()  # of training alone, so read before validation
            average_buffers(learner.network, accelerator)
            scores = validate(learner.network, stage.size)
            history.append(
                {
                    "step": step + 1,
                    "stage": stage.number + 1,
                    "size": stage.size,
                    "rate": plan.share(step),
                    "loss": mean_loss,
                    "images_per_second": pace,
                    "seconds": so_far.spent + time.monotonic() - began,
                    **scores,
                }
            )
            session.bar.epoch(stage, history[-1])

        # ---- keep ---------------------------------------------------------------------------------------------------
        stop, behind = session.agreed(accelerator, step, last)
        done = Progress(step + 1, history, so_far.spent + time.monotonic() - began, (running, counted))
        if accelerator.is_main_process:
            session.save(done, learner.snapshot, now=bool(stop) or step == last)
        if stop:
            session.checkpoints.wait(strict=True)
            accelerator.wait_for_everyone()  # for the first process, which writes
            where = session.checkpoints.folder
            text = f"stopped after step {done.step} of {plan.steps}, checkpoint in {where}"
            raise Interrupted(stop, f"{text}; the same command goes on from there")
        if behind:
            return done.settled()

    return Progress(plan.steps, history, so_far.spent + time.monotonic() - began)
