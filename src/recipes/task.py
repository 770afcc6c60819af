"""What every recipe starts from: the competition, its folds, and the run's folder with its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from src.artefacts import finished, held, read_config, remove_leftovers, write_config
from src.competition.digits import make_digits
from src.competition.folds import load_folds
from src.competition.metrics import find_metric
from src.competition.tables import Competition, load_competition
from src.config import Config, difference, plain
from src.data.cache import has_room
from src.data.duplicates import Duplicates, open_duplicates
from src.errors import UserError
from src.recipes.start import but_for_moved_weights, is_started
from src.training.checkpoint import remove_checkpoints
from src.training.device import from_main, loader_workers

DIGITS = "digits"


def open_competition(config: Config) -> Competition:
    """The checked tables of `config.competition`; the embedded digits are made at their default place if need be."""
    task = config.competition
    for metric in (task.metric, *task.metrics):
        find_metric(metric)
    if not task.root:
        raise UserError(f"competition.root: where is {task.name}? Give its folder, competition.root=DIR")
    if task.name == DIGITS and not (Path(task.root) / task.train_csv).exists():
        make_digits(Path(task.root))
    return load_competition(
        name=task.name,
        root=task.root,
        train_csv=task.train_csv,
        test_csv=task.test_csv,
        sample_csv=task.sample_csv,
        train_images=task.train_images,
        test_images=task.test_images,
        id_column=task.id_column,
        target_column=task.target_column,
        group_column=task.group_column,
        submission=task.submission,
        merge_labels=task.merge_labels,
    )


def open_folds(config: Config, competition: Competition) -> np.ndarray:
    """(N,) int64 fold of each training row, from the fold file or written to it."""
    path = Path(config.folds.file or Path(config.paths.folds) / f"{competition.name}.csv")
    duplicates = find_copies(config, competition).groups if config.folds.group_duplicates else None
    return load_folds(path, competition, config.folds.n, config.folds.seed, config.folds.kind, duplicates)


def find_copies(config: Config, competition: Competition) -> Duplicates:
    """Duplicates among the training and test images, searched once per state of the files and kept in the cache."""
    folder, workers = Path(config.paths.cache) / competition.name, loader_workers(config.workers)
    return open_duplicates(competition.root, competition.paths, competition.test_paths, folder, workers, say=print)


def solution_path(config: Config) -> Path | None:
    """The hidden labels, if they are configured and there; a relative path counts from the competition's root."""
    if config.competition.solution is None:
        return None
    path = Path(config.competition.root) / config.competition.solution
    return path if path.is_file() else None


def image_cache(config: Config, competition: Competition, short_side: int) -> Path | None:
    """The folder for decoded images, or None if they are not to be kept or the disk has no room for them."""
    folder = Path(config.paths.cache) / competition.name
    if not config.cache:
        return None
    if has_room(folder, len(competition.ids) + len(competition.test_ids), short_side):
        return folder
    print(f"{folder}: the disk is too full for decoded images; decoding anew each time", flush=True)
    return None


def run_name(config: Config) -> str:
    name = config.run or f"{config.competition.name}-{config.model.name.split('.')[0]}"
    if Path(name).name != name or name.startswith("."):
        raise UserError(f"run={name}: must be a plain folder name")
    return name


def claim_run(config: Config, run: str) -> Path:
    """The run's folder with its config.yaml. Raises UserError if the run exists with another configuration."""
    folder = Path(config.paths.runs) / run
    values, file = plain(config), folder / "config.yaml"
    with run_lock(config, run):
        if file.is_file():
            changed = but_for_moved_weights(difference(read_config(file), values), folder, config)
            if changed and is_started(folder):
                raise UserError(
                    f"run={run}: {folder} was made with another configuration ({'; '.join(changed[:4])}"
                    f"{' …' if len(changed) > 4 else ''}); choose another name with run=NAME, or delete the folder"
                )
            if not changed:
                return folder
        write_config(file, values)
    return folder


def run_lock(config: Config, run: str) -> AbstractContextManager[None]:
    """Held for the moments in which the files of a whole run are read and written again."""
    path = Path(config.paths.runs) / run / ".lock"
    return held(path, 60, f"{path}: another process has held this run for a minute; is it stopped (kill -STOP)?")


class FoldBusy(UserError):
    """Another process trains this fold."""


@contextmanager
def claim_fold(accelerator: Any, folder: Path, k: int) -> Iterator[bool]:
    """Hold fold k of the run in `folder` while it is trained; False if it is finished. Raises FoldBusy if another
    process (not one of this run's own) holds it. What a killed process left behind is removed: half-written files, and
    the checkpoints of a fold that is finished."""
    busy = f"{folder}/fold{k} is being trained by another process"
    with ExitStack() as stack:
        free = True
        if accelerator.is_main_process:
            try:
                stack.enter_context(held(folder / f".fold{k}.lock", 0, busy))
                own, there = folder / f"fold{k}", folder / f"fold{k}" / "checkpoints"
                for place in (own, own / "figures"):
                    remove_leftovers(place)
                remove_checkpoints(there) if finished(own) else remove_leftovers(there)
            except UserError:
                free = False
        free, done = from_main(accelerator, (free, finished(folder / f"fold{k}")))
        if not (free or done):
            raise FoldBusy(busy)
        yield not done
