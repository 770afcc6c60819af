"""What a technique is worth, from paired differences: an interval, Holm's correction, a verdict, pairs still needed.

A pair is two runs, with and without the technique, on the same fold with the same seed: they hold out the same rows and
see the same batches, so what is common to both cancels. Pairs of one fold share their held-out rows (and pairs of one
seed their batches), so they are not quite independent of each other: with many seeds and one fold the interval speaks
about that fold's rows, and is too narrow for the whole task. Several folds with a few seeds each are the better spend.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

FEWEST = 3  # pairs for an interval: two have one difference to judge their spread by
# From so many pairs on the interval is the studentised bootstrap's, below it Student's. Simulated coverage of 95 %
# intervals of normal differences: percentile bootstrap 0.80, 0.85, 0.88 at n = 4, 6, 9; Student 0.95 at each;
# studentised bootstrap 0.95, 0.94, 0.94, but twice Student's width at n = 4, and its 99.9 % quantile, which Holm asks
# for, is 10.2 at n = 6 (Student 5.9) and 4.6 at n = 9 (Student 4.5): resamples of nearly equal values have no spread.
# For exponential differences it covers 0.94 at n = 9, where Student covers 0.90.
BOOTSTRAP_FROM = 8
RESAMPLES = 20_000
MOST_PAIRS = 999  # more than anyone runs: said as "more than"


@dataclass(frozen=True)
class Effect:
    """Of one technique: number of pairs, their mean difference (+ is better), a 95 % interval or None, the p-value of
    "worth nothing" that belongs to the interval, the same after Holm's correction, and the verdict in words."""

    pairs: int
    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    holm: float | None = None
    verdict: str = ""


def judged(differences: Mapping[str, Sequence[float]], level: float = 0.05) -> dict[str, Effect]:
    """An effect for each technique from its paired differences, + is better; none at all is an effect of no pairs.

    "helps" and "harms" are said where Holm's correction over all techniques that have an interval leaves p at or below
    `level`; where one is not, the verdict estimates how many more pairs would show the mean that was seen.
    """
    found = {name: interval(np.asarray(each, np.float64)) for name, each in differences.items()}
    tested = [name for name, effect in found.items() if effect.p is not None]
    ps = np.array([found[name].p for name in tested], np.float64)
    adjusted = dict(zip(tested, holm(ps).tolist(), strict=True))
    # the step at which Holm looks at a technique is the level that it has to pass
    steps = dict(zip([tested[i] for i in np.argsort(ps, kind="stable")], range(len(tested)), strict=True))
    effects = {}
    for name, effect in found.items():
        each = np.asarray(differences[name], np.float64)
        if effect.p is None:
            verdict, p = without_test(each), None
        else:
            p = adjusted[name]
            own_level = level / (len(tested) - steps[name])
            verdict = ("helps" if effect.mean > 0 else "harms") if p <= level else undecided(each, own_level)
        effects[name] = Effect(effect.pairs, effect.mean, effect.low, effect.high, effect.p, p, verdict)
    return effects


def interval(differences: np.ndarray, coverage: float = 0.95) -> Effect:
    """Mean of differences (n,), its interval and the p-value that inverts it; no verdict yet.

    Student's below BOOTSTRAP_FROM pairs, the studentised bootstrap's from there if it is finite. Without an interval:
    fewer than FEWEST pairs, or differences that are all alike, which say nothing about their spread.
    """
    count = len(differences)
    mean = float(differences.mean()) if count else math.nan
    if count < FEWEST or all_alike(differences):
        return Effect(count, mean)
    low, high, p = (student if count < BOOTSTRAP_FROM else studentised_bootstrap)(differences, coverage)
    if not math.isfinite(high - low):  # most pairs are alike, and so are all values of many resamples
        low, high, p = student(differences, coverage)
    return Effect(count, mean, low, high, p)


def student(differences: np.ndarray, coverage: float) -> tuple[float, float, float]:
    """Student's interval of the mean of differences (n,) and the two-sided p-value of a mean of 0."""
    from scipy import stats

    found = stats.ttest_1samp(differences, 0.0)
    low, high = found.confidence_interval(coverage)
    return float(low), float(high), float(found.pvalue)


