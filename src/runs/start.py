"""What the folds of a run started from: the same data and first weights, wherever they lie, for all of them and at
every start; and of each fold the run that teaches it or that it is pruned from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.competition.contents import FOLDS, contents_of_data
from src.competition.tables import Competition
from src.config import Config, migrate
from src.errors import UserError
from src.files import contents_of, held, is_held, read_config, read_json, write_json
from src.runs.folder import Runs, finished, finished_folds, fold_folder, open_runs

if TYPE_CHECKING:  # loading torch takes seconds, and not every recipe that claims a run needs it
    import numpy as np

    from src.model.weights import WeightsSource

FILE = "started_from.json"
KEY = "model.weights: "
TEST = ("test rows", "test pictures")


def is_started(folder: Path, mine: int | None = None) -> bool:
    """Whether any fold of the run is finished, has a checkpoint or is being trained; fold `mine` is, by the caller."""
    return bool(
        finished_folds(folder.parent, folder.name)
        or any(folder.glob("fold*/checkpoints/*.ckpt"))
        or any(is_held(lock) for lock in folder.glob(".fold*.lock") if lock.name != f".fold{mine}.lock")
    )


def but_for_moved(changed: list[str], folder: Path, config: Config) -> list[str]:
    """`changed` (lines of `difference`) without `model.weights` if the file only lies elsewhere than before, as what
    is attached does from session to session; else the line says that its contents are others. Without the name of the
    competition, its folder's, and `folds.file` where data and folds are noted, which `claim_data` compares."""
    path, record = Path(config.model.weights or ""), read_record(folder)
    if "folds" in record.get("data", {}):
        changed = [line for line in changed if not line.startswith(("folds.file: ", "competition.name: "))]
    if not any(line.startswith(KEY) for line in changed) or not path.is_file() or "contents" not in record:
        return changed
    if record["contents"] == contents_of(path):
        return [line for line in changed if not line.startswith(KEY)]
    return [f"{line}, with other contents" if line.startswith(KEY) else line for line in changed]


def claim_data(folder: Path, competition: Competition, folds: np.ndarray | None) -> dict[str, str]:
    """Note the data of the run in `folder`; what `contents_of_data` says of them. Raises UserError if it has been
    started with others: folders of one name may hold other pictures under the same ids."""
    found = contents_of_data(competition, folds)
    with lock_of(folder):
        record = read_record(folder)
        before = record.get("data", {})
        changed = [part for part, text in found.items() if before.get(part, text) != text]
        if changed and is_started(folder):
            raise UserError(
                f"run={folder.name}: was started with other {_listed(changed)} than those of {competition.root}, from "
                f"{record.get('root')}; {_cure(folder.name, changed, competition, record)}choose another name with "
                "run=NAME"
            )
        write_record(folder, record | {"root": str(competition.root.resolve()), "data": {**before, **found}})
    return found


def _cure(run: str, changed: list[str], competition: Competition, record: Mapping[str, Any]) -> str:
    if changed == [FOLDS]:
        return "restore the fold file, or "
    if set(changed) <= set(TEST):
        return f"predict them with ./run.sh predict run={run} competition.root={competition.root}, or "
    there = record.get("root")
    return f"set competition.root={there}, or " if there != str(competition.root.resolve()) else ""


def check_data(
    runs: Runs | Path,
    run: str,
    said: str,
    competition: Competition,
    but: tuple[str, ...] = (),
    now: Mapping[str, str] | None = None,
) -> None:
    """UserError, beginning with `said`, if the run was started with other data than the competition's; the parts `but`
    are left out. Nothing is known of runs from before the data were noted. now: what `contents_of_data` says of the
    competition, where several runs are checked: it asks for the sizes of up to 100,000 files."""
    record = read_record(runs / run)
    before, now = record.get("data", {}), now or contents_of_data(competition)
    changed = [part for part in now if part not in but and before.get(part, now[part]) != now[part]]
    if changed:
        raise UserError(
            f"{said}: run {run!r} was started with other {_listed(changed)} than those of {competition.root}, from "
            f"{record.get('root')}; set competition.root= to its data, or train it again on these"
        )


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def claim_sources(
    config: Config, folder: Path, folds: Sequence[int], competition: Competition, now: Mapping[str, str]
) -> None:
    """Note the outcomes of the run that `folds` of the run in `folder` learn from or are pruned from, if there is one.

    now: from `claim_data`. Raises UserError if that was trained on other data, or again since a fold was started.
    """
    runs = open_runs(config.paths)
    key, run = ("teacher", config.teacher) if config.prune.run is None else ("prune.run", config.prune.run)
    if run is None:
        return
    outcomes = {k: outcome_of(runs, run, k) for k in folds if finished(fold_folder(runs, run, k))}
    if not outcomes:  # what is not finished is refused where it is opened
        return
    check_data(runs, run, f"{key}={run}", competition, (*TEST, FOLDS), now)
    with lock_of(folder):
        record = read_record(folder)
        sources = record.get("sources", {})
        for k, outcome in outcomes.items():
            started = finished(folder / f"fold{k}") or any((folder / f"fold{k}").glob("checkpoints/*.ckpt"))
            if started and sources.get(str(k), outcome) != outcome:
                raise UserError(
                    f"{key}={run}: fold {k} of it has been made again since fold {k} of run={folder.name} was started "
                    "from it; choose another name with run=NAME"
                )
        write_record(folder, record | {"sources": {**sources, **{str(k): outcome for k, outcome in outcomes.items()}}})


def outcome_of(runs: Runs | Path, run: str, k: int) -> str:
    """A checksum of what fold k of a run predicts, and of its members if it combines others."""
    file = runs / run / "config.yaml"
    members = migrate(read_config(file)).get("runs") or [] if file.is_file() else []
    own = fold_folder(runs, run, k) / "oof.npz"
    parts = [contents_of(own)] if own.is_file() else []
    parts += [outcome_of(runs, str(name), k) for name in members if str(name) != run]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def claim_start(folder: Path, k: int, source: WeightsSource, name: str) -> None:
    """Note what fold k of the run in `folder` starts from; `name` is the network's.

    Raises UserError if the run has been started from something else: what is found attached, in a cache or on the hub
    may be another file the next time, or none.
    """
    from src.model.weights import fingerprint

    contents = fingerprint(source, name)
    with lock_of(folder):
        before = read_record(folder)
        if "contents" not in before or not is_started(folder, mine=k):
            write_record(folder, before | {"source": source.why, "contents": contents})
        elif before["contents"] != contents:
            raise UserError(
                f"run={folder.name}: was started with {before['source']} ({before['contents']}), and would go on with "
                f"{source.why} ({contents}); give the former with model.weights=FILE, choose another name with "
                f"run=NAME, or delete {folder}"
            )


def lock_of(folder: Path) -> AbstractContextManager[None]:
    """Held for the moments in which the files of a whole run are read and written again."""
    path = folder / ".lock"
    return held(path, 60, f"{path}: another process has held this run for a minute; is it stopped (kill -STOP)?")


def read_record(folder: Path) -> dict[str, Any]:
    return read_json(folder / FILE) if (folder / FILE).is_file() else {}


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    if record != read_record(folder):
        write_json(folder / FILE, record)
