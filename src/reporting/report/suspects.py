"""Labels that are probably wrong: confident learning on out-of-fold predictions (1911.00068).

Ours, two functions of the paper, because cleanlab would be one more package to install for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from src.reporting.report.record import Record, parts_of

MOST = 0.3  # of the rows: with more wrong labels than that, hardly anything would be learnt


@dataclass(frozen=True)
class Suspects:
    """Rows (S,) int64 of the out-of-fold rows, the most suspicious first; given, better (S,) str: the label that they
    have and what it probably should be; margin (S,) float64, below 0: how much surer the latter is. sure: how many of
    the first rows the method counts as wrong, the others only rank next."""

    rows: np.ndarray
    given: np.ndarray
    better: np.ndarray
    margin: np.ndarray
    sure: int

    def believable(self, count: int) -> bool:
        """Whether they say something of the labels of `count` rows, and not of a network that has learnt too little."""
        return self.sure <= MOST * count


def class_thresholds(y: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """(C,) float64: the mean probability that rows labelled c give to c, eq. 2; infinite for a class without rows.

    y (N,) int64 labels, pred (N, C) out-of-sample probabilities.
    """
    own = pred[np.arange(len(y)), y].astype(np.float64)
    count = np.bincount(y, minlength=pred.shape[1])
    total = np.bincount(y, own, minlength=pred.shape[1])
    return np.where(count > 0, total / np.maximum(count, 1), np.inf)


def confident_label(pred: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(N,) int64: the most probable of the classes whose probability reaches their threshold, eq. 1; -1 for none."""
    above = pred >= thresholds
    best = np.where(above, pred, -1.0).argmax(axis=1)
    return np.where(above.any(axis=1), best, -1)


def find_suspects(y: np.ndarray, pred: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows (S,) whose label another class beats, ordered by the normalised margin p(label) - p(best other), its
    values, and how many of the first are off the diagonal of the confident joint.

    Rows off the diagonal come first; behind them those whose most probable class is another one.
    """
    at = np.arange(len(y))
    others = pred.astype(np.float64).copy()
    others[at, y] = -1.0
    margin = pred[at, y] - others.max(axis=1)
    confident = confident_label(pred, class_thresholds(y, pred))
    off = (confident >= 0) & (confident != y) & (margin < 0)
    rest = ~off & (margin < 0)
    rows = np.concatenate([np.flatnonzero(off)[np.argsort(margin[off], kind="stable")],
                           np.flatnonzero(rest)[np.argsort(margin[rest], kind="stable")]])  # fmt: skip
    return rows, margin[rows], int(off.sum())


def suspects(record: Record) -> Suspects:
    """Of a run's out-of-fold rows, whatever the kind of target: of several targets or labels each is looked at; of
    numbers the rows farthest off, in spreads of the errors, whose last digit may be the fault of the model as well."""
    task, y, pred = record.task, record.y, record.oof.pred
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]] = []
    parts = list(parts_of(task, y, pred))
    for part in parts:
        rows, margin, sure = find_suspects(part.y, part.pred)
        names, head = np.array(part.names), f"{part.title}=" if part.title else ""
        others = part.pred.copy()
        others[np.arange(len(others)), part.y] = -1
        given, better = (np.char.add(head, names[of[rows]].astype(str)) for of in (part.y, others.argmax(axis=1)))
        found.append((rows, given, better, margin, sure))
    if task.numeric:
        found.append(_far_off(record))
    elif not parts:
        for column, name in enumerate(task.names.tolist()):
            true = y[:, column].astype(np.int64)
            two = np.stack([1 - pred[:, column], pred[:, column]], axis=1)
            rows, margin, sure = find_suspects(true, two)
            has = true[rows] == 1
            given, better = (np.where(which, name, f"no {name}").astype(str) for which in (has, ~has))
            found.append((rows, given, better, margin, sure))
    counted = np.concatenate([np.arange(len(one[0])) < one[4] for one in found])
    rows, given, better, margin = (np.concatenate([one[i] for one in found]) for i in range(4))
    order = np.lexsort((margin, ~counted))
    return Suspects(rows[order], given[order], better[order], margin[order], int(counted.sum()))


def _far_off(record: Record) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    off = record.oof.pred.astype(np.float64) - record.y
    middle = np.median(off, axis=0)
    spread = np.maximum(1.4826 * np.median(np.abs(off - middle), axis=0), 1e-12)  # of a normal distribution
    far = np.abs(off - middle) / spread
    column = far.argmax(axis=1)
    at = np.arange(len(far))
    rows = np.argsort(-far[at, column], kind="stable")[:200]
    names = record.task.names if len(record.task.names) > 1 else np.array([""])
    given, better = (
        np.array(
            [f"{names[c]}{'=' if names[c] else ''}{of[r, c]:.4g}" for r, c in zip(rows, column[rows], strict=True)]
        )
        for of in (record.y, record.oof.pred)
    )
    worst = far[at, column][rows]
    return rows, given, better, -worst, int((worst > 5).sum())
