"""The runs of one table: which there are, how what is missing is trained, and how they become pairs."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.config import Config
from src.errors import UserError, counted
from src.files import held, read_json, write_json
from src.fold.train_run import train_run
from src.log import clock
from src.runs.claims import FoldBusy, claim_run
from src.runs.folder import finished, fold_folder
from src.runs.opening import open_competition, open_folds
from src.runs.start import claim_data
from src.search.effects import Effect
from src.search.table import Pair, write_table
from src.search.tricks import BASELINE, Pairing, folder_name
from src.training.interrupt import Interrupted


@dataclass(frozen=True)
class Cell:
    """A fold to train: of which arm, with which seed (counted from the configuration's own), which fold."""

    arm: str
    seed: int
    fold: int


@dataclass(frozen=True)
class Study:
    """One table: its folder, the configuration of the baseline and of each trick, and how they are paired."""

    place: Path
    configs: Mapping[str, Config]
    pairing: Pairing

    def cells(self) -> list[Cell]:
        """Pair by pair, so that a stop leaves whole pairs, the baseline first."""
        return [Cell(arm, seed, k) for seed in self.seeds() for k in self.folds() for arm in self.configs]

    def folds(self) -> tuple[int, ...]:
        return self.pairing.folds or tuple(range(self.configs[BASELINE].folds.n))

    def seeds(self) -> range:
        return range(self.pairing.first_seed, self.pairing.first_seed + self.pairing.seeds)


def compare(
    place: Path,
    base: Config,
    arms: Mapping[str, Config | str],
    pairing: Pairing,
    started: int,
    patience: float | None = None,
) -> tuple[dict[str, Effect], int]:
    """Make one table: the effects of the tricks that were not refused, and how many folds are missing.

    started: how many techniques Holm's correction is over, if more than are left in `arms`. patience: seconds between
    two looks at the folds that other processes train, until they are finished or let go; None: they are missing.
    """
    refused = {name: why for name, arm in arms.items() if (why := refusal(base, arm, pairing.mode))}
    for name, why in refused.items():
        print(f"{name}: refused: {why}", flush=True)
    configs = {BASELINE: cut(base, pairing.share)}
    for name, arm in arms.items():
        if isinstance(arm, Config) and name not in refused:
            configs[name] = cut(arm, pairing.share)
    study = Study(place, configs, pairing)
    try:
        train_missing(study, refused, patience)
    except Interrupted:
        tabulate(study, refused, started)  # of what there is
        raise
    return tabulate(study, refused, started)


def refusal(base: Config, arm: Config | str, mode: str) -> str:
    """Why an arm has nothing to compare with the baseline; empty if it has."""
    if isinstance(arm, str):
        return arm
    if arm == base:
        return "the baseline has it already" if mode == "add" else "the baseline and the others have it as well"
    if base.average.swa and without_ema(arm) == without_ema(base):
        return "both sides keep their SWA weights, whatever the EMA is; compare it with average.swa=false"
    return ""


def without_ema(config: Config) -> Config:
    return dataclasses.replace(config, average=dataclasses.replace(config.average, ema=0.0, ema_every=1))


def tabulate(study: Study, refused: Mapping[str, str], started: int) -> tuple[dict[str, Effect], int]:
    """Print and write the table of what is finished; as `compare`."""
    study = dataclasses.replace(study, configs={n: c for n, c in study.configs.items() if n not in refused})
    missing = sum(not finished(folder_of(study, cell)) for cell in study.cells())
    pairs = [pair for cell in study.cells() if cell.arm != BASELINE and (pair := pair_of(study, cell)) is not None]
    tricks = [name for name in study.configs if name != BASELINE]
    pairing = dataclasses.replace(study.pairing, folds=study.folds())
    return write_table(study.place, pairs, tricks, refused, study.configs[BASELINE], pairing, missing, started), missing


def cut(config: Config, share: float) -> Config:
    """`config` on a share of the rows of every stage, with as many passes over them as before."""
    stages = tuple(dataclasses.replace(stage, rows=stage.rows * share) for stage in config.stages)
    least = round(config.least_steps * share)
    return dataclasses.replace(config, epochs=config.epochs * share, least_steps=least, stages=stages)


def refuse_other_data(study: Study) -> None:
    """Raises UserError if what is finished was made of other data than are there now."""
    competition = open_competition(study.configs[BASELINE])
    folds = open_folds(study.configs[BASELINE], competition)
    for folder in sorted({folder_of(study, cell).parent for cell in study.cells() if finished(folder_of(study, cell))}):
        claim_data(folder, competition, folds)


def train_missing(study: Study, refused: dict[str, str], patience: float | None = None) -> None:
    """Train what is not finished, and add to `refused` the arms that cannot be.

    Folds that another process trains are left to it; the passes end with one in which there was nothing to do, or with
    `patience` (see `compare`) nothing left.
    """
    done: set[Cell] = set()
    before = sum(finished(folder_of(study, cell)) for cell in study.cells())
    if before:
        refuse_other_data(study)
    began = time.monotonic()
    print(f"{study.place}: {counted(len(study.cells()), 'fold')} to train, {before} of them finished", flush=True)
    trained = True
    while trained:
        trained = busy = False
        for cell in study.cells():
            if cell in done or cell.arm in refused:
                continue
            try:
                config = planned(study, cell)
                if config is None:
                    busy = True
                    continue
                claim_run(config, str(config.run))  # what is finished was made with this very configuration
                if finished(folder_of(study, cell)):
                    done.add(cell)
                    continue
                train_quietly(study.place, config)
            except FoldBusy:
                busy = True
                continue
            except UserError as error:
                if cell.arm == BASELINE:
                    raise
                refused[cell.arm] = str(error)
                print(f"{cell.arm}: refused: {error}", flush=True)
                continue
            trained = True
            done.add(cell)
            wanted = [other for other in study.cells() if other.arm not in refused]
            left = sum(not finished(folder_of(study, other)) for other in wanted)
            count = f"[{len(wanted) - left:>{len(str(len(wanted)))}}/{len(wanted)}]"
            # of all processes since this one began
            pace = (time.monotonic() - began) / max(1, len(wanted) - left - before)
            print(
                f"{count}  {line_about(study, cell)}  {f'about {clock(left * pace)} left' if left else ''}", flush=True
            )
        if busy and not trained and patience is not None:
            time.sleep(patience)
            trained = True


def planned(study: Study, cell: Cell) -> Config | None:
    """The run of a cell, with the fold to train; None if its length cannot be known before another process has finished
    the pair that it is measured on."""
    config = ordinary_run(study, cell)
    if study.pairing.equal == "epochs" or cell.arm == BASELINE:
        return config
    factor = time_factor(study, cell.arm)
    if factor is None:
        return None
    return dataclasses.replace(config, epochs=config.epochs / factor, least_steps=round(config.least_steps / factor))


def ordinary_run(study: Study, cell: Cell, suffix: str = "") -> Config:
    """The arm's configuration as a run in the study's own folder; no time budget may shorten it.

    It keeps the last of its raw, EMA and SWA weights without a look at the held-out rows. The best of them there can
    only gain by one kind more: by it, an average exactly as good as the raw weights was called a help in 38 % of
    studies of 3 folds x 3 seeds (Student over pairs), one worse by 0.003 in 10 %, and none ever to harm
    (benchmarks/false_calls.py).
    """
    config = study.configs[cell.arm]
    places = {"runs": str(study.place / "runs"), "submissions": str(study.place / "submissions")}
    seed = config.seed + cell.seed
    return dataclasses.replace(
        config,
        run=f"{folder_name(cell.arm)}-s{seed}{suffix}",
        fold=cell.fold,
        seed=seed,
        time_budget=None,
        average=dataclasses.replace(config.average, compare=False),
        paths=dataclasses.replace(config.paths, **places),
    )


def folder_of(study: Study, cell: Cell, suffix: str = "") -> Path:
    return fold_folder(study.place / "runs", str(ordinary_run(study, cell, suffix).run), cell.fold)


def time_factor(study: Study, arm: str) -> float | None:
    """Training time of an arm over the baseline's, measured once at equal epochs on the first pair and kept in
    equal_time.json; None while another process trains the baseline's side of it. Raises FoldBusy for the arm's side."""
    file, suffix = study.place / "equal_time.json", "-equal-epochs"
    known = read_json(file) if file.is_file() else {}
    if arm in known:
        return known[arm]
    reference, measured = (Cell(name, study.pairing.first_seed, study.folds()[0]) for name in (BASELINE, arm))
    folders = [folder_of(study, measured, suffix), folder_of(study, reference)]
    if not finished(folders[1]):
        return None
    if not finished(folders[0]):
        train_quietly(study.place, ordinary_run(study, measured, suffix))
    with_it, without = (manifest(folder)["seconds"]["training"] for folder in folders)
    with held(study.place / ".lock", 60, f"{study.place}/.lock: another process has held it for a minute"):
        known = read_json(file) if file.is_file() else {}
        write_json(file, {arm: with_it / without, **known})
    return read_json(file)[arm]


def train_quietly(place: Path, config: Config) -> None:
    """`train` one fold; what it prints goes to log.txt."""
    place.mkdir(parents=True, exist_ok=True)
    with open(place / "log.txt", "a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        train_run(config, time.time())


def manifest(folder: Path) -> dict[str, Any]:
    return read_json(folder / "manifest.json")


def plain_score(found: dict[str, Any]) -> float:
    """Of a manifest: without a decision, whose fit on a fold's rows would add noise to every difference."""
    return found.get("plain", found["score"])


def line_about(study: Study, cell: Cell) -> str:
    """The line about a finished fold: its score, and the difference if both sides of the pair are there."""
    pair = pair_of(study, cell) if cell.arm != BASELINE else None
    score = plain_score(manifest(folder_of(study, cell)))
    difference = f"{pair.difference:+.4f}" if pair else " " * 7
    return f"{cell.arm}  fold {cell.fold}  seed {cell.seed}  {score:.4f}  {difference}"


def pair_of(study: Study, cell: Cell) -> Pair | None:
    """The cell of a trick against the baseline's, if both are finished; + is better with the trick than without."""
    folders = [folder_of(study, dataclasses.replace(cell, arm=arm)) for arm in (BASELINE, cell.arm)]
    if not all(finished(folder) for folder in folders):
        return None
    base, arm = (manifest(folder) for folder in folders)
    baseline = study.configs[BASELINE]
    sign = 1 if base["greater_is_better"] else -1
    base_score, score = (plain_score(one) for one in (base, arm))
    difference = sign * (score - base_score)
    return Pair(
        trick=cell.arm,
        fold=cell.fold,
        seed=baseline.seed + cell.seed,
        baseline=base_score,
        score=score,
        difference=difference if study.pairing.mode == "add" else -difference,
        baseline_seconds=base["seconds"]["training"],
        seconds=arm["seconds"]["training"],
        baseline_memory=base["memory"],
        memory=arm["memory"],
    )
