"""Searches of thresholds, factors, cut points and bars that make a metric best on given rows; plain NumPy.

Each is exact where the metric allows it (F-beta of columns and of all cells), else a search over quantiles. All are
optimistic on the rows that they see: `decisions` fits and quotes them on different rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

GRID = 48  # values that are tried for a number

Score = Callable[[np.ndarray], float]  # greater is better


def candidates(values: np.ndarray, number: int = GRID) -> np.ndarray:
    """At most `number` thresholds that tell apart the values (N,), closer together towards the largest, where a
    threshold for few positives lies: between the k-th and the next one, k in geometric steps."""
    ranked = np.sort(values.reshape(-1).astype(np.float64))[::-1]
    places = np.unique(np.geomspace(1, max(2, len(ranked)), number).astype(np.int64)) - 1
    below = np.append(ranked[1:], ranked[-1:] / 2)
    found = (ranked + below)[places] / 2
    return np.unique(found[found > 0])


def best_f_cut(hit: np.ndarray, value: np.ndarray, gain: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    """The threshold on value (N,) with the largest gain(true positives, guessed), of all that there are."""
    order = np.argsort(-value, kind="stable")
    ranked, hits = value[order].astype(np.float64), np.cumsum(hit[order])
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # the last row of each tie
    found = np.append(gain(np.zeros(1), np.zeros(1)), gain(hits[ends], ends + 1))
    best = int(found.argmax())
    if best == 0:
        return float(min(1.0, ranked[0] + 1e-6 + (1 - ranked[0]) / 2))  # nothing is guessed
    last = ends[best - 1]
    return float((ranked[last] + (ranked[last + 1] if last + 1 < len(ranked) else 0)) / 2)


def f_macro_cuts(y: np.ndarray, pred: np.ndarray, beta: float) -> np.ndarray:
    """(C,) thresholds with the best F-beta of each column."""
    square = beta * beta

    def cut(c: int) -> float:
        there = y[:, c].sum()

        def gain(true: np.ndarray, guessed: np.ndarray) -> np.ndarray:
            return (1 + square) * true / np.maximum(square * there + guessed, 1)

        return best_f_cut(y[:, c], pred[:, c], gain)

    return np.array([cut(c) for c in range(y.shape[1])])


def f_micro_cuts(y: np.ndarray, pred: np.ndarray, beta: float, start: np.ndarray) -> np.ndarray:
    """(C,) thresholds with the best F-beta of all cells, by Dinkelbach's method from `start`: at a given F the columns
    part, each with the best (1 + b²) · true - F · guessed."""
    square, there, cuts = beta * beta, int(y.sum()), start
    guess = pred >= cuts
    f = (1 + square) * (guess & y).sum() / max(1.0, square * there + guess.sum())
    for _ in range(20):

        def gain(true: np.ndarray, guessed: np.ndarray, level: float = f) -> np.ndarray:
            return (1 + square) * true - level * guessed

        found = np.array([best_f_cut(y[:, c], pred[:, c], gain) for c in range(y.shape[1])])
        guess = pred >= found
        reached = (1 + square) * (guess & y).sum() / max(1.0, square * there + guess.sum())
        if reached <= f + 1e-12:
            break
        f, cuts = reached, found
    return cuts


def f_samples_cuts(y: np.ndarray, pred: np.ndarray, beta: float, start: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(C,) thresholds with a good mean over rows of F-beta: the `columns` in turn, twice, the others as they are."""
    square, cuts = beta * beta, start.copy()
    there, guess = y.sum(axis=1), pred >= cuts
    hits, guessed = (guess & y).sum(axis=1), guess.sum(axis=1)

    def value(hits: np.ndarray, guessed: np.ndarray) -> float:
        below = square * there + guessed
        return float(((1 + square) * hits / np.where(below > 0, below, 1)).mean())

    for c in np.tile(columns, 2).tolist():
        mine, own = pred[:, c].astype(np.float64), y[:, c]
        hits, guessed = hits - (guess[:, c] & own), guessed - guess[:, c]
        tried = {float(cut): mine >= cut for cut in (cuts[c], *candidates(mine, GRID // 2))}
        cuts[c] = max(tried, key=lambda cut: value(hits + (tried[cut] & own), guessed + tried[cut]))
        guess[:, c] = tried[float(cuts[c])]
        hits, guessed = hits + (guess[:, c] & own), guessed + guess[:, c]
    return cuts


def one_by_one(score: Score, start: np.ndarray, tried: list[np.ndarray], rounds: int = 2) -> np.ndarray:
    """Numbers (K,) with a good score: each in turn takes the best of its `tried` ones, `rounds` times."""
    found, best = start.astype(np.float64), score(start)
    for _ in range(rounds):
        before = best
        for k, values in enumerate(tried):
            for value in values.tolist():
                other = found.copy()
                other[k] = value
                reached = score(other)
                if reached > best:
                    found, best = other, reached
        if best == before:
            break
    return found


def class_factors(pred: np.ndarray, score: Callable[[np.ndarray], float], start: np.ndarray) -> np.ndarray:
    """Factors (C,) of the classes' probabilities (N, C) with a good score of the guesses (N,) int: each class in turn,
    twice, where its factor lets it win about 0, 1, 2, 4 … of the rows."""
    factors, best = start.astype(np.float64), score((pred * start).argmax(axis=1))
    for c in list(range(pred.shape[1])) * 2:
        rest = pred * factors
        rest[:, c] = -1
        other, level = rest.argmax(axis=1), rest.max(axis=1)
        needed = level / np.maximum(pred[:, c].astype(np.float64), 1e-12)  # the factor from which the class wins a row
        for factor in candidates(1 / np.maximum(needed, 1e-12), GRID // 2).tolist():
            factor = float(np.clip(1 / factor, 1e-3, 1e3))
            reached = score(np.where(pred[:, c] * factor > level, c, other))
            if reached > best:
                best, factors[c] = reached, factor
    return factors / np.exp(np.log(factors).mean())


def grade_cuts(score: Callable[[np.ndarray], float], grade: np.ndarray, levels: int) -> np.ndarray:
    """Cut points (levels - 1,), ascending, between grades 0 … levels - 1, with a good score of the guesses (N,) int:
    each in turn between its neighbours, at quantiles of the expected grades (N,)."""
    cuts = np.arange(levels - 1) + 0.5
    places = np.unique(np.quantile(grade, np.linspace(0, 1, 4 * GRID)))
    middles = np.unique(np.concatenate([(places[1:] + places[:-1]) / 2, cuts]))
    best = score(np.searchsorted(cuts, grade, side="right"))
    for _ in range(4):
        before = best
        for k in range(levels - 1):
            low, high = (cuts[k - 1] if k else -np.inf), (cuts[k + 1] if k + 2 < levels else np.inf)
            for cut in middles[(middles >= low) & (middles <= high)].tolist():
                other = cuts.copy()
                other[k] = cut
                reached = score(np.searchsorted(other, grade, side="right"))
                if reached > best:
                    cuts, best = other, reached
        if best == before:
            break
    return cuts
