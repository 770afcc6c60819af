"""Members' predictions laid out so that scoring one more weighted mean of them is cheap.

Own code, because searching weights scores thousands of means: a metric on the (N, C) mean costs a pass over all of it
and a copy each time. Three things are saved. Log loss only needs the probability of the true class. Metrics of the
most probable class only need, per row, the classes that can win: one that every member puts below the leader of the
plain mean cannot win any weighted mean. And what is scored is computed in slices that stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.competition.metrics import Metric, confusion

SLICE = 32_768  # values at a time: 128 KiB of float32


@dataclass(frozen=True)
class Block:
    """n rows in which W classes can win, or fewer, then filled up with classes that cannot."""

    pred: np.ndarray  # (R, n, W) float32
    classes: np.ndarray  # (n, W) int32, those that can win first and ascending: of equals the first class wins
    rows: np.ndarray  # (n,) int64 into the pool's rows


@dataclass(frozen=True)
class Pool:
    metric: Metric
    y: np.ndarray  # (N,) int64 classes, or (N, C) bool where several columns may be true of a row
    classes: int
    own: np.ndarray  # (R, N) float64, probability of the true class; (R, N, C), of what is true of each column
    total: np.ndarray  # as own: sum of the row, 1 except for the method rank
    blocks: tuple[Block, ...]  # for metrics of the most probable class
    full: np.ndarray | None  # (R, N, C) float32 for metrics that need everything (auc, map), not copied


@dataclass(frozen=True)
class Mixture:
    """A weighted sum of members, as much of it as the metric needs. The scale of the weights does not matter: `weight`
    is their sum, by which what is not only compared within a row is divided."""

    weight: float
    own: np.ndarray
    total: np.ndarray
    blocks: tuple[np.ndarray, ...]
    full: np.ndarray | None


Quality = tuple[float, float]  # metric and log loss, both signed so that greater is better; the second breaks ties


def make_pool(metric: Metric, oof: np.ndarray, y: np.ndarray) -> Pool:
    """oof (R, N, C) float32 probabilities, y (N,) int64, or (N, C) bool of independent columns."""
    if y.ndim == 2:
        own = np.where(y, oof, 1 - oof).astype(np.float64)
        return Pool(metric, y, oof.shape[2], own, np.ones_like(own), (), oof)
    rows = np.arange(len(y))
    own = np.stack([member[rows, y] for member in oof]).astype(np.float64)
    total = np.stack([member.sum(axis=1, dtype=np.float64) for member in oof])
    blocks: tuple[Block, ...] = ()
    full = None
    if metric.of_counts is not None:
        blocks = _contenders(oof)
    elif metric.name != "log_loss":
        full = oof
    return Pool(metric, y, oof.shape[2], own, total, blocks, full)


def take(pool: Pool, rows: np.ndarray) -> Pool:
    """The pool of some of its rows, (n,) int64; a row may be taken more than once (bootstrap). The order may change."""
    times = np.bincount(rows, minlength=len(pool.y))
    rows = np.repeat(np.arange(len(times)), times)
    blocks, place = [], np.cumsum(times) - times
    for block in pool.blocks:
        copies = np.repeat(np.arange(len(block.rows)), times[block.rows])
        if len(copies):
            again = np.arange(len(copies)) - np.searchsorted(copies, copies)  # 0, 1 … for copies of one row
            blocks.append(Block(block.pred[:, copies], block.classes[copies], place[block.rows[copies]] + again))
    full = None if pool.full is None else pool.full[:, rows]
    return Pool(pool.metric, pool.y[rows], pool.classes, pool.own[:, rows], pool.total[:, rows], tuple(blocks), full)


def mixture(pool: Pool, weights: np.ndarray) -> Mixture:
    """The sum with weights (R,) float64."""
    narrow = weights.astype(np.float32)
    return Mixture(
        float(weights.sum()),
        np.tensordot(weights, pool.own, axes=1),
        np.tensordot(weights, pool.total, axes=1),
        tuple(np.tensordot(narrow, block.pred, axes=1) for block in pool.blocks),
        None if pool.full is None else np.tensordot(narrow, pool.full, axes=1),
    )


def add(pool: Pool, base: Mixture, member: int, a: float = 1.0, b: float = 1.0) -> Mixture:
    """a * base + b * member."""
    a32, b32 = np.float32(a), np.float32(b)
    return Mixture(
        a * base.weight + b,
        a * base.own + b * pool.own[member],
        a * base.total + b * pool.total[member],
        tuple(a32 * sums + b32 * block.pred[member] for sums, block in zip(base.blocks, pool.blocks, strict=True)),
        None if base.full is None or pool.full is None else a32 * base.full + b32 * pool.full[member],
    )


def quality(pool: Pool, base: Mixture, member: int = 0, a: float = 1.0, b: float = 0.0) -> Quality:
    """How good a * base + b * member is, without keeping it. The weights must stay non-negative."""
    own, total = a * base.own + b * pool.own[member], a * base.total + b * pool.total[member]
    likelihood = float(np.log(np.clip(own / np.maximum(total, 1e-15), 1e-15, 1.0)).mean())
    if pool.metric.name == "log_loss":
        return likelihood, likelihood
    if pool.full is None:
        assert pool.metric.of_counts is not None
        value = pool.metric.of_counts(confusion(pool.y, _guesses(pool, base, member, a, b), pool.classes))
    else:
        assert base.full is not None
        share = 1 / max(a * base.weight + b, 1e-15)  # thresholds and numbers are about the mean, not the sum
        value = pool.metric.function(
            pool.y, np.float32(a * share) * base.full + np.float32(b * share) * pool.full[member]
        )
    return pool.metric.sign * value, likelihood


def _guesses(pool: Pool, base: Mixture, member: int, a: float, b: float) -> np.ndarray:
    """(N,) int64: the most probable class of each row."""
    guesses = np.empty(len(pool.y), np.int64)
    a32, b32 = np.float32(a), np.float32(b)
    for block, sums in zip(pool.blocks, base.blocks, strict=True):
        width = sums.shape[1]
        if width == 1:
            guesses[block.rows] = block.classes[:, 0]
            continue
        step = max(1, SLICE // width)
        best = np.empty(len(sums), np.int64)
        mixed = np.empty((step, width), np.float32)
        for start in range(0, len(sums), step):
            part = slice(start, start + step)
            out = mixed[: len(sums[part])]
            if b == 0:  # nothing to add
                out = sums[part]
            elif b == 1:
                np.add(sums[part] if a == 1 else a32 * sums[part], block.pred[member, part], out=out)
            else:
                np.multiply(block.pred[member, part], b32, out=out)
                out += sums[part] if a == 1 else a32 * sums[part]
            out.argmax(axis=1, out=best[part])
        guesses[block.rows] = block.classes[np.arange(len(best)), best]
    return guesses


def _contenders(oof: np.ndarray) -> tuple[Block, ...]:
    """Rows grouped by how many classes can win: 1, 2, 4, 8 … C, so that there are few groups and little padding."""
    members, count, classes = oof.shape
    widths = [*(2**power for power in range(12) if 2**power < classes), classes]
    found: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {width: [] for width in widths}
    step = max(1, 4_000_000 // (members * classes))
    for start in range(0, count, step):
        part = oof[:, start : start + step]
        leader = part.mean(axis=0).argmax(axis=1)
        leading = np.take_along_axis(part, np.broadcast_to(leader, part.shape[:2])[..., None], axis=2)
        alive = np.logical_or.reduce(part >= leading, axis=0)
        alive[np.arange(len(leader)), leader] = True
        needed = np.array(widths)[np.searchsorted(widths, alive.sum(axis=1))]
        for width in np.unique(needed).tolist():
            rows = np.flatnonzero(needed == width)
            kept = np.argsort(~alive[rows], axis=1, kind="stable")[:, :width].astype(np.int32)
            found[width].append((rows + start, kept))
    blocks = []
    for parts in found.values():
        if parts:
            rows = np.concatenate([rows for rows, _ in parts])
            kept = np.concatenate([kept for _, kept in parts])
            pred = np.empty((members, *kept.shape), np.float32)
            for r in range(members):
                pred[r] = oof[r][rows[:, None], kept]
            blocks.append(Block(pred, kept, rows))
    return tuple(blocks)


def members_of(pool: Pool, allowed: Sequence[int] | None) -> list[int]:
    return list(range(len(pool.own))) if allowed is None else list(allowed)
