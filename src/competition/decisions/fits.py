"""What can be fitted for a metric: thresholds, cut points, class factors, the bar for "new", a temperature."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from src.competition.decisions.decision import APPLIED, Decision, expected_grade
from src.competition.metrics import Metric, confusion
from src.competition.metrics.labels import f_macro, kappa, mean_recall
from src.competition.metrics.numbers import grades
from src.competition.searches import (
    candidates,
    class_factors,
    f_macro_cuts,
    f_micro_cuts,
    f_samples_cuts,
    grade_cuts,
    one_by_one,
)
from src.competition.task import Task

FEW = 20  # positives of a column, rows of a class: with fewer it has no number of its own
MANY = 30  # classes with factors of their own; above, powers of their shares only

Fit = Callable[[np.ndarray, np.ndarray], Decision]  # (y, pred) -> what is best for them


def fits_for(metric: Metric, task: Task, new: str | None = None) -> list[Fit]:
    """What can be fitted for the metric, the simplest first; empty where the plain rule is what it wants (accuracy) or
    where it takes the predictions as they are (auc)."""
    if metric.name == "pf1":
        return [sharpener(metric, task, steep) for steep in (2.0, 4.0, None)]
    if metric.of == "probabilities" and task.kind != "number":
        owners = [name.partition("=")[0] for name in task.names.tolist()] if task.kind == "targets" else [""]
        sizes = (
            [owners.count(target) for target in dict.fromkeys(owners)] if task.kind == "targets" else [len(task.names)]
        )
        return [_tempered_fit(None if task.kind == "multi" else sizes)]
    if task.kind == "single":
        guesses = metric.top is not None or metric.name in ("accuracy", "error")
        if guesses and new is not None and new in task.names.tolist():
            return [_bar_fit(metric, task.names.tolist().index(new))]
        if metric.of != "labels" or metric.name in ("accuracy", "error", "f1_micro"):
            return []
        if metric.name in ("qwk", "kappa_linear"):
            return [_cuts_fit(kappa(2 if metric.name == "qwk" else 1))]
        guessed = _score_of_guess(metric, len(task.names))
        return [_shares_fit([len(task.names)], [guessed]), _factors_fit([len(task.names)], [guessed])]
    if task.kind == "multi" and metric.of == "labels":
        fits = [_thresholds_fit(metric, each) for each in (False, True)]
        return [*fits, *(_within(one) for one in fits)]
    if task.kind == "number" and metric.name == "qwk" and len(task.names) == 1:
        return [_number_cuts]
    if task.kind == "targets":
        owners = [name.partition("=")[0] for name in task.names.tolist()]
        sizes = [owners.count(target) for target in dict.fromkeys(owners)]
        of_counts = {"recall_macro": mean_recall, "f1_macro": f_macro(1)}.get(metric.name.removeprefix("weighted_"))
        if of_counts is not None:
            each = [_score_of_counts(of_counts, size) for size in sizes]
            return [_shares_fit(sizes, each), _factors_fit(sizes, each)]
    return []


def _tempered_fit(sizes: Sequence[int] | None) -> Fit:
    """One power for all, as temperature scaling (Guo et al. 1706.04599): label smoothing and averages over views make
    probabilities too timid, long training too sure.

    With the least cross-entropy to targets that are never quite sure, (n + 1) / (n + 2) for a class of n rows (Platt
    1999): where few rows are all right, the power would have no bound.
    """

    def fitted(y: np.ndarray, pred: np.ndarray) -> Decision:
        from scipy.optimize import minimize_scalar

        options = {} if sizes is None else {"sizes": list(sizes)}
        targets = _never_quite_sure(y, pred.shape[1], sizes)

        def loss(log_power: float) -> float:
            told = np.clip(APPLIED["tempered"](pred, np.exp([log_power]), options), 1e-15, 1 - 1e-15)
            own = targets * np.log(told) + ((1 - targets) * np.log(1 - told) if sizes is None else 0)
            return float(-own.sum(axis=1).mean())

        power = float(np.exp(minimize_scalar(loss, bounds=(-2.0, 2.0), method="bounded").x))
        return Decision("tempered", (power,), options, f"probabilities to the power {power:.3g}")

    return fitted


def _never_quite_sure(y: np.ndarray, columns: int, sizes: Sequence[int] | None) -> np.ndarray:
    """Targets (N, C): of each block of classes 1 at the true one, or of each column 0 or 1, less what Platt takes."""
    if sizes is None:
        true = y.sum(axis=0)
        return np.where(y, (true + 1) / (true + 2), 1 / (len(y) - true + 2))
    blocks = []
    for labels, size in zip(y.reshape(len(y), -1).T, sizes, strict=True):
        doubt = 1 / (np.bincount(labels, minlength=size) + 2)
        block = np.repeat((doubt[labels] / max(1, size - 1))[:, None], size, axis=1)
        block[np.arange(len(y)), labels] = 1 - doubt[labels]
        blocks.append(block)
    return np.concatenate(blocks, axis=1)


Guessed = Callable[[np.ndarray, np.ndarray], float]  # (y (N,), guess (N,)) -> greater is better


def _score_of_counts(of_counts: Callable[[np.ndarray], float], classes: int) -> Guessed:
    return lambda y, guess: of_counts(confusion(y, guess, classes))


def _score_of_guess(metric: Metric, classes: int) -> Guessed:
    if metric.of_counts is not None:
        of_counts, sign = metric.of_counts, metric.sign
        return lambda y, guess: sign * of_counts(confusion(y, guess, classes))
    return lambda y, guess: metric.sign * metric.function(y, np.eye(classes, dtype=np.float32)[guess])


def _by_block(y: np.ndarray, pred: np.ndarray, sizes: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    columns = y[:, None] if y.ndim == 1 else y
    return [(columns[:, t], block) for t, block in enumerate(np.split(pred, np.cumsum(sizes)[:-1], axis=1))]


def _powers(y: np.ndarray, pred: np.ndarray, score: Guessed) -> tuple[np.ndarray, float]:
    """Factors (C,) share ** -power with the best power, 0 to 1.5: logit adjustment (Menon et al. 2007.07314)."""
    shares = (np.bincount(y, minlength=pred.shape[1]) + 0.5) / (len(y) + 0.5 * pred.shape[1])
    powers = np.arange(0, 1.51, 0.125).tolist()
    best = max(powers, key=lambda power: score(y, (pred * shares**-power).argmax(axis=1)))
    factors = shares**-best
    return factors / np.exp(np.log(factors).mean()), best


def _shares_fit(sizes: Sequence[int], scores: Sequence[Guessed]) -> Fit:
    def fitted(y: np.ndarray, pred: np.ndarray) -> Decision:
        blocks = zip(_by_block(y, pred, sizes), scores, strict=True)
        found = [_powers(truth, block, score) for (truth, block), score in blocks]
        factors = np.concatenate([factors for factors, _ in found])
        note = "factors of the classes, their shares to the power " + ", ".join(f"-{power:g}" for _, power in found)
        return Decision("factors", tuple(factors.tolist()), {"sizes": list(sizes)}, note)

    return fitted


def _factors_fit(sizes: Sequence[int], scores: Sequence[Guessed]) -> Fit:
    """A factor for each class, from powers of the shares; with a class of few rows or with many classes, those."""

    def fitted(y: np.ndarray, pred: np.ndarray) -> Decision:
        found, own = [], 0
        for (truth, block), score in zip(_by_block(y, pred, sizes), scores, strict=True):
            factors, _ = _powers(truth, block, score)
            counts = np.bincount(truth, minlength=block.shape[1])
            if block.shape[1] <= MANY and counts.min() >= FEW:
                factors = class_factors(block, lambda guess, y=truth, score=score: score(y, guess), factors)  # type: ignore[misc]
                own += 1
            found.append(factors)
        values = np.concatenate(found)
        note = f"a factor for each class, {values.min():.2g} to {values.max():.2g}"
        if own < len(sizes):
            note = f"factors of the classes, powers of their shares (fewer than {FEW} rows of a class, or many classes)"
        return Decision("factors", tuple(values.tolist()), {"sizes": list(sizes)}, note)

    return fitted


def _cuts_fit(of_counts: Callable[[np.ndarray], float]) -> Fit:
    def fitted(y: np.ndarray, pred: np.ndarray) -> Decision:
        classes = pred.shape[1]
        score = _score_of_counts(of_counts, classes)
        cuts = grade_cuts(lambda guess: score(y, guess), expected_grade(pred), classes)
        return Decision("cuts", tuple(cuts.tolist()), {}, "cut points of the expected grade " + _listed(cuts))

    return fitted


def _number_cuts(y: np.ndarray, pred: np.ndarray) -> Decision:
    true, _, levels = grades(y[:, 0], pred[:, 0])
    low = int(np.floor(y.astype(np.float64).min() + 0.5))
    score = _score_of_counts(kappa(2), levels)
    cuts = grade_cuts(lambda guess: score(true, guess), pred[:, 0].astype(np.float64) - low, levels)
    options = {"number": True, "low": low}
    return Decision("cuts", tuple(cuts.tolist()), options, "cut points of the number " + _listed(cuts + low))


def _listed(values: np.ndarray, most: int = 8) -> str:
    return ", ".join(f"{value:.3g}" for value in values[:most]) + (" …" if len(values) > most else "")


def _thresholds_fit(metric: Metric, each: bool) -> Fit:
    """One threshold for all columns, or one for each with at least FEW positives, the others with the common one."""
    f = re.fullmatch(r"f([0-9.]+)_(macro|samples|micro)", metric.name)

    def fitted(y: np.ndarray, pred: np.ndarray) -> Decision:
        def score(cuts: np.ndarray) -> float:
            return metric.sign * metric.function(y, (pred >= cuts).astype(np.float32))

        common = max(candidates(pred).tolist(), key=lambda cut: score(np.array([cut])))
        if not each:
            return Decision("thresholds", (common,), {}, f"one threshold for all columns, {common:.3g}")
        enough = np.flatnonzero((y.sum(axis=0) >= FEW) & ((~y).sum(axis=0) >= FEW))
        start = np.full(y.shape[1], common)
        own, probabilities = y[:, enough], pred[:, enough].astype(np.float64)
        if f is None:
            if len(enough) > 12:
                raise ValueError("too many columns to try each")
            tried = [candidates(pred[:, c], 12) if c in enough else np.array([common]) for c in range(y.shape[1])]
            cuts = one_by_one(score, start, tried, rounds=1)
        elif f[2] == "samples":
            cuts = f_samples_cuts(y, pred, float(f[1]), start, enough)
        else:
            cuts = start
            if f[2] == "macro":
                cuts[enough] = f_macro_cuts(own, probabilities, float(f[1]))
            else:
                cuts[enough] = f_micro_cuts(own, probabilities, float(f[1]), start[enough])
        note = f"a threshold for each column, {cuts.min():.3g} to {cuts.max():.3g}"
        if len(enough) < y.shape[1]:
            few = y.shape[1] - len(enough)
            note += f"; {few} of {y.shape[1]} columns with fewer than {FEW} positives share {common:.3g}"
        return Decision("thresholds", tuple(cuts.tolist()), {}, note)

    return fitted


def _within(one: Fit) -> Fit:
    """The same, with as many words in each row as rows that were seen have: at least the fewest, at most the most."""

    def fitted(y: np.ndarray, pred: np.ndarray) -> Decision:
        words = y.sum(axis=1)
        least, most = int(words.min()), int(words.max())
        if least == 0 and most == y.shape[1]:
            raise ValueError("any number of words is possible")
        found = one(y, pred)
        note = f"{found.note}; {least} to {most} in each row"
        return Decision(found.kind, found.values, {"least": least, "most": most}, note)

    return fitted


def _bar_fit(metric: Metric, new: int) -> Fit:
    """The probability of "new", as learnt from rows that are in training, times a factor, but at least the bar: rows
    of identities that nobody has seen are not like those, so that it is also new where nobody known is likely."""

    def fitted(y: np.ndarray, pred: np.ndarray) -> Decision:
        known = np.delete(pred, new, axis=1).max(axis=1)
        grid = [(factor, bar) for factor in (0.0, 0.5, 1.0, 2.0, 4.0) for bar in (0.0, *candidates(known, 24))]

        def reached(values: tuple[float, float]) -> float:
            return metric.sign * metric.function(y, Decision("bar", values, {"new": new}).apply(pred))

        best = max(grid, key=reached)
        note = f"new: {best[0]:g} times its probability, at least {best[1]:.3g}"
        return Decision("bar", (float(best[0]), float(best[1])), {"new": new}, note)

    return fitted


def sharpener(metric: Metric, task: Task, steep: float | None) -> Fit:
    """For the probabilistic F1, which is best where probabilities are 0 or 1: odds to a power around a middle."""
    binary = task.kind == "single"

    def fitted(y: np.ndarray, pred: np.ndarray) -> Decision:
        options = {"steep": steep, "binary": binary}

        def reached(middle: float) -> float:
            return metric.sign * metric.function(y, Decision("sharpen", (middle,), options).apply(pred))

        middle = float(max(candidates(pred[:, 1] if binary else pred).tolist(), key=reached))
        how = "0 below and 1 from" if steep is None else f"odds to the power {steep:g} around"
        return Decision("sharpen", (middle,), options, f"probabilities become {how} {middle:.3g}")

    return fitted
