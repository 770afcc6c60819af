"""How often `ablate` and `ladder` call what is worth nothing: `python -m benchmarks.false_calls [studies]`.

Simulated studies, judged by the shipped code and by the rules that it came from. The unit of a difference is its
standard deviation over the pairs of a study; the intraclass correlation (icc) is the share of its variance that all
pairs of one fold have in common. With the default of 4,000 studies in each line a share of 5 % has a standard error of
0.3 %.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from src.search.effects import Differences, Effect, holm, judged, promoted

DESIGNS = ((3, 3), (2, 4), (5, 1), (5, 2))  # folds, seeds
CORRELATIONS = (0.0, 0.1, 0.3, 0.5)

Judge = Callable[[Mapping[str, Differences]], Mapping[str, Effect]]


# ---- the rules ------------------------------------------------------------------------------------------------------
def over_pairs(differences: Mapping[str, Differences]) -> Mapping[str, Effect]:
    """The rule before: every pair counts as if it were a fold of its own."""
    flat = {name: [d for each in folds.values() for d in each] for name, folds in differences.items()}
    return judged({name: {i: [d] for i, d in enumerate(each)} for name, each in flat.items()})


def mixed_model(differences: Mapping[str, Differences]) -> Mapping[str, Effect]:
    """A random effect of the fold, fitted by the mean squares (REML of balanced data): the mean square between folds
    with its degrees of freedom, or, where that within is larger, the fold's variance is 0 and all pairs are alike."""
    found = {}
    for name, folds in differences.items():
        d = np.array([*folds.values()])
        count, seeds = d.shape
        between = seeds * d.mean(1).var(ddof=1)
        within = d.var(axis=1, ddof=1).mean() if seeds > 1 else 0.0
        pooled = within > between
        freedom = d.size - 1 if pooled else count - 1
        square = d.var(ddof=1) if pooled else between
        p = 2 * float(stats.t.sf(abs(d.mean()) / np.sqrt(square / d.size), freedom)) if square else 1.0
        found[name] = (d.size, count, float(d.mean()), p)
    adjusted = holm(np.array([p for *_, p in found.values()]))
    return {
        name: Effect(*each[:3], p=each[3], verdict=("helps" if each[2] > 0 else "harms") if h <= 0.05 else "undecided")
        for (name, each), h in zip(found.items(), adjusted, strict=True)
    }


RULES: dict[str, Judge] = {"pairs": over_pairs, "mixed model": mixed_model, "fold means": judged}


# ---- ablate ---------------------------------------------------------------------------------------------------------
def table_of(
    rng: np.random.Generator, folds: int, seeds: int, icc: float, tricks: int = 1, worth: float = 0.0, grid: float = 0.0
) -> dict[str, Differences]:
    """Differences of `tricks` techniques from one baseline, which is half of the variance of each of them.

    grid: the differences are multiples of this, as those of an accuracy on few rows are.
    """
    arms = np.sqrt(icc / 2) * rng.normal(size=(tricks + 1, folds, 1))
    arms = arms + np.sqrt((1 - icc) / 2) * rng.normal(size=(tricks + 1, folds, seeds))
    d = worth + arms[1:] - arms[0]
    d = grid * np.round(d / grid) if grid else d
    return {str(t): {k: d[t, k].tolist() for k in range(folds)} for t in range(tricks)}


def calls(rule: Judge, tables: Sequence[Mapping[str, Differences]]) -> tuple[float, float]:
    """The shares of the tables in which any technique is said to help, and any to harm."""
    verdicts = [{effect.verdict for effect in rule(table).values()} for table in tables]
    return float(np.mean(["helps" in v for v in verdicts])), float(np.mean(["harms" in v for v in verdicts]))


def ablations(studies: int) -> None:
    print("\nfalse helps + harms, %: what is worth nothing, its standard deviation over pairs being 1")
    print(f"{'techniques':>10} {'folds x seeds':>14} {'icc':>4}" + "".join(f"{name:>20}" for name in RULES))
    for tricks, grid in ((1, 0.0), (1, 0.5), (8, 0.0)):
        for folds, seeds in DESIGNS:
            for icc in CORRELATIONS:
                rng = np.random.default_rng(0)
                tables = [table_of(rng, folds, seeds, icc, tricks, grid=grid) for _ in range(studies)]
                found = [calls(rule, tables) for rule in RULES.values()]
                cells = "".join(f"{100 * a:>11.1f} + {100 * b:>4.1f}  " for a, b in found)
                ending = "  on a grid of 0.5" if grid else ""
                print(f"{tricks:>10} {folds:>10} x {seeds} {icc:>4}{cells}{ending}", flush=True)


