"""Where a fold that was stopped goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.config import Config
from src.errors import UserError
from src.log import say
from src.training.checkpoint import load_checkpoint, remove_checkpoints
from src.training.device import precision_of
from src.training.plan import Plan
from src.training.session import Progress


def precisions(state: Mapping[str, Any] | None, accelerator: Any) -> list[list[Any]]:
    """[steps done before it, precision] of each part of the fold: a start may go on with another one."""
    return _parts(state, "precision", precision_of(accelerator), [])


def crops(state: Mapping[str, Any] | None, now: str) -> list[list[Any]]:
    """The same with who makes the crops, workers or device; before there was a choice, workers did."""
    return _parts(state, "augment_on", now, [] if state is None else [[0, "workers"]])


def _parts(state: Mapping[str, Any] | None, key: str, now: str, unknown: list[list[Any]]) -> list[list[Any]]:
    parts = [list(part) for part in (state or {}).get(key, unknown)]
    if not parts or parts[-1][1] != now:
        parts.append([0 if state is None else state["step"], now])
    if len(parts) > 1:
        say(f"{key}: {described(parts)}")
    return parts


def described(parts: list[list[Any]]) -> str:
    """fp16, from step 41 on fp32."""
    first, *later = parts
    return ", ".join([first[1], *(f"from step {step + 1} on {name}" for step, name in later)])


def unfinished(config: Config, checkpoints: Path, whole: Plan, accelerator: Any) -> dict[str, Any] | None:
    """The state of the newest readable checkpoint, or None; with resume=never they are removed.

    Raises UserError if it belongs to other batches than those of the plan.
    """
    if config.resume == "never" and accelerator.is_main_process:
        remove_checkpoints(checkpoints)
    accelerator.wait_for_everyone()
    state = load_checkpoint(checkpoints, (*Progress._fields, "cuts", "batches", "processes", "wandb"))
    if state is not None and state["batches"] != [stage.total_batch for stage in whole.stages]:
        before = f"processes={state['processes']}" + (" parallel=data" if state["processes"] > 1 else "")
        raise UserError(
            f"processes={accelerator.num_processes}: {checkpoints} belong to another total batch; "
            f"use {before} again, or resume=never to start afresh"
        )
    return state
