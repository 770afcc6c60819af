"""Everything that is kept in runs/: predictions aligned by id, manifests, tables of a run, written atomically."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import secrets
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError, first_few

# What numpy raises for files that are cut short, altered or something else under this name.
DAMAGED = (
    KeyError, ValueError, OSError, AttributeError, AssertionError, EOFError, TypeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class Predictions:
    """ids (N,) str · pred (N, C) float32 · classes (C,) str · fold (N,) int64 (-1: a mean of folds) · target (N,) str.

    `target` is there out-of-fold only.
    """

    ids: np.ndarray
    pred: np.ndarray
    classes: np.ndarray
    fold: np.ndarray
    target: np.ndarray | None = None

    def __post_init__(self) -> None:
        assert self.pred.shape == (len(self.ids), len(self.classes)), (
            self.pred.shape,
            len(self.ids),
            len(self.classes),
        )
        assert len(self.fold) == len(self.ids)
        assert self.target is None or len(self.target) == len(self.ids)
        assert np.isfinite(self.pred).all(), "predictions hold NaN or infinity"
        assert len(np.unique(self.ids)) == len(self.ids), "an id occurs twice"

    def labels(self) -> np.ndarray:
        """(N,) int64 positions of `target` in `classes`."""
        assert self.target is not None
        order = np.argsort(self.classes)
        return order[np.searchsorted(self.classes[order], self.target)]


@dataclass(frozen=True)
class Features:
    """ids (N,) str, of training and test rows · x (N, D) float32 · fold: whose backbone made them.

    A backbone that was trained without fold k's rows makes a file with fold=k; one that has never seen a label of
    the competition makes one file for all folds, fold=-1.
    """

    ids: np.ndarray
    x: np.ndarray
    fold: int = -1

    def __post_init__(self) -> None:
        assert self.x.ndim == 2 and self.x.shape[0] == len(self.ids) and self.x.shape[1], (self.x.shape, len(self.ids))
        assert np.isfinite(self.x).all(), "features hold NaN or infinity"
        assert len(np.unique(self.ids)) == len(self.ids), "an id occurs twice"


def save_features(path: Path, features: Features) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(  # uncompressed: activations hardly compress
            file,
            ids=features.ids.astype(str),
            x=features.x.astype(np.float32),
            fold=np.int64(features.fold),
        )


def load_features(path: Path) -> Features:
    """Raises UserError if the file is missing or is no features file; nothing in it can run code."""
    try:
        archive: Any = np.load(path, allow_pickle=False)
        with archive:
            return Features(archive["ids"], archive["x"], int(archive["fold"]))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; make the features first") from None
    except DAMAGED as error:
        raise UserError(f"{path}: not a features file ({error})") from None


def save_predictions(path: Path, predictions: Predictions) -> None:
    arrays: dict[str, Any] = {
        "ids": predictions.ids.astype(str),
        "pred": predictions.pred.astype(np.float32),
        "classes": predictions.classes.astype(str),
        "fold": predictions.fold.astype(np.int64),
    }
    if predictions.target is not None:
        arrays["target"] = predictions.target.astype(str)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def load_predictions(path: Path) -> Predictions:
    """Raises UserError if the file is missing or is no predictions file; nothing in it can run code."""
    try:
        _refuse_bomb(path)
        archive: Any = np.load(path, allow_pickle=False)
        with archive:
            arrays = {name: archive[name] for name in archive.files}
        return Predictions(arrays["ids"], arrays["pred"], arrays["classes"], arrays["fold"], arrays.get("target"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; has the run finished?") from None
    except DAMAGED as error:
        raise UserError(f"{path}: not a predictions file ({error})") from None


def _refuse_bomb(path: Path) -> None:
    """UserError if the arrays in the archive would not fit into memory: a small file can hold terabytes of zeros."""
    import psutil

    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > psutil.virtual_memory().available:
        raise UserError(f"{path}: unpacks to {size / 1e9:.0f} GB, more than there is memory")


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """Out-of-fold predictions of several folds as one table; raises if an id is in two of them."""
    _require_same_classes(parts)
    targets = [part.target for part in parts]
    return Predictions(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.pred for part in parts]),
        parts[0].classes,
        np.concatenate([part.fold for part in parts]),
        None if any(target is None for target in targets) else np.concatenate([t for t in targets if t is not None]),
    )


def fold_mean(parts: Sequence[Predictions]) -> Predictions:
    """Test predictions averaged over folds, aligned by id to the first part's order. `fold` is -1."""
    _require_same_classes(parts)
    first = parts[0]
    stacked = np.stack([align(part, first.ids).pred for part in parts])
    return Predictions(
        first.ids,
        np.asarray(stacked.mean(axis=0, dtype=np.float64), np.float32),
        first.classes,
        np.full(len(first.ids), -1 if len(parts) > 1 else int(first.fold[0]) if len(first.fold) else -1),
    )


