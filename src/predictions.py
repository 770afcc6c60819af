"""Predictions and features of rows, aligned by id: what they hold, on disk and in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError, first_few
from src.files import DAMAGED, replacing
from src.ids import differ, find_rows

FEATURES, MADE_FROM = "features.npz", "features.json"  # of a run or a fold of it: its features, and what made them


@dataclass(frozen=True)
class Predictions:
    """ids (N,) str · pred (N, C) float32 · classes (C,) str · fold (N,) int64 (-1: a mean of folds) · target (N,) str.

    classes: what the columns of `pred` mean. `target`, a cell per row, is there out-of-fold only. kind: of the task
    that they belong to (`competition.kinds.task_of`); a file without it is of one label per row.
    """

    ids: np.ndarray
    pred: np.ndarray
    classes: np.ndarray
    fold: np.ndarray
    target: np.ndarray | None = None
    kind: str = "single"

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

    def take(self, rows: np.ndarray) -> Predictions:
        """Those of some rows, (n,) int64 or bool."""
        target = None if self.target is None else self.target[rows]
        return replace(self, ids=self.ids[rows], pred=self.pred[rows], fold=self.fold[rows], target=target)


@dataclass(frozen=True)
class Features:
    """ids (N,) str, of training and test rows · x (N, D) float32 · fold: whose backbone made them · held_out (V,) str:
    the training rows whose labels that backbone has not seen.

    A backbone that was trained without fold k's rows makes a file with fold=k; one that has never seen a label of
    the competition makes one file for all folds, fold=-1, and held_out is None.
    training: how many of the rows, the first ones, are training rows, where both sides may have the same ids; None: the
    ids tell.
    """

    ids: np.ndarray
    x: np.ndarray
    fold: int = -1
    held_out: np.ndarray | None = None
    training: int | None = None

    def side(self, test: bool) -> tuple[np.ndarray, np.ndarray]:
        """The ids and features among which the training rows are, or the test rows."""
        if self.training is None:
            return self.ids, self.x
        part = slice(self.training, None) if test else slice(self.training)
        return self.ids[part], self.x[part]

    def of(self, ids: np.ndarray, test: bool) -> tuple[np.ndarray, list[str]]:
        """(n, D) features of the rows `ids` (n,) str among the training rows, or the test rows; or none, and the ids
        that are missing."""
        own, x = self.side(test)
        at = find_rows(own, ids)
        missing = ids[at < 0].tolist()
        return x[:0] if missing else x[at], missing

    def __post_init__(self) -> None:
        assert self.x.ndim == 2 and self.x.shape[0] == len(self.ids) and self.x.shape[1], (self.x.shape, len(self.ids))
        assert np.isfinite(self.x).all(), "features hold NaN or infinity"
        for ids, _ in (self.side(test=False), self.side(test=True)):
            assert len(np.unique(ids)) == len(ids), "an id occurs twice"


def save_features(path: Path, features: Features) -> None:
    more: dict[str, Any] = {} if features.held_out is None else {"held_out": features.held_out.astype(str)}
    if features.training is not None:
        more["training"] = np.int64(features.training)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(  # uncompressed: activations hardly compress
            file,
            ids=features.ids.astype(str),
            x=features.x.astype(np.float32),
            fold=np.int64(features.fold),
            **more,
        )


def load_features(path: Path) -> Features:
    """Raises UserError if the file is missing or is no features file; nothing in it can run code."""
    try:
        archive: Any = np.load(path, allow_pickle=False)
        with archive:
            held_out = archive["held_out"] if "held_out" in archive.files else None
            training = int(archive["training"]) if "training" in archive.files else None
            return Features(archive["ids"], archive["x"], int(archive["fold"]), held_out, training)
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
    if predictions.kind != "single":
        arrays["kind"] = np.array(predictions.kind)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def load_predictions(path: Path) -> Predictions:
    """Raises UserError if the file is missing or is no predictions file; nothing in it can run code."""
    try:
        _refuse_bomb(path)
        archive: Any = np.load(path, allow_pickle=False)
        with archive:
            arrays = {name: archive[name] for name in archive.files}
        kind = str(arrays.get("kind", "single"))
        return Predictions(arrays["ids"], arrays["pred"], arrays["classes"], arrays["fold"], arrays.get("target"), kind)
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
        parts[0].kind,
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
        kind=first.kind,
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
    if text := differ(ids, predictions.ids):
        raise UserError(f"predictions do not match the ids: {text}")
    assert len(ids) == len(predictions.ids), "an id is asked for twice"
    return predictions.take(find_rows(predictions.ids, ids))
