"""What each technique is worth: runs with and without it on the same folds and seeds, their differences, a verdict.

Every arm (the baseline, or a configuration with one trick more or less) has an ordinary run per seed, in the ablation's
own folder; finished folds are skipped, so the same command goes on after a stop, and several starts share the work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from src.config import Config
from src.errors import UserError
from src.model.weights import find_weights
from src.recipes.frozen import frozen
from src.runs.claims import run_name
from src.search.effects import promoted
from src.search.study import compare
from src.search.tricks import Pairing

# Seconds between two looks at the folds of a rung that other starts train: all of them go on to the next one.
PATIENCE = 5.0


def ablate(base: Config, arms: Mapping[str, Config | str], pairing: Pairing) -> None:
    """Train what is missing, print the table and write runs/<run>/{ablate.csv, pairs.csv, ablate.png}.

    base: the baseline, or in mode remove the configuration with all tricks. arms: of each trick the configuration with
    it (remove: without it), or why there is none. Raises UserError if the baseline cannot be trained; an arm that
    cannot is in the table as refused.
    """
    compare(place_of(base, "ablate"), base, arms, pairing, started=len(arms))


def ladder(base: Config, arms: Mapping[str, Config | str], pairing: Pairing) -> None:
    """Successive halving (1502.07943): `ablate` on a small share of the rows, then the better tricks on a larger one.

    Each rung has its table in runs/<run>/rung<i>; the last one's is the result. Holm's correction is over all
    techniques that started, and the seeds of the last rung have chosen nothing. Where there are pretrained weights, a
    linear model of their features, as the run <run>-frozen beside the rungs, says first what any training has to beat.
    """
    place, alive = place_of(base, "ladder"), dict(arms)
    model = base.model
    if find_weights(model.name, model.pretrained, model.weights, Path(base.paths.input)).pretrained:
        paths = dataclasses.replace(base.paths, runs=str(place))
        frozen(dataclasses.replace(base, fold="all", run=f"{place.name}-frozen", paths=paths))
    for number, share in enumerate(pairing.rungs, 1):
        print(f"\nrung {number} of {len(pairing.rungs)}: {share:.0%} of the rows, {', '.join(alive)}", flush=True)
        fresh = pairing.seeds if 1 < number == len(pairing.rungs) else 0
        own = dataclasses.replace(pairing, share=share, first_seed=fresh)
        effects, missing = compare(place / f"rung{number}", base, alive, own, len(arms), PATIENCE)
        names = promoted(effects, pairing.keep)
        if missing or not names:
            why = "folds of this rung are missing: start again to go on" if missing else "no technique is left"
            print(why, flush=True)
            return
        alive = {name: alive[name] for name in names}


def place_of(base: Config, verb: str) -> Path:
    """The folder of the whole ablation, runs/<run>."""
    if base.time_budget not in (None, "auto"):
        raise UserError(
            f"time_budget={base.time_budget}: would shorten some runs of {verb} and not others; leave it out"
        )
    name = run_name(dataclasses.replace(base, run=base.run or f"{verb}-{base.competition.name}"))
    return Path(base.paths.runs) / name
