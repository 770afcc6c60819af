"""Pictures of what a fold is going to do, and the tracker that sees it do so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from src.config import Config, plain
from src.fold.lesson import Lesson
from src.reporting.figures import augmentation_grid, schedule_picture
from src.tracking import Trackers, start_tracking
from src.training.plan import Plan, plan_over_steps

EXAMPLES = 6  # images of a stage, each with its augmented versions


def open_tracker(
    config: Config,
    competition: str,
    folder: Path,
    lesson: Lesson,
    plan: Plan,
    state: Mapping[str, Any] | None,
    accelerator: Any,
) -> Trackers:
    """The trackers of the fold in `folder`, with pictures of the augmentation and the schedule unless it goes on from
    `state`.

    Only the first process has one.
    """
    if not accelerator.is_main_process:
        return Trackers({})
    run, fold = folder.parent.name, int(folder.name.removeprefix("fold"))
    known = state or {}
    tracker = start_tracking(
        config.wandb.mode,
        project=config.wandb.project or competition,
        entity=config.wandb.entity,
        run=run,
        fold=fold,
        folder=folder,
        config=plain(config),  # with the batch size that was found, if it was to be
        others=config.trackers,
        ids={"wandb": known.get("wandb", ""), **known.get("trackers", {})},
        step=known.get("step", 0),
    )
    if state is not None:
        return tracker
    for stage in plan.stages:
        grid = folder / "figures" / f"augment-stage{stage.number + 1}-{stage.size}px.png"
        picked = stage.rows[np.linspace(0, len(stage.rows) - 1, EXAMPLES).astype(int)]
        augmentation_grid(grid, lesson.store, picked, stage.size, plan.augment.at_strength(stage.augment), config.seed)
        tracker.image(grid.stem, grid)
    steps, columns = plan_over_steps(plan)
    starts = [stage.start for stage in plan.stages]
    picture = schedule_picture(folder / "figures" / "schedule.png", steps, columns, starts, f"{run}/fold{fold}")
    tracker.image("schedule", picture)
    return tracker
