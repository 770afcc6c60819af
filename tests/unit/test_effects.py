"""Intervals, Holm's correction and the pairs that are needed, against simulations and naive versions."""

from __future__ import annotations

import numpy as np
import pytest

from src.search import effects
from src.search.effects import BOOTSTRAP_FROM, MOST_PAIRS, Effect, holm, interval, judged, pairs_needed, promoted


def percentile(differences: np.ndarray) -> tuple[float, float]:
    """What is too narrow for so few pairs: the plain percentile bootstrap."""
    resampled = differences[np.random.default_rng(0).integers(0, len(differences), (2000, len(differences)))]
    low, high = np.quantile(resampled.mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def coverage(bounds: list[tuple[float, float]], truth: float) -> float:
    return float(np.mean([low <= truth <= high for low, high in bounds]))


@pytest.mark.parametrize("count", [4, 6, 9])
def test_an_interval_covers_the_truth_where_the_percentile_bootstrap_does_not(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects, "RESAMPLES", 1000)
    rng = np.random.default_rng(count)
    samples = [rng.normal(0.3, 1.0, count) for _ in range(1500)]
    found = [interval(sample) for sample in samples]
    ours = coverage([(each.low, each.high) for each in found], 0.3)  # type: ignore[misc]
    assert 0.93 <= ours <= 0.97
    assert coverage([percentile(sample) for sample in samples], 0.3) < 0.93
    # the p-value is the interval's: at most 5 % exactly where it excludes 0
    for each in found:
        assert each.low is not None and each.high is not None and each.p is not None
        if abs(each.p - 0.05) > 0.003:  # the interval takes the next resample's value, the p-value counts it
            assert (each.p <= 0.05) == (each.low > 0 or each.high < 0)


def test_the_studentised_bootstrap_follows_skewed_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of exponential differences, Student's interval covers 0.90 at nine pairs."""
    monkeypatch.setattr(effects, "RESAMPLES", 1000)
    rng = np.random.default_rng(0)
    samples = [rng.exponential(size=9) - 1 for _ in range(1500)]
    both = {
        kind: coverage([kind(sample, 0.95)[:2] for sample in samples], 0.0)
        for kind in (effects.studentised_bootstrap, effects.student)
    }
    assert both[effects.studentised_bootstrap] > 0.92 > both[effects.student]


@pytest.mark.parametrize("count", [5, BOOTSTRAP_FROM, 12])
def test_an_interval_moves_and_scales_with_the_differences(count: int) -> None:
    each = np.random.default_rng(1).normal(size=count)
    one, other, mirrored = interval(each), interval(0.01 * each + 3), interval(-each)
    assert other.low == pytest.approx(0.01 * one.low + 3)  # type: ignore[operator]
    assert other.high == pytest.approx(0.01 * one.high + 3)  # type: ignore[operator]
    assert (mirrored.low, mirrored.high) == (pytest.approx(-one.high, rel=0.05), pytest.approx(-one.low, rel=0.05))  # type: ignore[operator]


def test_resamples_without_spread_make_an_interval_wider_and_never_nan() -> None:
    from scipy import stats

    mostly_tied = np.array([0.0] * 7 + [0.01])  # a third of the resamples are all zeros
    found, student = interval(mostly_tied), stats.ttest_1samp(mostly_tied, 0.0)
    assert (found.low, found.high) == pytest.approx(tuple(student.confidence_interval(0.95)))
    assert found.p == pytest.approx(student.pvalue) and student.pvalue > 0.05
    some_tied = np.array([0.0] * 4 + [0.01, 0.02, -0.01, 0.03])
    found, student = interval(some_tied), stats.ttest_1samp(some_tied, 0.0)
    assert found.low is not None and found.high is not None and -0.1 < found.low < 0 < found.high < 0.1
    assert found.high != pytest.approx(student.confidence_interval(0.95).high)


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
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])
    assert holm(np.array([])).shape == (0,)


def test_a_null_among_many_tricks_is_hardly_ever_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty tricks that are worth nothing: in at most about 5 % of the tables is one of them called."""
    monkeypatch.setattr(effects, "RESAMPLES", 2000)
    rng = np.random.default_rng(0)
    wrong = without = 0
    for _ in range(60):
        table = judged({str(trick): rng.normal(size=6) for trick in range(20)})
        wrong += any(effect.verdict in ("helps", "harms") for effect in table.values())
        without += any(effect.p is not None and effect.p <= 0.05 for effect in table.values())
    assert wrong <= 8
    assert without >= 25, "without the correction most tables have one"


def test_pairs_needed_reach_the_power_that_a_simulation_finds() -> None:
    count = pairs_needed(0.5, 1.0)
    assert count == 34  # G*Power's and R's answer: power.t.test(delta=.5, type="paired", power=.8) 33.4
    rng = np.random.default_rng(0)
    for pairs, enough in ((count, True), (count - 6, False)):
        x = rng.normal(0.5, 1.0, (20000, pairs))
        t = x.mean(1) / x.std(1, ddof=1) * np.sqrt(pairs)
        from scipy import stats

        assert (np.mean(np.abs(t) > stats.t.ppf(0.975, pairs - 1)) >= 0.795) == enough
    assert pairs_needed(-0.5, 1.0) == count
    assert pairs_needed(0.5, 1.0, level=0.002) > count
    assert pairs_needed(1e-6, 1.0) == MOST_PAIRS + 1
    assert pairs_needed(0.0, 1.0) == MOST_PAIRS + 1
    assert pairs_needed(1e3, 1.0) == 2 or pairs_needed(1e3, 1.0) == 3


def test_verdicts() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.001, 9)
    table = judged(
        {
            "good": 0.02 + noise,
            "bad": noise - 0.03,
            "nothing": np.zeros(9),
            "noise": noise - noise.mean() + 0.0003,
            "few": [0.01, 0.012],
            "alike": [0.004] * 5,
            "missing": [],
        }
    )
    assert (table["good"].verdict, table["bad"].verdict) == ("helps", "harms")
    assert table["nothing"].verdict == "changes nothing"
    assert (table["few"].verdict, table["missing"].verdict) == ("too few pairs", "too few pairs")
    assert table["few"].low is None and table["missing"].pairs == 0
    assert table["alike"].verdict.startswith("undecided") and table["alike"].low is None
    words = table["noise"].verdict.split()
    assert words[:2] == ["undecided:", "about"] and words[3:] == ["more", "pairs"] and int(words[2]) > 20
    # three tricks have an interval: the least sure of them is held to the whole 5 %
    spread = float((noise - noise.mean() + 0.0003).std(ddof=1))
    assert int(words[2]) == pairs_needed(0.0003, spread, 0.05) - 9


def test_what_a_rung_promotes() -> None:
    table = {
        "best": Effect(4, 0.03, 0.01, 0.05),
        "harmful": Effect(4, -0.02, -0.03, -0.01),
        "middling": Effect(4, 0.001, -0.02, 0.02),
        "poor": Effect(4, -0.01, -0.03, 0.01),
        "unfinished": Effect(0, float("nan")),
    }
    assert promoted(table, 0.4) == ["best", "middling"]
    assert promoted(table, 1.0) == ["best", "middling", "poor"]
    assert promoted(table, 0.01) == ["best"]
    assert promoted({"harmful": table["harmful"]}, 0.5) == []
