"""Whether predictions mean what they say: reliability, expected calibration error, and numbers by their size."""

from __future__ import annotations

import numpy as np

from src.reporting.report import charts
from src.reporting.report.record import Record, parts_of
from src.reporting.report.section import Block, Note, Picture, Section, Table

BINS = 15


def reliability(share: np.ndarray, right: np.ndarray, bins: int = BINS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability, share that is right, and rows of each bin (bins,) of equal width, NaN in the empty ones.

    share (N,) probabilities of what was predicted, right (N,) bool whether it is true.
    """
    place = np.minimum((share.astype(np.float64) * bins).astype(int), bins - 1)
    rows = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        said = np.bincount(place, share, minlength=bins) / rows
        true = np.bincount(place, right, minlength=bins) / rows
    return said, true, rows


def expected_calibration_error(share: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """The mean over rows of |share that is right - mean probability| of their bin (1706.04599)."""
    said, true, rows = reliability(share, right, bins)
    there = rows > 0
    return float((np.abs(said - true)[there] * rows[there]).sum() / rows.sum())


def calibration(record: Record) -> Section:
    """Of the out-of-fold rows; of numbers the mean truth by the size of the prediction."""
    if record.task.numeric:
        return Section("calibration", "Calibration", _numbers(record))
    curves, rows = {}, []
    for title, share, right in _said(record):
        said, true, count = reliability(share, right)
        there = count > 0
        name = title or "most probable class"
        curves[name] = (said[there].tolist(), true[there].tolist())
        error = expected_calibration_error(share, right)
        gap = float(share.mean() - right.mean())
        rows.append([name, f"{error:.4f}", f"{share.mean():.4f}", f"{right.mean():.4f}", _verdict(gap)])
    head = ["", "ECE", "mean probability", "share that is true", "so it is"]
    errors = ", ".join(f"{row[0]} {row[1]}" for row in rows[:6])
    blocks: list[Block] = [
        Note(
            f"The expected calibration error (ECE, {BINS} bins) is the mean gap between the probability and how often "
            "it comes true. On the dotted line a prediction of 0.8 is right in 8 of 10 rows."
        ),
        Table("Calibration of the out-of-fold predictions", head, rows),
        Picture(
            charts.lines(dict(list(curves.items())[:8]), "mean probability", "share that is true", diagonal=True,
                         width=6.4, height=4.4),
            f"Reliability curves; expected calibration error: {errors}",
            "Below the line: too sure; above: not sure enough.",
        ),
    ]  # fmt: skip
    return Section("calibration", "Calibration", blocks)


def _said(record: Record) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Title, probabilities (N,) and whether they came true (N,)."""
    parts = list(parts_of(record.task, record.y, record.oof.pred))
    if not parts:  # several labels: every cell is a statement
        found = [("all labels", record.oof.pred.reshape(-1), record.y.reshape(-1).astype(bool))]
        hardest = np.argsort(
            [abs(record.oof.pred[:, c].mean() - record.y[:, c].mean()) for c in range(record.y.shape[1])]
        )
        for column in hardest[::-1][:6].tolist():
            name = str(record.task.names[column])
            found.append((name, record.oof.pred[:, column], record.y[:, column].astype(bool)))
        return found
    return [(part.title, part.pred.max(axis=1), part.pred.argmax(axis=1) == part.y) for part in parts]


def _verdict(gap: float) -> str:
    return "too sure" if gap > 0.01 else "not sure enough" if gap < -0.01 else "about right"


def _numbers(record: Record) -> list[Block]:
    curves, rows = {}, []
    for column, name in enumerate(record.task.names.tolist()[:8]):
        true, said = record.y[:, column].astype(np.float64), record.oof.pred[:, column].astype(np.float64)
        parts = [part for part in np.array_split(np.argsort(said, kind="stable"), 10) if len(part)]
        means = [(float(said[part].mean()), float(true[part].mean())) for part in parts]
        curves[str(name)] = ([mean[0] for mean in means], [mean[1] for mean in means])
        rows.append([str(name), f"{np.mean([abs(a - b) for a, b in means]):.4g}", f"{(said - true).mean():+.4g}"])
    blocks: list[Block] = [Table("Tenths of the rows by their prediction", ["", "mean gap", "mean error"], rows)]
    for name, curve in curves.items():
        ends = [min(*curve[0], *curve[1]), max(*curve[0], *curve[1])]
        blocks.append(
            Picture(
                charts.lines({"rows": curve, "equal": (ends, ends)}, "mean prediction", "mean truth", width=6.0),
                f"{name}: mean truth against mean prediction, in tenths of the rows",
                f"{name}: where the curve is flatter than the line, predictions reach too far.",
            )
        )
    return blocks
