"""A fold as a run of Weights & Biases."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.tracking.tracker import NoTracker, Watched

LONGEST = 128  # characters of a name
INIT, FINISH = 30.0, 120.0  # seconds for W&B to begin a run, and to end one whose network has gone


class WandbTracker(NoTracker):
    """One W&B run per fold: group = run, name = run/fold<k>."""

    def __init__(self, watched: Watched, *, mode: str, entity: str | None, id: str | None) -> None:
        import wandb

        self.wandb, self.mode, self.folder = wandb, mode, watched.folder
        # W&B drops what has an earlier step than it has seen, and counts one up for what has none: pictures of before
        # the first step would use up those of the first epochs
        self.step = watched.step
        os.environ.setdefault("WANDB_SILENT", "true")
        patience = {"finish_timeout": FINISH} if hasattr(wandb.Settings(), "finish_timeout") else {}
        self.run = wandb.init(
            mode=mode,  # type: ignore[arg-type]
            project=re.sub(r"[/\\#?%:]", "-", watched.project)[:LONGEST],
            entity=entity,
            group=watched.run[:LONGEST],
            name=f"{watched.run[: LONGEST - 10]}/fold{watched.fold}",
            job_type="train",
            dir=str(watched.folder),
            config=dict(watched.config),
            id=id,
            resume="allow" if id and mode == "online" else None,
            settings=wandb.Settings(
                console="off",
                x_disable_stats=mode == "offline",
                init_timeout=INIT,
                **patience,  # type: ignore[arg-type]
            ),
        )
        self.id = self.run.id

    def log(self, values: Mapping[str, Any]) -> None:
        self.step = int(values.get("step", self.step))
        self.run.log(dict(values), step=self.step)

    def summary(self, values: Mapping[str, Any]) -> None:
        self.run.summary.update(dict(values))

    def image(self, name: str, path: Path) -> None:
        self.run.log({name: self.wandb.Image(str(path))}, step=self.step)

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        self.run.log({name: self.wandb.Table(columns=[*columns], data=rows)}, step=self.step)

    def finish(self) -> str | None:
        """Closes the run; returns the line that uploads what was kept offline, also by starts that were stopped."""
        self.run.finish()
        folders = sorted((self.folder / "wandb").glob(f"offline-run-*-{self.id}"))
        return " ".join(["wandb sync", *(shlex.quote(_relative(folder)) for folder in folders)]) if folders else None


def _relative(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
