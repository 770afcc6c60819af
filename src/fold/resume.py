"""Where a fold that was stopped goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from src.config import Config
from src.errors import UserError
from src.training.checkpoint import load_checkpoint, remove_checkpoints
from src.training.plan import Plan
from src.training.session import Progress


def unfinished(config: Config, checkpoints: Path, whole: Plan, accelerator: Any) -> dict[str, Any] | None:
    """The state of the newest readable checkpoint, or None; with resume=never they are removed.

    Raises UserError if it belongs to other batches than those of the plan.
    """
    if config.resume == "never" and accelerator.is_main_process:
        remove_checkpoints(checkpoints)
    accelerator.wait_for_everyone()
    state = load_checkpoint(checkpoints, (*Progress._fields, "cuts", "batches", "processes", "wandb"))
    if state is not None and state["batches"] != [stage.total_batch for stage in whole.stages]:
        raise UserError(
            f"processes={accelerator.num_processes}: {checkpoints} belong to another total batch; "
            f"use processes={state['processes']} again, or resume=never to start afresh"
        )
    return state