def studentised_bootstrap(differences: np.ndarray, coverage: float, seed: int = 0) -> tuple[float, float, float]:
    """The bootstrap-t interval (Efron, Tibshirani 1993, chapter 12) and its two-sided p-value, at least 1/RESAMPLES.

    scipy.stats.bootstrap has the percentile, basic and BCa intervals, which are too narrow for so few pairs. A resample
    whose values are all alike has t = +-infinity, which makes the interval wider, up to infinity.
    """
    count, mean = len(differences), differences.mean()
    error = differences.std(ddof=1) / math.sqrt(count)
    resampled = differences[np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))]
    shift, errors = resampled.mean(axis=1) - mean, resampled.std(axis=1, ddof=1) / math.sqrt(count)
    flat = errors < 1e-9 * error
    t = np.where(flat, np.copysign(np.inf, shift), shift / np.where(flat, 1.0, errors))
    tail = (1 - coverage) / 2
    # "lower" and "higher" interpolate nothing, which infinity would not survive
    lower, upper = np.quantile(t, tail, method="lower"), np.quantile(t, 1 - tail, method="higher")
    at_zero = mean / error
    p = 2 * (1 + min(np.count_nonzero(t >= at_zero), np.count_nonzero(t <= at_zero))) / (RESAMPLES + 1)
    return float(mean - upper * error), float(mean - lower * error), float(min(1.0, p))


def holm(p: np.ndarray) -> np.ndarray:
    """p-values (m,) after Holm's step-down correction (Holm 1979), each to be compared with the level itself.

    Own, because scipy has only the corrections for false discoveries (stats.false_discovery_control).
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, stepped)
    return adjusted


def pairs_needed(mean: float, spread: float, level: float = 0.05, power: float = 0.8) -> int:
    """Pairs with which a paired two-sided t-test finds a true mean difference `mean` with this power.

    spread: standard deviation of the differences. MOST_PAIRS + 1 if it takes more than MOST_PAIRS.
    """
    from scipy import stats

    counts = np.arange(2, MOST_PAIRS + 1)
    shift = abs(mean) / spread * np.sqrt(counts)
    bound = stats.t.ppf(1 - level / 2, counts - 1)
    reached = stats.nct.sf(bound, counts - 1, shift) + stats.nct.cdf(-bound, counts - 1, shift)
    enough = np.flatnonzero(reached >= power)  # nct gives NaN for shifts beyond its range, where the power is 1
    first_nan = np.flatnonzero(np.isnan(reached) & (shift > bound))
    found = np.concatenate([enough, first_nan])
    return int(counts[found.min()]) if len(found) else MOST_PAIRS + 1


def all_alike(differences: np.ndarray) -> bool:
    return float(np.ptp(differences)) <= 1e-12 * max(1.0, float(np.abs(differences).max()))


def without_test(differences: np.ndarray) -> str:
    """The verdict on differences that have no interval."""
    if len(differences) and not differences.any():
        return "changes nothing"
    if len(differences) < FEWEST:
        return "too few pairs"
    return "undecided: all pairs differ alike, which says nothing about the spread"


def undecided(differences: np.ndarray, level: float) -> str:
    more = pairs_needed(float(differences.mean()), float(differences.std(ddof=1)), level) - len(differences)
    if more + len(differences) > MOST_PAIRS:
        return f"undecided: more than {MOST_PAIRS} pairs, if it is worth anything"
    return f"undecided: about {max(1, more)} more pair{'s' if more > 1 else ''}"


def promoted(effects: Mapping[str, Effect], keep: float) -> list[str]:
    """The techniques that a rung of successive halving sends on: those whose whole interval is harmful go first, then
    the best `keep` share of all by mean stay, at least one. Best first; techniques without a pair do not go on."""
    alive = [
        name for name, effect in effects.items() if effect.pairs and not (effect.high is not None and effect.high < 0)
    ]
    ranked = sorted(alive, key=lambda name: -effects[name].mean)
    return ranked[: max(1, math.ceil(keep * len(effects)))]
