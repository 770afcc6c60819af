"""Judge a technique by paired differences: an interval, Holm's correction, a verdict, the folds and seeds still needed.

A pair is two runs, with and without the technique, on the same fold with the same seed: they hold out the same rows and
see the same batches, so what is common to both cancels. Pairs of one fold share their held-out rows and are not
independent of each other, so the unit is the fold: its mean over seeds is one value, and Student's t over these means
holds its level whatever the pairs of a fold have in common.

Simulated share of tables of eight techniques worth nothing in which one is called, 3 folds x 3 seeds and 2 x 4, at
intraclass correlations of 0, .1, .3, .5 (benchmarks/false_calls.py; 4,000 tables each, a standard error of .003):

    Student over all pairs   .04 .07 .15 .27    .04 .09 .21 .40
    a mixed model            .03 .04 .08 .12    .03 .07 .14 .25
    Student over fold means  .05 .05 .04 .04    .05 .05 .04 .05

The price is power: of a technique worth two deviations of a pair, alone, 3 folds x 3 seeds find 61 to 84 %, 2 x 4 19 to
35 %, but 5 x 1 90 % and 5 x 2 96 % and more, hence all folds with few seeds by default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from src.errors import counted

FEWEST = 2  # folds for an interval: one says nothing about how much folds differ
MOST_SEEDS = 99  # more than anyone runs: reported as "more than"

Differences = Mapping[int, Sequence[float]]  # fold -> the difference of each seed, + is better


@dataclass(frozen=True)
class Effect:
    """Of one technique: number of pairs and of folds, the mean over folds of their mean differences (+ is better), a
    95 % interval or None, the p-value of "worth nothing" that belongs to the interval, the same after Holm's
    correction, and the verdict in words."""

    pairs: int
    folds: int
    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    holm: float | None = None
    verdict: str = ""


def judged(
    differences: Mapping[str, Differences], *, started: int = 0, folds_n: int = 5, level: float = 0.05
) -> dict[str, Effect]:
    """Give each technique its effect, from the paired differences of each fold; none at all is an effect of no pairs.

    "helps" and "harms" stand where Holm's correction leaves p at or below `level`. It is over all techniques that have
    an interval, or over `started` if those are more: techniques that an earlier rung has dropped count with p = 1,
    which holds the level however the survivors were chosen, on the same rows and seeds too. Where nothing is shown, the
    verdict estimates which folds (up to `folds_n`) and seeds would show the mean that was seen.
    """
    found = {name: interval(each) for name, each in differences.items()}
    ps = {name: effect.p for name, effect in found.items() if effect.p is not None}
    count = max(started, len(ps))
    adjusted = dict(zip(ps, holm(np.array([*ps.values()], np.float64), count).tolist(), strict=True))
    # the step at which Holm looks at a technique is the level that it has to pass
    levels = {name: level / (count - step) for step, name in enumerate(sorted(ps, key=lambda name: ps[name]))}
    effects = {}
    for name, effect in found.items():
        if effect.p is None:
            verdict, p = without_test(differences[name]), None
        else:
            p = adjusted[name]
            calls = "helps" if effect.mean > 0 else "harms"
            verdict = calls if p <= level else undecided(differences[name], levels[name], folds_n)
        effects[name] = Effect(effect.pairs, effect.folds, effect.mean, effect.low, effect.high, effect.p, p, verdict)
    return effects


def interval(differences: Differences, coverage: float = 0.95) -> Effect:
    """Student's interval over the means of the folds, and the two-sided p-value that inverts it; no verdict yet.

    Without an interval: fewer than FEWEST folds, or means that are all alike, which say nothing about their spread.
    """
    from scipy import special  # the distribution of scipy.stats.ttest_1samp without its 1 ms a call, for simulations

    means = fold_means(differences)
    pairs, mean = sum(map(len, differences.values())), float(means.mean()) if len(means) else math.nan
    if len(means) < FEWEST or all_alike(means):
        return Effect(pairs, len(means), mean)
    error, freedom = float(means.std(ddof=1)) / math.sqrt(len(means)), len(means) - 1
    half = float(special.stdtrit(freedom, (1 + coverage) / 2)) * error
    p = 2 * float(special.stdtr(freedom, -abs(mean) / error))
    return Effect(pairs, len(means), mean, mean - half, mean + half, p)


def fold_means(differences: Differences) -> np.ndarray:
    """The mean over seeds of each fold that has a pair: (folds,)."""
    return np.array([np.mean(each) for each in differences.values() if len(each)], np.float64)


def holm(p: np.ndarray, count: int | None = None) -> np.ndarray:
    """Correct p-values (m,) by Holm's step-down rule (Holm 1979) over `count` >= m techniques, each to be compared with
    the level itself.

    Own, because scipy has only the corrections for false discoveries (stats.false_discovery_control).
    """
    count = len(p) if count is None else count
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(count, count - len(p), -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, stepped)
    return adjusted


def spreads(differences: Differences) -> tuple[float, float]:
    """Variance between folds (of what all pairs of a fold have in common) and within them, from the mean squares.

    With one seed per fold the two cannot be told apart: all of it counts as between folds, which no seeds reduce.
    """
    each = [np.asarray(values, np.float64) for values in differences.values() if len(values)]
    of_means = float(np.var(fold_means(differences), ddof=1))
    freedom = sum(len(values) - 1 for values in each)
    if not freedom:
        return of_means, 0.0
    within = sum(float(((values - values.mean()) ** 2).sum()) for values in each) / freedom
    return max(0.0, of_means - within * float(np.mean([1 / len(values) for values in each]))), within


def design_needed(
    mean: float,
    between: float,
    within: float,
    *,
    level: float = 0.05,
    fewest: tuple[int, int] = (FEWEST, 1),
    folds_n: int = 5,
) -> tuple[int, int] | None:
    """The folds and seeds of the fewest pairs with which a two-sided t-test over fold means finds a true mean
    difference with power 0.8; None if `folds_n` folds with MOST_SEEDS seeds do not.

    between, within: variances as from `spreads`. fewest: folds and seeds that are there already.
    """
    found = []
    for folds in range(max(FEWEST, fewest[0]), folds_n + 1):
        # (mean / needed_shift)² · folds is the variance of a fold's mean that may be, between + within / seeds the one
        # that is
        left = (mean / needed_shift(folds, level)) ** 2 * folds - between
        if left > 0 and within <= MOST_SEEDS * left:
            found.append((folds, max(fewest[1], math.ceil(within / left))))
    return min(found, key=lambda each: (each[0] * each[1], each[1]), default=None)


@cache
def needed_shift(folds: int, level: float, power: float = 0.8) -> float:
    """The mean in units of its standard error at which a two-sided t-test of so many values has this power.

    By the quantiles of the standard deviation; inverted once for each number of folds and level, as scipy has no
    inverse in the noncentrality.
    """
    from scipy import optimize, stats

    bound = stats.t.ppf(1 - level / 2, folds - 1)
    quantiles = (np.arange(2000) + 0.5) / 2000
    bounds = bound * np.sqrt(stats.chi2.ppf(quantiles, folds - 1) / (folds - 1))  # in true standard errors

    def missing(shift: float) -> float:
        return power - float((stats.norm.sf(bounds - shift) + stats.norm.cdf(-bounds - shift)).mean())

    return float(optimize.brentq(missing, 0.0, float(bounds[-1]) + 10))


def all_alike(means: np.ndarray) -> bool:
    return float(np.ptp(means)) <= 1e-12 * max(1.0, float(np.abs(means).max()))


def without_test(differences: Differences) -> str:
    """The verdict on differences that have no interval."""
    used = [fold for fold, each in differences.items() if len(each)]
    if not used:
        return "no pairs"
    if not any(np.any(each) for each in differences.values()):
        return "changes nothing"
    if len(used) < FEWEST:
        return f"one fold: speaks of the rows of fold {used[0]} only; add folds, more seeds do not help"
    return "undecided: the means of all folds are alike, which says nothing about their spread"


def undecided(differences: Differences, level: float, folds_n: int) -> str:
    """The verdict where nothing is shown: with which folds and seeds the mean that was seen would be."""
    means = fold_means(differences)
    fewest = len(means), max(map(len, differences.values()))
    folds_n = max(folds_n, len(means))
    wanted = design_needed(float(means.mean()), *spreads(differences), level=level, fewest=fewest, folds_n=folds_n)
    if wanted is None:
        return f"undecided: not with {counted(folds_n, 'fold')}, whatever the seeds, if it is worth anything"
    return f"undecided: about {counted(wanted[0], 'fold')} x {counted(wanted[1], 'seed')} in all"


def promoted(effects: Mapping[str, Effect], keep: float) -> list[str]:
    """The techniques that a rung of successive halving sends on: those whose whole interval is harmful go first, then
    the best `keep` share of all by mean stay, at least one. Best first; techniques without a pair do not go on."""
    alive = [
        name for name, effect in effects.items() if effect.pairs and not (effect.high is not None and effect.high < 0)
    ]
    ranked = sorted(alive, key=lambda name: -effects[name].mean)
    return ranked[: max(1, math.ceil(keep * len(effects)))]
