"""Who watches a fold: Weights & Biases, and TensorBoard or MLflow beside it, where they can be reached."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.errors import MissingPackage, UserError
from src.tracking.other_tracker import PACKAGES, OtherTracker
from src.tracking.tracker import NoTracker, Trackers, Watched, in_one_line
from src.tracking.wandb_mode import answers, resolve_mode, server
from src.tracking.wandb_tracker import WandbTracker

__all__ = ["NoTracker", "Trackers", "check_trackers", "start_tracking"]

lost: list[str] = []  # why W&B is not asked again in this process


def start_tracking(
    mode: str,
    *,
    project: str,
    entity: str | None,
    run: str,
    fold: int,
    folder: Path,
    config: Mapping[str, Any],
    others: Sequence[str] = (),
    ids: Mapping[str, str] | None = None,
    step: int = 0,
) -> Trackers:
    """W&B by `mode` (see `resolve_mode`) and `others`, names of PACKAGES. ids: by name, of a fold that goes on after
    `step` steps; 0 of one that begins."""
    found: dict[str, NoTracker] = {}
    ids, mode = ids or {}, resolve_mode(mode, os.environ)
    if mode != "disabled" and not is_installed("wandb"):
        print("W&B is not installed here: nothing is tracked (pip install wandb, or wandb.mode=disabled)", flush=True)
        mode = "disabled"
    watched = Watched(project, run, fold, folder, config, step)
    folder.mkdir(parents=True, exist_ok=True)
    if mode == "online" and not lost and not answers(server()):
        lost.append(f"{server()} does not answer")
        print(f"W&B: {lost[0]}, tracking offline", flush=True)
    modes = [] if mode == "disabled" else ["offline"] if lost else dict.fromkeys([mode, "offline"])
    for each in modes:
        try:
            found["wandb"] = WandbTracker(watched, mode=each, entity=entity, id=ids.get("wandb") or None)
            break
        except Exception as error:  # a wrong key, a server's bad day: none of them may end a training run
            lost.append(in_one_line(error))
            print(f"W&B: {lost[-1]}; tracking {'offline' if each == 'online' else 'without it'}", flush=True)
    for name in others:
        try:
            found[name] = OtherTracker(name, watched, ids.get(name))
        except Exception as error:
            print(f"{name}: {in_one_line(error)}; training goes on without it", flush=True)
    return Trackers(found)


def check_trackers(mode: str, others: Sequence[str]) -> None:
    """Raises UserError for a WANDB_MODE that there is not, and for a tracker that is asked for and not installed."""
    resolve_mode(mode, os.environ)
    if mode in ("online", "offline") and not is_installed("wandb"):
        raise MissingPackage(f"wandb.mode={mode}: needs the package wandb; pip install wandb")
    for name in others:
        if not any(is_installed(package) for package in PACKAGES[name]):
            raise UserError(f"trackers: {name} is not installed; .venv/bin/pip install {name}, or leave it out")


def is_installed(package: str) -> bool:
    return package in sys.modules or importlib.util.find_spec(package) is not None
