"""Who may write into a run: its name, its configuration, and the locks of the run and of its folds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from src.config import Config, check_name, difference, plain
from src.errors import UserError
from src.files import held, read_config, remove_leftovers, write_config
from src.runs.folder import finished
from src.runs.scoring import claim_metrics
from src.runs.start import but_for_moved, is_started, lock_of
from src.training.checkpoint import remove_checkpoints
from src.training.device import from_main


def run_name(config: Config) -> str:
    name = config.run or f"{config.competition.name}-{config.model.name.rsplit('/', 1)[-1].split('.')[0]}"
    check_name("run", name)
    return name


def claim_run(config: Config, run: str) -> Path:
    """The run's folder with its config.yaml. Raises UserError if the run exists with another configuration, or with a
    metric of the user's own that has changed."""
    folder = Path(config.paths.runs) / run
    values, file = plain(config), folder / "config.yaml"
    with run_lock(config, run):
        if file.is_file():
            changed = but_for_moved(difference(read_config(file), values), folder, config)
            if changed and is_started(folder):
                raise UserError(
                    f"run={run}: {folder} was made with another configuration ({'; '.join(changed[:4])}"
                    f"{' …' if len(changed) > 4 else ''}); choose another name with run=NAME, or delete the folder"
                )
            claim_metrics(config, folder)
            if not changed:
                return folder
        else:
            claim_metrics(config, folder)
        write_config(file, values)
    return folder


def run_lock(config: Config, run: str) -> AbstractContextManager[None]:
    return lock_of(Path(config.paths.runs) / run)


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
