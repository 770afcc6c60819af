"""Files written atomically and locked: what is read is the old file or the new one, never half of one."""

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
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError

# What numpy raises for files that are cut short, altered or something else under this name.
DAMAGED = (
    KeyError, ValueError, OSError, AttributeError, AssertionError, EOFError, TypeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


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
