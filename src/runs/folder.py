"""Where runs are read from, where a run keeps its folds, and which of them are finished."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from src.attached import runs_folders
from src.config import PathsConfig, difference
from src.errors import UserError
from src.files import read_config
from src.log import say_once


@dataclass(frozen=True)
class Runs:
    """The runs that can be read: those under `own`, where all is written, then those in what is attached.

    `runs / name` is the folder of a run, as with a plain path: the first that has its configuration. Folds of one run
    may lie in several places (one output per session), as long as these have the same configuration.
    """

    own: Path
    attached: tuple[Path, ...] = ()

    def __truediv__(self, run: str) -> Path:
        return next(self._holding(run), self.own / run)

    def __str__(self) -> str:
        return ", ".join(map(str, (self.own, *self.attached)))

    def names(self) -> list[str]:
        return sorted(
            {path.parent.name for place in (self.own, *self.attached) for path in place.glob("*/config.yaml")}
        )

    def places(self, run: str) -> list[Path]:
        """The folders of a run, the first one's configuration deciding. Raises UserError if it is only attached, and
        with different ones."""
        there = list(self._holding(run))
        if len(there) < 2:
            return there or [self.own / run]
        first = read_config(there[0] / "config.yaml")
        if first.get("runs"):  # its folds are of one fit
            return there[:1]
        same = [there[0]]
        for folder in there[1:]:
            changed = but_for_paths(difference(first, read_config(folder / "config.yaml")))
            if not changed:
                same.append(folder)
            elif there[0].parent == self.own:
                say_once(f"{folder}: is another run of that name ({changed[0]}); {there[0]} counts")
            else:
                raise UserError(
                    f"run={run}: is attached twice and not the same ({changed[0]}): {there[0]} and {folder}; detach one"
                )
        return same

    def _holding(self, run: str) -> Iterator[Path]:
        for place in (self.own, *self.attached):
            if (place / run / "config.yaml").is_file():
                yield place / run


def open_runs(paths: PathsConfig) -> Runs:
    """The runs under `paths.runs`, and those in what is attached under `paths.input`."""
    return runs_in(Path(paths.runs), Path(paths.input))


def runs_in(own: Path, inputs: Path) -> Runs:
    return Runs(own, tuple(place for place in runs_folders(inputs) if not _same(place, own)))


def but_for_paths(changed: list[str]) -> list[str]:
    """Lines of `difference` without `model.weights`, which may be mounted elsewhere: its contents are in
    started_from.json."""
    return [line for line in changed if not line.startswith("model.weights: ")]


def run_folder(runs: Runs | Path, run: str) -> Path:
    """The folder of a run: its configuration, and what holds for all of its folds."""
    return runs / run


def fold_folder(runs: Runs | Path, run: str, fold: int) -> Path:
    """Where fold `fold` of the run is finished; if nowhere, its own place."""
    if isinstance(runs, Path):
        return runs / run / f"fold{fold}"
    there = (place / f"fold{fold}" for place in runs.places(run))
    return next((folder for folder in there if finished(folder)), runs.own / run / f"fold{fold}")


def finished(folder: Path) -> bool:
    """The manifest is written last, so its existence says that the fold is complete."""
    return (folder / "manifest.json").is_file()


def finished_folds(runs: Runs | Path, run: str) -> list[int]:
    places = [runs / run] if isinstance(runs, Path) else runs.places(run)
    found = {path.parent.name.removeprefix("fold") for place in places for path in place.glob("fold*/manifest.json")}
    return sorted(int(number) for number in found if number.isdigit())


def run_names(runs: Runs | Path) -> list[str]:
    return (Runs(runs) if isinstance(runs, Path) else runs).names()


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()
