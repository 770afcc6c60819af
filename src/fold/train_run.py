"""Train a fold of a run, or all of them: which folds, in what time, on which devices, and what comes of them."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from src.apart import listed, stopped_text, train_apart
from src.competition.folds import fold_rows
from src.competition.tables import Competition
from src.config import Config
from src.data.loader import kept_workers
from src.errors import NoMemory
from src.fold.batch_size import dividing, resolve_batch_size, spread
from src.fold.deadline import Turn, deadline
from src.fold.pruned import comparison
from src.fold.train_fold import train_fold
from src.inference.tta import parse_views
from src.launch import environments, folds_at_once, launch
from src.log import is_first, say
from src.runs.claims import FoldBusy, claim_fold, claim_run, run_name
from src.runs.folder import finished_folds, open_runs
from src.runs.opening import open_competition, open_folds
from src.runs.start import claim_data, claim_sources
from src.runs.summary import summarise_run
from src.runs.take_over import earlier_outputs, take_over, take_over_folds
from src.tracking import check_trackers
from src.training.device import make_accelerator
from src.training.interrupt import Interrupted


@dataclass(frozen=True)
class Run:
    """A run that may be trained: its data, the fold of each training row (N,) int64, and its folder."""

    competition: Competition
    folds: np.ndarray
    folder: Path

    def finished(self) -> tuple[int, ...]:
        return tuple(finished_folds(self.folder.parent, self.folder.name))


def train_run(config: Config, began: float) -> None:
    """Fold `config.fold`, or every unfinished fold; then the CV table and the submission of what is finished.

    began: time.time() when the command was started; a time budget counts from there.
    """
    parse_views(config.tta)  # refused before anything is trained or written
    check_trackers(config.wandb.mode, config.trackers)
    end, wanted, at_once = deadline(config, began), wanted_folds(config), folds_at_once(config)
    if at_once > 1:  # this process leaves the devices to those that it starts
        host = open_accelerator(dataclasses.replace(config, device="cpu", precision="fp32"))
        run = open_run(config, wanted, host)
        train_side_by_side(config, run, wanted, end, at_once)
    else:
        accelerator = open_accelerator(config)
        run = open_run(config, wanted, accelerator)
        train_in_turn(config, run, wanted, end, accelerator)
    if is_first() and run.finished():
        summarise_run(config, run.competition, run.folder.name)
        if config.prune.run is not None:
            print(f"\n{comparison(Path(config.paths.runs), run.folder.name)}", flush=True)


def wanted_folds(config: Config) -> list[int]:
    if config.fold != "all":
        return [int(config.fold)]
    if config.prune.run is not None:
        return finished_folds(open_runs(config.paths), config.prune.run)
    return list(range(config.folds.n))


def open_run(config: Config, wanted: Sequence[int], accelerator: Any) -> Run:
    """The run with its data, noted as its own, and with what earlier sessions have of it."""
    name = run_name(config)
    earlier = earlier_outputs(config, name)
    with accelerator.main_process_first():  # the first process makes the digits and the fold file
        competition = open_competition(config)
        take_over_folds(config, earlier)
        folds = open_folds(config, competition)
    for k in wanted:
        fold_rows(folds, k)  # a fold that does not exist is refused before anything is written
    with accelerator.main_process_first():
        folder = claim_run(config, name)
        if accelerator.is_main_process:
            take_over(config, name, earlier)
        data = claim_data(folder, competition, folds)
        claim_sources(config, folder, wanted, competition, data)
    return Run(competition, folds, folder)


def train_in_turn(
    config: Config, run: Run, wanted: Sequence[int], end: float | None, accelerator: Any, parts: int = 1
) -> None:
    """One fold after the other, on all devices of `accelerator`; parts: see `train_one`."""
    before = run.finished()
    for number, k in enumerate(wanted):
        turn = None if end is None else Turn(end, len(wanted) - number, before)
        try:
            if not train_one(config, run, k, turn, accelerator, parts):
                if later := set(wanted[number + 1 :]) - set(run.finished()):
                    say(f"time_budget: {listed(later)} not begun")
                break
        except FoldBusy as busy:
            if len(wanted) == 1:
                raise
            say(f"{busy}: left to it")
            continue
        accelerator.free_memory()  # it keeps the models it has prepared; the next fold starts with a new loss scale
        accelerator = open_accelerator(config)
    accelerator.wait_for_everyone()


def train_one(config: Config, run: Run, k: int, turn: Turn | None, accelerator: Any, parts: int = 1) -> bool:
    """Train fold k, unless it is finished; False if there is not enough time to begin it. Raises FoldBusy.

    parts: how many processes divide the images of one device's step among them.
    """
    with claim_fold(accelerator, run.folder, k) as mine, kept_workers():
        if not mine:
            say(f"{run.folder}/fold{k} is finished already: skipped")
            return True
        fold = fold_rows(run.folds, k)
        settled = resolve_batch_size(config, run.competition, len(fold.train), run.folder, accelerator)
        return train_fold(spread(settled, parts), run.competition, fold, k, run.folder, accelerator, turn)


# ---- on several devices ---------------------------------------------------------------------------------------------


def train_side_by_side(config: Config, run: Run, wanted: Sequence[int], end: float | None, at_once: int) -> None:
    """Each fold on a device of its own; what does not fit one is trained by several together, which see the same
    images in each step and so go on from its checkpoint."""
    before = run.finished()
    for k in wanted:
        if k in before:
            say(f"{run.folder}/fold{k} is finished already: skipped")
    each, unfinished = partial(train_alone, config, end, before), [k for k in wanted if k not in before]
    too_large = sorted(train_apart(each, unfinished, environments(at_once, config.device)))
    if not too_large:
        return
    parts = dividing(config, at_once)
    if parts == 1:
        raise NoMemory(f"batch_size: out of memory in a step of one device, and {at_once} cannot divide it; use less")
    say(f"{listed(too_large)}: a step does not fit one device; {parts} processes divide it among them")
    code = launch(train_together, (config, too_large, end, parts), parts)
    if code > 128:
        raise Interrupted(code - 128, stopped_text(too_large))
    if code:
        sys.exit(code)


def train_alone(config: Config, end: float | None, before: tuple[int, ...], k: int, waiting: int) -> bool:
    """`train_one`, as the only thing that this process does. before: the folds that were finished before the start."""
    accelerator = open_accelerator(config)
    turn = None if end is None else Turn(end, waiting, before)
    return train_one(config, open_run(config, [k], accelerator), k, turn, accelerator)


def train_together(config: Config, wanted: Sequence[int], end: float | None, parts: int) -> int:
    """What each of `parts` processes does that train these folds as one would, if it had the memory."""
    accelerator = open_accelerator(config)
    try:
        train_in_turn(config, open_run(config, wanted, accelerator), wanted, end, accelerator, parts)
    except Interrupted as stop:
        say(str(stop))
        return stop.exit_code
    return 0


def open_accelerator(config: Config) -> Any:
    freezing = config.model.freeze is not None or any(stage.train != "all" for stage in config.stages)
    return make_accelerator(config.device, config.precision, config.optimizer.accumulate, freezing)