def powers(studies: int) -> None:
    print("\nfound, %, of a technique that is worth 1, 2 or 4 standard deviations of a pair, by the shipped rule")
    print(f"{'folds x seeds':>14} {'icc':>4}   alone: 1    2    4   among 8, by Holm: 1    2    4")
    for folds, seeds in DESIGNS:
        for icc in CORRELATIONS:
            rng = np.random.default_rng(0)
            found = []
            for others in (0, 7):
                for worth in (1, 2, 4):
                    tables = [table_of(rng, folds, seeds, icc, 1 + others) for _ in range(studies // 4)]
                    for table in tables:
                        table["0"] = {k: [d + worth for d in each] for k, each in table["0"].items()}
                    found.append(100 * np.mean([judged(table)["0"].verdict == "helps" for table in tables]))
            print(f"{folds:>10} x {seeds} {icc:>4}   " + " ".join(f"{share:>7.0f}" for share in found), flush=True)


# ---- ladder ---------------------------------------------------------------------------------------------------------
def climbed(
    rng: np.random.Generator,
    *,
    rows: float,
    training: float,
    fresh: str = "",
    all_started: bool = True,
    rule: Judge | None = None,
    tricks: int = 8,
    rungs: int = 3,
    folds: int = 5,
    seeds: int = 2,
    worth: float = 0.0,
) -> Mapping[str, Effect]:
    """The last rung's effects of a ladder with keep=0.5 in which nothing, or only technique 0, is worth anything.

    rows, training: the share of a difference's variance that a fold keeps over all rungs and seeds, and that a fold
    with one seed keeps over all rungs. fresh: what the last rung does not share with those before it, "" (nothing),
    "seeds", or "folds" (then the others have two of the folds, the last the rest).
    """
    of_rows = np.sqrt(rows) * rng.normal(size=(tricks, folds, 1))
    of_seeds = np.sqrt(training) * rng.normal(size=(tricks, folds, 2 * seeds))
    alive = [str(t) for t in range(tricks)]
    for rung in range(1, rungs + 1):
        last = rung == rungs
        where = (range(2, folds) if last else range(2)) if fresh == "folds" else range(folds)
        first = seeds if last and fresh == "seeds" else 0
        noise = np.sqrt(1 - rows - training) * rng.normal(size=(tricks, folds, seeds))
        d = of_rows + of_seeds[:, :, first : first + seeds] + noise
        d[0] += worth
        table = {t: {k: d[int(t), k].tolist() for k in where} for t in alive}
        effects = rule(table) if rule else judged(table, started=tricks if all_started else 0)
        if not last:
            alive = promoted(effects, 0.5)
    return effects


LADDERS: dict[str, dict[str, Any]] = {
    "before: pairs, Holm over survivors": {"rule": over_pairs},
    "fold means, Holm over survivors": {"all_started": False},
    "fold means, Holm over all": {},
    "… and fresh seeds (shipped)": {"fresh": "seeds"},
    "… and fresh folds": {"fresh": "folds"},
}


def ladders(studies: int) -> None:
    print("\nladder of 8 techniques, 5 folds x 2 seeds, 3 rungs, keep 0.5: false helps, harms, %;")
    print("of the survivors: mean (true: 0), coverage of 0 by the 95 % interval; found, %, of one that is worth 2")
    for rows, training in ((0.0, 0.0), (0.1, 0.3), (0.3, 0.3), (0.5, 0.3)):
        print(f"icc {rows}, and {training} common to the rungs of one seed")
        for name, how in LADDERS.items():
            rng = np.random.default_rng(0)
            ends = [climbed(rng, rows=rows, training=training, **how) for _ in range(studies)]
            verdicts = [{effect.verdict for effect in effects.values()} for effects in ends]
            helps, harms = (100 * np.mean([word in v for v in verdicts]) for word in ("helps", "harms"))
            each = [effect for effects in ends for effect in effects.values()]
            inside = [e.low <= 0 <= e.high for e in each if e.low is not None and e.high is not None]
            with_one = [climbed(rng, rows=rows, training=training, worth=2.0, **how) for _ in range(studies // 4)]
            power = 100 * np.mean(["0" in effects and effects["0"].verdict == "helps" for effects in with_one])
            values = f"{np.mean([e.mean for e in each]):>+6.3f} {np.mean(inside):>6.3f} {power:>5.0f}"
            print(f"  {name:<36}{helps:>5.1f} {harms:>5.1f}   {values}", flush=True)


# ---- averages of the weights ----------------------------------------------------------------------------------------
def of_average(
    rng: np.random.Generator, have: int, worth: float, *, maximum: bool, folds: int, seeds: int, icc: float = 0.3
) -> Differences:
    """Differences when one average of the weights is added to a run that has `have` kinds.

    The scores of the kinds have a deviation of 0.004 (1 % of 682 rows differ, and either is right as often); the added
    one is better by `worth` in truth. maximum: each run is scored by its best kind, as before; else the baseline by its
    last and the other by the added one.
    """
    kinds = np.sqrt(icc) * rng.normal(size=(have + 1, folds, 1))
    kinds = 0.004 * (kinds + np.sqrt(1 - icc) * rng.normal(size=(have + 1, folds, seeds)))
    kinds[-1] += worth
    d = kinds.max(0) - kinds[:-1].max(0) if maximum else kinds[-1] - kinds[-2]
    return {k: d[k].tolist() for k in range(folds)}


def averages(studies: int) -> None:
    print("\nan average of the weights is added; helps, harms, %; 0.004 is the deviation of a kind's score")
    print(f"{'has':>14} {'worth':>7} {'folds x seeds':>14}   best kind, pairs   best kind, folds   fixed kind, folds")
    for have, name in ((1, "raw"), (2, "raw and EMA")):
        for worth in (0.0, -0.003):
            for folds, seeds in DESIGNS:
                cells = []
                for rule, maximum in ((over_pairs, True), (judged, True), (judged, False)):
                    rng = np.random.default_rng(0)
                    tables = [
                        {"average": of_average(rng, have, worth, maximum=maximum, folds=folds, seeds=seeds)}
                        for _ in range(studies)
                    ]
                    cells.append("{:>10.1f} {:>5.1f}".format(*(100 * share for share in calls(rule, tables))))
                print(f"{name:>14} {worth:>7} {folds:>10} x {seeds}  " + "   ".join(cells), flush=True)


if __name__ == "__main__":
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    for part in (ablations, powers, ladders, averages):
        part(studies)
