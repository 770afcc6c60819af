"""What the folds of a run started from: the same weights, wherever they lie, for all of them and at every start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from src.config import Config
from src.errors import UserError
from src.files import contents_of, held, is_held, read_json, write_json
from src.runs.folder import finished_folds

if TYPE_CHECKING:  # loading torch takes seconds, and not every recipe that claims a run needs it
    from src.model.weights import WeightsSource

FILE = "started_from.json"
KEY = "model.weights: "


def is_started(folder: Path, mine: int | None = None) -> bool:
    """Whether any fold of the run is finished, has a checkpoint or is being trained; fold `mine` is, by the caller."""
    return bool(
        finished_folds(folder.parent, folder.name)
        or any(folder.glob("fold*/checkpoints/*.ckpt"))
        or any(is_held(lock) for lock in folder.glob(".fold*.lock") if lock.name != f".fold{mine}.lock")
    )


def but_for_moved_weights(changed: list[str], folder: Path, config: Config) -> list[str]:
    """`changed` (lines of `difference`) without `model.weights` if the file only lies elsewhere than before, as what
    is attached does from session to session; else the line says that its contents are others."""
    path, record = Path(config.model.weights or ""), folder / FILE
    if not any(line.startswith(KEY) for line in changed) or not (path.is_file() and record.is_file()):
        return changed
    if read_json(record)["contents"] == contents_of(path):
        return [line for line in changed if not line.startswith(KEY)]
    return [f"{line}, with other contents" if line.startswith(KEY) else line for line in changed]


def claim_start(folder: Path, k: int, source: WeightsSource, name: str) -> None:
    """Note what fold k of the run in `folder` starts from; `name` is the network's.

    Raises UserError if the run has been started from something else: what is found attached, in a cache or on the hub
    may be another file the next time, or none.
    """
    from src.model.weights import fingerprint

    record, contents = folder / FILE, fingerprint(source, name)
    with held(folder / ".lock", 60, f"{folder}: another process has held this run for a minute; is it stopped?"):
        before = read_json(record) if record.is_file() else None
        if before is None or not is_started(folder, mine=k):
            write_json(record, {"source": source.why, "contents": contents})
        elif before["contents"] != contents:
            raise UserError(
                f"run={folder.name}: was started with {before['source']} ({before['contents']}), and would go on with "
                f"{source.why} ({contents}); give the former with model.weights=FILE, choose another name with "
                f"run=NAME, or delete {folder}"
            )
