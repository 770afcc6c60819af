"""Seconds and peak memory of combining many large members: `python -m benchmarks.climb [members rows classes metric]`.

The default is ten members of 100,000 rows and 100 classes, five folds; the members are right in 37 to
63 % of the rows, the mean in 80 %.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np

from src.competition.metrics import find_metric
from src.ensembling.blend import blend, fit_weights
from src.ensembling.pool import make_pool


def members(count: int, rows: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """oof (R, N, C) float32 and labels (N,) int64; half of the noise is common to all members."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    oof = np.empty((count, rows, classes), np.float32)
    for start in range(0, rows, 5000):  # in parts, so that the peak is not that of making the data
        part = slice(start, start + 5000)
        signal = 5.5 * np.eye(classes, dtype=np.float32)[labels[part]]
        signal += 1.5 * random.standard_normal(signal.shape, np.float32)
        for r in range(count):
            logits = signal + (1.2 + 0.1 * r) * random.standard_normal(signal.shape, np.float32)
            np.exp(logits, out=logits)
            oof[r, part] = logits / logits.sum(axis=1, keepdims=True)
    return oof, labels


def main(count: int = 10, rows: int = 100_000, classes: int = 100, metric: str = "accuracy") -> None:
    oof, labels = members(count, rows, classes)
    folds = np.arange(rows) % 5
    wanted = find_metric(metric)
    print(f"{count} x {rows} x {classes}, {metric}, data {oof.nbytes / 2**30:.2f} GiB, {peak():.2f} GiB so far")
    print("members: " + ", ".join(f"{wanted.function(labels, member):.4f}" for member in oof))
    began = time.perf_counter()
    pool = make_pool(wanted, oof, labels)
    share = sum(block.pred.nbytes for block in pool.blocks) / oof.nbytes
    print(f"pool      {time.perf_counter() - began:6.1f} s, {share:.0%} of the values can win, {peak():.2f} GiB")
    for method in ("climb", "convex"):
        began = time.perf_counter()
        weights = fit_weights(method, pool)
        print(f"{method:<9} {time.perf_counter() - began:6.1f} s, {peak():.2f} GiB, {np.round(weights, 3)}")
    for leave_out in (False, True):
        began = time.perf_counter()
        found = blend("climb", oof, labels, folds, wanted, leave_out=leave_out)
        what = "with leave-one-out" if leave_out else "nested"
        print(
            f"climb {what}: {time.perf_counter() - began:.1f} s, {peak():.2f} GiB, nested "
            f"{wanted.function(labels, found.pred):.4f}, plain {wanted.function(labels, found.plain_pred):.4f}"
        )


def peak() -> float:
    """Largest resident memory of this process so far, GiB."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / 2**30 if sys.platform == "darwin" else size / 2**20


if __name__ == "__main__":
    words = sys.argv[1:]
    main(*map(int, words[:3]), *words[3:])
