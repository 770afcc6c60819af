"""A run that goes on in another session: what attached outputs of earlier ones have of it is copied to its place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.config import Config, difference, plain
from src.errors import UserError
from src.files import held, read_config
from src.log import say
from src.runs.folder import finished, open_runs
from src.runs.start import but_for_moved
from src.training.checkpoint import checkpoints

UNFINISHED = ".copy"  # the end of a copy's temporary name


def earlier_outputs(config: Config, run: str) -> list[Path]:
    """The attached folders of the run, made with this very configuration.

    Raises UserError if there is one of that name with another configuration and none of our own.
    """
    runs, values, same = open_runs(config.paths), plain(config), []
    for place in runs.attached:
        folder = place / run
        if not (folder / "config.yaml").is_file():
            continue
        changed = but_for_moved(difference(read_config(folder / "config.yaml"), values), folder, config)
        if not changed:
            same.append(folder)
        elif not (runs.own / run / "config.yaml").is_file():
            raise UserError(
                f"run={run}: {folder}, which is attached, was made with another configuration "
                f"({'; '.join(changed[:4])}{' …' if len(changed) > 4 else ''}); choose another name with run=NAME, or "
                "detach it"
            )
    return same


def take_over_folds(config: Config, earlier: list[Path]) -> None:
    """Copy the fold file that lies beside the runs of an earlier output, if there is none here."""
    target = Path(config.folds.file or Path(config.paths.folds) / f"{config.competition.name}.csv")
    for folder in earlier:
        source = folder.parent.parent / "folds" / target.name
        if source.is_file() and not target.exists():
            _copy(source, target)
            say(f"{target}: from {source}")


def take_over(config: Config, run: str, earlier: list[Path]) -> None:
    """Copy every fold that is finished in `earlier` and not in the run's own folder, and the newest checkpoints of the
    others; with resume=never only what is finished. A fold that another process is training is left to it."""
    own = Path(config.paths.runs) / run
    for folder in earlier:
        for path in _files(folder):
            if not (own / path.name).exists():
                _copy(path, own / path.name)
    numbers = sorted({path.name for folder in earlier for path in folder.glob("fold*") if path.name[4:].isdigit()})
    for name in numbers:
        with _free(own / f".{name}.lock") as free:
            if not free or finished(own / name):
                continue
            for left in own.glob(f".{name}.*{UNFINISHED}"):  # by a killed process
                shutil.rmtree(left, ignore_errors=True)
            done = [folder / name for folder in earlier if finished(folder / name)]
            begun = [folder / name for folder in earlier if checkpoints(folder / name / "checkpoints")]
            if done:
                _copy(done[0], own / name)
                say(f"{own / name}: finished in an earlier session, from {done[0]}")
            elif begun and config.resume != "never" and not checkpoints(own / name / "checkpoints"):
                newest = max(begun, key=lambda place: checkpoints(place / "checkpoints")[0].name)
                _copy(newest, own / name)
                say(f"{own / name}: begun in an earlier session, from {newest}")


def _files(folder: Path) -> list[Path]:
    """What lies beside the folds and holds for all of them: first weights, batch size, metrics of the user's own."""
    made_again = {"config.yaml", "cv.json", "decision.json"}
    return [p for p in sorted(folder.iterdir()) if p.is_file() and p.name[0] != "." and p.name not in made_again]


def _copy(source: Path, target: Path) -> None:
    """A file or folder, whole or not at all, writable whatever the source is. Raises UserError if the disk refuses."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}{UNFINISHED}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, temporary, copy_function=shutil.copyfile, ignore=shutil.ignore_patterns(".*"))
            for folder in (temporary, *(path for path in temporary.rglob("*") if path.is_dir())):
                folder.chmod(0o755)  # copytree gives folders the mode of their source
            shutil.rmtree(target, ignore_errors=True)
        else:
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    except (OSError, shutil.Error) as error:
        raise UserError(f"{target}: cannot be copied from {source} ({error}); free some disk") from None
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


@contextmanager
def _free(lock: Path) -> Iterator[bool]:
    """Hold a fold's lock; False if somebody else does."""
    try:
        with held(lock, 0, ""):
            yield True
            return
    except UserError as error:
        if str(error):
            raise
    yield False