def _require_same_classes(parts: Sequence[Predictions]) -> None:
    for part in parts[1:]:
        if not np.array_equal(part.classes, parts[0].classes):
            raise UserError(
                f"predictions have other classes, or in another order: {first_few(parts[0].classes.tolist())} against "
                f"{first_few(part.classes.tolist())}; they are not of one competition"
            )


def align(predictions: Predictions, ids: np.ndarray) -> Predictions:
    """Rows re-ordered to `ids`. Raises UserError that counts ids on one side only."""
    if np.array_equal(predictions.ids, ids):
        return predictions
    order = np.argsort(predictions.ids)
    place = np.searchsorted(predictions.ids[order], ids).clip(max=len(order) - 1)
    if len(ids) != len(order) or not np.array_equal(predictions.ids[order][place], ids):
        missing = np.setdiff1d(ids, predictions.ids).tolist()
        extra = np.setdiff1d(predictions.ids, ids).tolist()
        raise UserError(
            f"predictions do not match the ids: {len(missing)} missing ({first_few(missing)}), "
            f"{len(extra)} unknown ({first_few(extra)})"
        )
    rows = order[place]
    target = None if predictions.target is None else predictions.target[rows]
    return Predictions(ids, predictions.pred[rows], predictions.classes, predictions.fold[rows], target)


def contents_of(path: Path) -> str:
    """What a file holds, as one line that is the same wherever the file lies: its size and a checksum of all of it (the
    weights of one network begin alike)."""
    stat = path.stat()
    return _contents_of(path, stat.st_size, stat.st_mtime_ns)


@lru_cache
def _contents_of(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return f"{size} bytes, sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2, default=_plain) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Raises UserError for a file that is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); restore it or delete its folder") from None


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    import yaml

    write_text(path, yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False))


def read_config(path: Path) -> dict[str, Any]:
    """Raises UserError for what is no mapping in plain YAML. Aliases are refused: a few lines of them can stand for
    more values than any memory holds, and we write none."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise UserError(f"{path}: holds YAML aliases (*name); write the values out")
        values = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as a configuration ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no configuration; restore the file or delete the run")
    return values


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """One line per row; without `columns`, all that the rows have, in the order of appearance. Floats exactly."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, columns or list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)


def save_weights(path: Path, state: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """A state dict as safetensors; `metadata` is readable without loading the tensors."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        try:
            tensors = {key: value.cpu().contiguous() for key, value in state.items()}
            save_file(tensors, temporary, metadata=dict(metadata))
        except SafetensorError as error:  # what safetensors makes of a disk that is full
            raise UserError(f"{path}: cannot be written ({error}); free some disk") from None


def fold_folder(runs: Path, run: str, fold: int) -> Path:
    return runs / run / f"fold{fold}"


def finished(folder: Path) -> bool:
    """The manifest is written last, so its existence says that the fold is complete."""
    return (folder / "manifest.json").is_file()


def finished_folds(runs: Path, run: str) -> list[int]:
    found = (path.parent.name.removeprefix("fold") for path in (runs / run).glob("fold*/manifest.json"))
    return sorted(int(number) for number in found if number.isdigit())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it takes the place of `path` when the block ends well.

    A reader sees the old file or the new one, never half of one; if the block or the disk fails, the old file stays
    and nothing is left beside it. Makes the folder if need be. Raises UserError if the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); free some disk") from None
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed processes had half-written in `folder`, for files whose name matches the pattern `name`.

    Only to be called where no other process can be writing these files: under the lock of the fold or the run.
    """
    for path in folder.glob(f".{name}.*.tmp"):
        path.unlink(missing_ok=True)


@contextmanager
def held(path: Path, seconds: float, busy: str) -> Iterator[None]:
    """Hold the lock file `path`. Raises UserError(`busy`) if another process still has it after `seconds`.

    The lock is the operating system's (flock): it ends with the process that holds it, however that ends, so nothing
    is left to clean up. The file stays.
    """
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=seconds)
        lock.acquire()
    except Timeout:
        raise UserError(busy) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be locked ({error.strerror or error}); is the disk writable?") from None
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file `path` at this moment."""
    try:
        with held(path, 0, ""):
            return False
    except UserError:
        return True


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)
