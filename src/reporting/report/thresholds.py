"""What a decision costs when it is moved: thresholds, weights of classes, powers, and constants added to numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from src.competition.metrics import Metric
from src.reporting.report import charts
from src.reporting.report.record import Record, score_text
from src.reporting.report.section import Block, Note, Picture, Section, Table

ROWS = 5_000  # that a curve is computed on
CELLS = 200_000  # of predictions, likewise
FACTORS = 2.0 ** np.arange(-3, 3.01, 0.5)
STEPS = np.round(np.arange(0.05, 0.951, 0.05), 2)
FAILS = (ValueError, ZeroDivisionError, ArithmeticError)


def thresholds(record: Record) -> Section:
    """How the metric changes on out-of-fold rows as its decision is moved away from where it stands."""
    y, pred = _some(record)
    metric, blocks = record.metric, list[Block]()
    if record.task.numeric:
        blocks += _shifts(metric, y, pred)
    elif record.task.kind == "multi":
        blocks += _one_threshold(metric, y, pred, "threshold of all labels", lambda at: _stretched(pred, at))
        blocks += _precision(record.y.reshape(-1).astype(bool), record.oof.pred.reshape(-1), "of all labels together")
    elif pred.shape[1] == 2 and record.task.kind == "single":
        name = str(record.task.names[1])
        blocks += _one_threshold(metric, y, pred, f"threshold of {name}", lambda at: _two(pred, at))
        blocks += _precision(record.y == 1, record.oof.pred[:, 1], f"of {name}")
    else:
        blocks += _factors(metric, y, pred, record.task.names.tolist())
        blocks += _abstaining(record)
    if metric.of in ("probabilities",) and not record.task.numeric:
        blocks += _powers(metric, y, pred, record.task.groups)
    if (decision := record.cv.get("decision")) is not None:
        values = ", ".join(f"{value:.3g}" for value in decision["values"][:40])
        blocks.append(Note(f"Fitted on all out-of-fold rows, for the submission: {decision['note']} ({values})."))
    elif metric.of == "ranks":
        blocks.insert(0, Note(f"{metric.name} looks at the order of predictions only: no threshold changes it."))
    blocks.insert(
        0,
        Note("The curves are of the rows that any value would be chosen on: they show what moving costs, and their "
             "tops are no scores to quote."),
    )  # fmt: skip
    return Section("thresholds", "Thresholds, and what moving them costs", blocks)


def _some(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """The rows, evenly chosen, that curves are computed on."""
    count = max(50, min(ROWS, CELLS // max(1, record.oof.pred.shape[1])))
    rows = np.unique(np.linspace(0, len(record.y) - 1, min(len(record.y), count)).astype(int))
    return record.y[rows], record.oof.pred[rows].astype(np.float64)


def _reached(metric: Metric, y: np.ndarray, pred: np.ndarray) -> float:
    try:
        return metric.function(y, pred.astype(np.float32))
    except FAILS:
        return float("nan")


def _one_threshold(
    metric: Metric, y: np.ndarray, pred: np.ndarray, name: str, moved: Callable[[float], np.ndarray]
) -> list[Block]:
    if metric.of != "labels":
        return []
    values = [_reached(metric, y, moved(float(at))) for at in STEPS]
    usual = _reached(metric, y, pred)
    best = int(np.nanargmax(metric.sign * np.array(values))) if np.isfinite(values).any() else 9
    return [
        Picture(
            charts.lines({metric.name: (STEPS.tolist(), values)}, name, metric.name, marks={"0.5": 0.5}),
            f"{metric.name} against the {name}: {score_text(usual)} at 0.5, best {score_text(values[best])} at "
            f"{STEPS[best]:g}",
            f"At 0.5 {metric.name} is {score_text(usual)}; the top of the curve is {score_text(values[best])}, at "
            f"{STEPS[best]:g}.",
        )
    ]


def _stretched(pred: np.ndarray, at: float) -> np.ndarray:
    return np.where(pred >= at, 0.5 + 0.5 * (pred - at) / (1 - at), 0.499999 * pred / at)


def _two(pred: np.ndarray, at: float) -> np.ndarray:
    high = _stretched(pred[:, 1], at)
    return np.stack([1 - high, high], axis=1)


def _precision(true: np.ndarray, share: np.ndarray, of: str) -> list[Block]:
    rows = []
    for at in np.arange(0.1, 0.91, 0.1):
        said = share >= at
        hit, found, there = int((said & true).sum()), int(said.sum()), int(true.sum())
        rows.append([f"{at:.1f}", str(found), str(found - hit), str(there - hit),
                     f"{hit / found:.3f}" if found else "–", f"{hit / there:.3f}" if there else "–"])  # fmt: skip
    head = ["threshold", "predicted", "false alarms", "missed", "precision", "recall"]
    return [Table(f"Errors {of} by the threshold", head, rows)]


def _factors(metric: Metric, y: np.ndarray, pred: np.ndarray, names: Sequence[str]) -> list[Block]:
    """The metric as the probability of one class is multiplied, of the classes that move it most."""
    if metric.of not in ("labels", "probabilities"):
        return []
    usual = _reached(metric, y, pred)
    curves: dict[str, list[float]] = {}
    many = np.argsort(-pred.sum(axis=0), kind="stable")[: min(len(names), max(4, 4_000_000 // max(1, pred.size)), 12)]
    for column in many.tolist():
        values = []
        for factor in FACTORS:
            moved = pred.copy()
            moved[:, column] *= factor
            values.append(_reached(metric, y, moved / np.maximum(moved.sum(axis=1, keepdims=True), 1e-30)))
        curves[str(names[column])] = values
    moves = {name: float(np.ptp(values)) for name, values in curves.items()}
    shown = sorted(curves, key=lambda name: -moves[name])[:8]
    best = {name: int(np.nanargmax(metric.sign * np.array(curves[name]))) for name in curves}
    rows = [
        [name, score_text(curves[name][4]), score_text(usual), score_text(curves[name][8]),
         f"{FACTORS[best[name]]:.3g}", f"{metric.sign * (curves[name][best[name]] - usual):+.4f}"]
        for name in shown
    ]  # fmt: skip
    head = ["class", "halved", "as it is", "doubled", "best factor", "gains"]
    return [
        Picture(
            charts.lines({name: (FACTORS.tolist(), curves[name]) for name in shown}, "probability of the class times",
                         metric.name, marks={"as it is": 1.0}, logarithmic=True),
            f"{metric.name} as the probability of one class is multiplied by 1/8 to 8; it is {score_text(usual)} "
            "without",
            "One class at a time; those that move the score most.",
        ),
        Table(f"{metric.name} as one class is made rarer or more frequent", head, rows),
    ]  # fmt: skip


def _abstaining(record: Record) -> list[Block]:
    """What is right among the surest rows: what leaving the others to a person would buy."""
    if record.task.kind != "single":
        return []
    sure, right = record.oof.pred.max(axis=1), record.oof.pred.argmax(axis=1) == record.y
    order = np.argsort(-sure, kind="stable")
    rows = []
    for share in (1.0, 0.95, 0.9, 0.8, 0.5):
        kept = order[: max(1, round(share * len(order)))]
        rows.append(
            [f"{share:.0%}", f"{sure[kept[-1]]:.3f}", f"{right[kept].mean():.4f}", str(int((~right[kept]).sum()))]
        )
    head = ["rows answered", "least probability", "accuracy of these", "errors"]
    return [Table("Leaving the least sure rows unanswered", head, rows)]


def _powers(metric: Metric, y: np.ndarray, pred: np.ndarray, sizes: Sequence[int]) -> list[Block]:
    powers = 2.0 ** np.arange(-1.5, 1.51, 0.25)
    values = []
    for power in powers:
        p = np.clip(pred, 1e-15, 1.0)
        if sizes:
            blocks = [b**power for b in np.split(p, np.cumsum(sizes)[:-1], axis=1)]
            moved = np.concatenate([b / b.sum(axis=1, keepdims=True) for b in blocks], axis=1)
        else:
            moved = 1 / (1 + ((1 - p) / p) ** power)
        values.append(_reached(metric, y, moved))
    return [
        Picture(
            charts.lines({metric.name: (powers.tolist(), values)}, "power of the probabilities", metric.name,
                         marks={"as it is": 1.0}, logarithmic=True),
            f"{metric.name} against a power of the probabilities: {score_text(values[6])} as they are, from "
            f"{score_text(values[0])} at {powers[0]:.2g} to {score_text(values[-1])} at {powers[-1]:.2g}",
            "Below 1: all less sure; above 1: surer.",
        )
    ]  # fmt: skip


def _shifts(metric: Metric, y: np.ndarray, pred: np.ndarray) -> list[Block]:
    usual, spread = _reached(metric, y, pred), y.std(axis=0)
    steps, factors = np.round(np.arange(-0.5, 0.51, 0.1), 2), np.round(np.arange(0.8, 1.21, 0.04), 2)
    middle = pred.mean(axis=0)
    added = [_reached(metric, y, pred + step * spread) for step in steps]
    wider = [_reached(metric, y, middle + factor * (pred - middle)) for factor in factors]
    return [
        Picture(
            charts.lines({metric.name: (steps.tolist(), added)}, "added, in standard deviations of the truth",
                         metric.name, marks={"as it is": 0.0}),
            f"{metric.name} as a constant is added to all predictions; {score_text(usual)} without",
            "All predictions higher or lower.",
        ),
        Picture(
            charts.lines({metric.name: (factors.tolist(), wider)}, "distance from the mean times", metric.name,
                         marks={"as it is": 1.0}),
            f"{metric.name} as predictions are drawn to their mean or away from it; {score_text(usual)} without",
            "All predictions nearer to their mean, or farther from it.",
        ),
    ]  # fmt: skip
