"""Train a fold of a run, or all of them: which folds, in what time, and what comes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from src.competition.folds import fold_rows
from src.config import Config
from src.data.loader import kept_workers
from src.fold.batch_size import resolve_batch_size
from src.fold.deadline import deadline
from src.fold.pruned import comparison
from src.fold.train_fold import train_fold
from src.inference.tta import parse_views
from src.log import say
from src.runs.claims import FoldBusy, claim_fold, claim_run, run_name
from src.runs.folder import finished, finished_folds, open_runs
from src.runs.opening import open_competition, open_folds
from src.runs.start import claim_data, claim_sources
from src.runs.summary import summarise_run
from src.runs.take_over import earlier_outputs, take_over, take_over_folds
from src.tracking import check_trackers
from src.training.device import make_accelerator


def train_run(config: Config, began: float) -> None:
    """Fold `config.fold`, or every unfinished fold; then the CV table and the submission of what is finished.

    began: time.time() when the command was started; a time budget counts from there.
    """
    parse_views(config.tta)  # refused before anything is trained or written
    check_trackers(config.wandb.mode, config.trackers)
    end = deadline(config, began)
    accelerator = open_accelerator(config)
    run = run_name(config)
    earlier = earlier_outputs(config, run)
    with accelerator.main_process_first():  # the first process makes the digits and the fold file
        competition = open_competition(config)
        take_over_folds(config, earlier)
        folds = open_folds(config, competition)
    if config.fold != "all":
        wanted = [int(config.fold)]
    elif config.prune.run is not None:
        wanted = finished_folds(open_runs(config.paths), config.prune.run)
    else:
        wanted = list(range(config.folds.n))
    for k in wanted:
        fold_rows(folds, k)  # a fold that does not exist is refused before anything is written
    with accelerator.main_process_first():
        folder = claim_run(config, run)
        if accelerator.is_main_process:
            take_over(config, run, earlier)
        data = claim_data(folder, competition, folds)
        claim_sources(config, folder, wanted, competition, data)

    for number, k in enumerate(wanted):
        left = len(wanted) - number
        try:
            with claim_fold(accelerator, folder, k) as mine, kept_workers():
                if not mine:
                    say(f"{folder}/fold{k} is finished already: skipped")
                    continue
                fold = fold_rows(folds, k)
                settled = resolve_batch_size(config, competition, len(fold.train), folder, accelerator)
                if not train_fold(settled, competition, fold, k, folder, accelerator, end, left):
                    break
        except FoldBusy as busy:
            if len(wanted) == 1:
                raise
            say(f"{busy}: left to it")
            continue
        accelerator.free_memory()  # it keeps the models it has prepared; the next fold starts with a new loss scale
        accelerator = open_accelerator(config)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and any(finished(folder / f"fold{k}") for k in range(config.folds.n)):
        summarise_run(config, competition, run)
        if config.prune.run is not None:
            print(f"\n{comparison(Path(config.paths.runs), run)}", flush=True)


def open_accelerator(config: Config) -> Any:
    freezing = config.model.freeze is not None or any(stage.train != "all" for stage in config.stages)
    return make_accelerator(config.device, config.precision, config.optimizer.accumulate, freezing)
