"""What was fitted, and how it turns predictions into predictions for the task's plain rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from src.competition.metrics.multi import THRESHOLD
from src.errors import UserError

BELOW = np.nextafter(np.float32(THRESHOLD), np.float32(0))


@dataclass(frozen=True)
class Decision:
    """tempered: a power of the probabilities. thresholds: (C,) or one for all columns. factors: (C,) of the classes.
    cuts: ascending, between expected grades (`low`: the lowest). bar: (factor, least) of the probability of column
    `new`. sharpen: (C,) or (1,) probabilities that become 0.5, odds to the power `steep`."""

    kind: Literal["tempered", "thresholds", "factors", "cuts", "bar", "sharpen"]
    values: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def apply(self, pred: np.ndarray) -> np.ndarray:
        """(N, C) -> (N, C) float32 for the task's plain rule."""
        return APPLIED[self.kind](pred.astype(np.float64), np.array(self.values), self.options).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "values": list(self.values), "options": dict(self.options), "note": self.note}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Decision:
        if found.get("kind") not in APPLIED:
            raise UserError(f"a decision of the kind {found.get('kind')!r} is not known to this version")
        return cls(found["kind"], tuple(map(float, found["values"])), found["options"], found["note"])


# ---- applying -------------------------------------------------------------------------------------------------------
def _thresholds(pred: np.ndarray, cuts: np.ndarray, options: Mapping[str, Any]) -> np.ndarray:
    """Each column stretched so that its threshold lands on 0.5; rows with fewer words than `least` get their best ones,
    those with more than `most` lose their weakest."""
    above = pred >= cuts
    rest = np.where(cuts < 1, 1 - cuts, 1.0)
    out = np.where(above, 0.5 + 0.5 * (pred - cuts) / rest, 0.5 * pred / np.where(cuts > 0, cuts, 1.0))
    out = np.where(above, np.maximum(out, THRESHOLD), np.minimum(out, BELOW))
    least, most = options.get("least", 0), options.get("most", pred.shape[1])
    if least > 0 or most < pred.shape[1]:
        rank = np.argsort(np.argsort(-out, axis=1, kind="stable"), axis=1, kind="stable")
        out = np.where(rank < least, np.maximum(out, THRESHOLD), out)
        out = np.where(rank >= most, np.minimum(out, BELOW), out)
    return np.clip(out, 0, 1)


def _factors(pred: np.ndarray, factors: np.ndarray, options: Mapping[str, Any]) -> np.ndarray:
    """Probabilities times factors, shares of each block of classes again."""
    out = pred * factors
    ends = np.cumsum(options.get("sizes", [pred.shape[1]]))[:-1]
    blocks = [block / np.maximum(block.sum(axis=1, keepdims=True), 1e-30) for block in np.split(out, ends, axis=1)]
    return np.concatenate(blocks, axis=1)


def _cuts(pred: np.ndarray, cuts: np.ndarray, options: Mapping[str, Any]) -> np.ndarray:
    """The class whose cut points hold the expected grade, as certain; of one number, that grade."""
    if options.get("number"):
        return np.searchsorted(cuts, pred[:, 0] - options["low"], side="right")[:, None] + float(options["low"])
    return np.eye(pred.shape[1])[np.searchsorted(cuts, expected_grade(pred), side="right")]


def _bar(pred: np.ndarray, values: np.ndarray, options: Mapping[str, Any]) -> np.ndarray:
    out = pred.copy()
    out[:, options["new"]] = np.maximum(values[0] * pred[:, options["new"]], values[1])
    return out / np.maximum(out.sum(axis=1, keepdims=True), 1e-30)


def _sharpen(pred: np.ndarray, middle: np.ndarray, options: Mapping[str, Any]) -> np.ndarray:
    """The odds over those of `middle`, to the power `steep`; without one, 0 or 1."""
    two = options.get("binary", False)
    p = pred[:, 1:] if two else pred
    steep = options.get("steep")
    if steep is None:
        out = (p >= middle).astype(np.float64)
    else:
        p, t = np.clip(p, 1e-9, 1 - 1e-9), np.clip(middle, 1e-9, 1 - 1e-9)
        out = 1 / (1 + ((1 - p) / p * t / (1 - t)) ** steep)
    return np.concatenate([1 - out, out], axis=1) if two else out


def _tempered(pred: np.ndarray, power: np.ndarray, options: Mapping[str, Any]) -> np.ndarray:
    """Probabilities of each block of classes to a power, shares again; without blocks the odds of each column."""
    p = np.clip(pred, 1e-15, 1.0)
    if "sizes" not in options:
        return 1 / (1 + ((1 - p) / p) ** power[0])
    blocks = [block ** power[0] for block in np.split(p, np.cumsum(options["sizes"])[:-1], axis=1)]
    return np.concatenate([block / block.sum(axis=1, keepdims=True) for block in blocks], axis=1)


APPLIED = {
    "tempered": _tempered,
    "thresholds": _thresholds,
    "factors": _factors,
    "cuts": _cuts,
    "bar": _bar,
    "sharpen": _sharpen,
}


def expected_grade(pred: np.ndarray) -> np.ndarray:
    """(N,) float64: the mean of the class numbers by their probabilities."""
    wide = pred.astype(np.float64)
    return wide @ np.arange(pred.shape[1]) / np.maximum(wide.sum(axis=1), 1e-30)
