"""Intervals, Holm's correction, verdicts, folds and seeds that are needed, against simulations and references."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from benchmarks import false_calls
from src.config import CompetitionConfig, Config
from src.config.schema import FoldsConfig
from src.search.effects import (
    MOST_SEEDS,
    Differences,
    Effect,
    design_needed,
    fold_means,
    holm,
    interval,
    judged,
    needed_shift,
    promoted,
    spreads,
)
from src.search.table import Pair, write_table
from src.search.tricks import Pairing

DESIGNS = [(3, 3), (2, 4), (5, 1)]  # folds, seeds


def simulated(rng: np.random.Generator, folds: int, seeds: int, icc: float, mean: float = 0.0) -> Differences:
    """Differences of deviation 1; those of a fold have `icc` of their variance in common."""
    d = mean + np.sqrt(icc) * rng.normal(size=(folds, 1)) + np.sqrt(1 - icc) * rng.normal(size=(folds, seeds))
    return dict(enumerate(d.tolist()))


# ---- the interval ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("folds", "seeds"), DESIGNS)
def test_an_interval_covers_the_truth_whatever_pairs_of_a_fold_have_in_common(folds: int, seeds: int) -> None:
    rng = np.random.default_rng(folds)
    for icc in (0.0, 0.5):
        found = [interval(simulated(rng, folds, seeds, icc, 0.3)) for _ in range(2000)]
        assert 0.935 <= np.mean([each.low <= 0.3 <= each.high for each in found]) <= 0.965  # type: ignore[operator]


def test_an_interval_is_students_over_the_means_of_the_folds() -> None:
    uneven = {4: [0.01, 0.03], 0: [0.05], 2: [-0.01, 0.0, 0.04], 3: []}  # a study that was stopped on the way
    found, student = interval(uneven), stats.ttest_1samp([0.02, 0.05, 0.01], 0.0)
    assert (found.pairs, found.folds, found.mean) == (6, 3, pytest.approx(0.08 / 3))
    assert (found.low, found.high) == pytest.approx(tuple(student.confidence_interval(0.95)))
    assert found.p == pytest.approx(student.pvalue)
    mirrored = interval({fold: [-d for d in each] for fold, each in uneven.items()})
    assert (mirrored.low, mirrored.high, mirrored.p) == pytest.approx((-found.high, -found.low, found.p))  # type: ignore[operator]


# ---- how often what is worth nothing is called ----------------------------------------------------------------------
@pytest.mark.parametrize(("folds", "seeds"), DESIGNS)
@pytest.mark.parametrize("icc", false_calls.CORRELATIONS)
def test_what_is_worth_nothing_is_called_in_5_percent_of_studies(folds: int, seeds: int, icc: float) -> None:
    """2,000 studies: a share of 5 % has a standard error of 0.5 %, one of 2.5 % of 0.35 %."""
    rng = np.random.default_rng(1)
    tables = [false_calls.table_of(rng, folds, seeds, icc) for _ in range(2000)]
    helps, harms = false_calls.calls(judged, tables)
    assert helps + harms <= 0.06 and helps <= 0.035
    if icc == 0.5 and seeds > 1:  # as it was: every pair a value of its own
        assert sum(false_calls.calls(false_calls.over_pairs, tables)) > 0.12


@pytest.mark.parametrize(("folds", "seeds"), DESIGNS)
def test_of_eight_techniques_none_is_called_in_95_percent_of_studies(folds: int, seeds: int) -> None:
    rng = np.random.default_rng(2)
    tables = [false_calls.table_of(rng, folds, seeds, 0.3, tricks=8) for _ in range(600)]
    helps, harms = false_calls.calls(judged, tables)
    assert helps + harms <= 0.07
    alone = [judged({"0": table[name]})["0"].p <= 0.05 for table in tables[:100] for name in table]  # type: ignore[operator]
    assert np.reshape(alone, (100, 8)).any(1).mean() > 0.2, "without the correction many have one"


@pytest.mark.parametrize("fresh", ["seeds", ""])
def test_the_last_rung_of_a_ladder_calls_a_null_in_5_percent_of_studies(fresh: str) -> None:
    """Rungs that share what is particular to their rows and to the noise of their seeds; also without fresh seeds."""
    found = []
    for all_started in (True, False):
        how = {"rows": 0.3, "training": 0.3, "fresh": fresh, "all_started": all_started}
        ends = [false_calls.climbed(np.random.default_rng(number), **how) for number in range(600)]  # type: ignore[arg-type]
        found.append(np.mean([any(effect.verdict == "helps" for effect in effects.values()) for effects in ends]))
    assert found[0] <= 0.035 and found[1] > 0.05, "among the survivors alone"


@pytest.mark.parametrize("have", [1, 2])  # raw; raw and EMA
def test_an_average_of_the_weights_is_called_for_what_it_is_worth_and_not_for_being_there(have: int) -> None:
    rng = np.random.default_rng(3)
    for worth in (0.0, -0.003):
        both = [
            [{"swa": false_calls.of_average(rng, have, worth, maximum=best, folds=5, seeds=2)} for _ in range(1000)]
            for best in (True, False)
        ]
        (helped, harmed), (helps, harms) = (false_calls.calls(judged, tables) for tables in both)
        assert harmed == 0, "by the best kind of each run, as it was"
        assert helped > 0.15 or have > 1 or worth < 0
        assert helps <= (0.035 if worth == 0 else 0.01)
        assert harms <= 0.035 if worth == 0 else harms > 0.12


# ---- Holm -----------------------------------------------------------------------------------------------------------
def naive_holm(p: list[float], level: float) -> list[bool]:
    """As in the paper: the smallest p against level/m, the next against level/(m-1) …, until one is too large."""
    rejected = [False] * len(p)
    for step, place in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[place] > level / (len(p) - step):
            break
        rejected[place] = True
    return rejected


def test_holm_rejects_what_the_paper_rejects() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 25):
        for _ in range(200):
            p = rng.random(count) ** 4
            for level in (0.01, 0.05, 0.2):
                assert (holm(p) <= level).tolist() == naive_holm(p.tolist(), level)
            np.testing.assert_allclose(holm(p, count + 3), holm(np.append(p, [1.0] * 3))[:count])
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])
    assert holm(np.array([])).shape == (0,) and holm(np.array([]), 5).shape == (0,)


# ---- folds and seeds that are needed --------------------------------------------------------------------------------
def test_the_variances_between_and_within_folds_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    found = np.array([spreads(simulated(rng, 6, 3, 0.3)) for _ in range(1000)])
    np.testing.assert_allclose(np.median(found, axis=0), [0.3, 0.7], atol=0.08)
    assert spreads({0: [1.0], 1: [2.0], 2: [3.0]}) == (1.0, 0.0), "with one seed all of it is the folds'"
    assert spreads({0: [1.0, -1.0], 1: [1.0, -1.0]}) == (0.0, 2.0)


def test_the_design_that_is_needed_reaches_the_power_that_a_simulation_finds() -> None:
    rng, freedom = np.random.default_rng(0), stats.t.ppf(0.975, 4)
    folds, seeds = design_needed(0.8, 0.05, 0.95) or (0, 0)
    assert folds == 5 and seeds > 1
    for number, enough in ((seeds, True), (seeds - 1, False)):
        means = 0.8 + rng.normal(size=(20000, 5)) * np.sqrt(0.05 + 0.95 / number)
        t = means.mean(1) / means.std(1, ddof=1) * np.sqrt(5)
        assert (np.mean(np.abs(t) > freedom) >= 0.795) == enough
    # G*Power's and R's answer for pairs that are independent: power.t.test(delta=.5, type="paired", power=.8) 33.4
    assert design_needed(0.5, 1.0, 0.0, folds_n=100) == (34, 1) == design_needed(-0.5, 1.0, 0.0, folds_n=100)
    assert needed_shift(5, 0.05) == pytest.approx(3.761, abs=0.002)  # scipy.stats.nct: power 0.8
    assert needed_shift(2, 0.05 / 14) == pytest.approx(228.4, abs=0.1)


def test_seeds_do_not_stand_for_folds() -> None:
    assert design_needed(0.5, 1.0, 0.1) is None, "folds differ by more than the mean: no number of seeds"
    assert design_needed(0.5, 0.05, 2.0) == (5, 53)
    assert design_needed(0.0, 0.0, 1.0) is None and design_needed(1e-4, 0.0, 1.0) is None, f"over {MOST_SEEDS} seeds"
    assert design_needed(3.0, 0.1, 0.1, fewest=(3, 3)) == (3, 3), "what is there already"
    few, many = design_needed(1.2, 0.1, 1.0), design_needed(1.2, 0.1, 1.0, level=0.01)
    assert few and many and few[0] * few[1] < many[0] * many[1]


# ---- verdicts -------------------------------------------------------------------------------------------------------
def test_verdicts() -> None:
    noise = np.random.default_rng(0).normal(0, 0.001, (3, 3))
    noise -= noise.mean()
    of = {
        "good": 0.05 + noise,
        "bad": noise - 0.06,
        "nothing": np.zeros((3, 3)),
        "noise": noise + 0.0002,
        "alike": np.full((3, 3), 0.004),
        "one fold": 0.05 + noise.reshape(1, 9),
        "one fold of nothing": np.zeros((1, 2)),
    }
    table = judged({**{name: dict(enumerate(each.tolist(), 2)) for name, each in of.items()}, "missing": {}})
    assert (table["good"].verdict, table["bad"].verdict) == ("helps", "harms")
    assert table["nothing"].verdict == table["one fold of nothing"].verdict == "changes nothing"
    assert table["alike"].verdict.startswith("undecided") and table["alike"].low is None
    assert (table["missing"].verdict, table["missing"].pairs) == ("no pairs", 0)
    assert (table["one fold"].pairs, table["one fold"].low, table["one fold"].p) == (9, None, None)
    assert table["one fold"].verdict.startswith("one fold: speaks of the rows of fold 2 only; add folds")
    # three techniques have an interval: the least sure of them is held to the whole 5 %
    differences = dict(enumerate((noise + 0.0002).tolist()))
    wanted = design_needed(0.0002, *spreads(differences), level=0.05, fewest=(3, 3))
    assert wanted and table["noise"].verdict == f"undecided: about {wanted[0]} folds x {wanted[1]} seeds in all"
    uneven = {0: [1.17, 1.41, 1.17], 1: [0.35], 2: [1.45, 1.22]}  # as many seeds as one fold has are there
    assert judged({"it": uneven})["it"].verdict == "undecided: about 5 folds x 3 seeds in all"
    assert design_needed(float(fold_means(uneven).mean()), *spreads(uneven), fewest=(3, 1)) == (5, 1)
    assert judged({"tiny": dict(enumerate((noise + 1e-7).tolist()))}, folds_n=4)["tiny"].verdict == (
        "undecided: not with 4 folds, whatever the seeds, if it is worth anything"
    )


def test_techniques_that_an_earlier_rung_has_dropped_count() -> None:
    d = {0: [0.010, 0.012], 1: [0.013, 0.011], 2: [0.008, 0.010]}
    alone, among = judged({"it": d})["it"], judged({"it": d}, started=40)["it"]
    assert alone.p == among.p and among.holm == pytest.approx(40 * alone.p)  # type: ignore[operator]
    assert alone.verdict == "helps" and among.verdict.startswith("undecided")
    assert fold_means(d).tolist() == pytest.approx([0.011, 0.012, 0.009])


def test_pairs_are_judged_by_their_fold(tmp_path, capsys) -> None:
    competition = CompetitionConfig(name="it", root=".")
    base = dataclasses.replace(Config(competition=competition), folds=FoldsConfig(n=3))
    differences = {0: [0.010, 0.013], 1: [0.020, 0.017], 2: [0.016, 0.012]}
    pairs = [
        Pair("trick", fold, seed, 0.9, 0.9 + d, d, 1.0, 1.0, 1, 1)
        for seed in (0, 1) for fold, each in differences.items() for d in [each[seed]]
    ]  # fmt: skip
    found = write_table(tmp_path, pairs, ["trick"], {}, base, Pairing(("trick",), folds=(0, 1, 2)), 0, started=3)
    assert found == judged({"trick": differences}, started=3, folds_n=3)
    assert found["trick"].verdict.startswith("undecided: not with 3 folds"), "with four it would be"
    assert "correction over 3 techniques" in capsys.readouterr().out


def test_what_a_rung_promotes() -> None:
    table = {
        "best": Effect(4, 2, 0.03, 0.01, 0.05),
        "harmful": Effect(4, 2, -0.02, -0.03, -0.01),
        "middling": Effect(4, 2, 0.001, -0.02, 0.02),
        "poor": Effect(4, 2, -0.01, -0.03, 0.01),
        "unfinished": Effect(0, 0, float("nan")),
    }
    assert promoted(table, 0.4) == ["best", "middling"]
    assert promoted(table, 1.0) == ["best", "middling", "poor"]
    assert promoted(table, 0.01) == ["best"]
    assert promoted({"harmful": table["harmful"]}, 0.5) == []
