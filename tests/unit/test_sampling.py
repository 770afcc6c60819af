"""Class-balanced sampling: frequencies by the formula, every row in turn, and a function of (seed, step)."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from src.config import StageConfig
from src.training.sampling import balance_classes, order_of_pass
from src.training.stages import Stage, plan_stages, step_rows

COUNTS = [400, 250, 200, 100, 50]
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(5), COUNTS))
ROWS = np.arange(1000) * 3 + 7  # rows of the table, not positions
LABEL_OF = dict(zip(ROWS.tolist(), LABELS.tolist(), strict=True))


def planned(balance: float, **spec: object) -> Stage:
    (stage,) = plan_stages(
        [StageConfig(**spec)], rows=ROWS, strata=LABELS, epochs=10, size=32, batch_size=50, seed=3, balance=balance
    )
    return stage


def drawn(stage: Stage, first: int, stop: int, seed: int = 3) -> list[int]:
    return [row for step in range(first, stop) for row in step_rows(stage, step, seed).tolist()]


@pytest.mark.parametrize("balance", [0.3, 0.5, 1.0])
def test_frequencies(balance: float) -> None:
    """Exact over each pass of 1000 rows; within it, the batches are as mixed as a random draw would be."""
    stage = planned(balance)
    for first in (0, 20, 160):
        counts = Counter(LABEL_OF[row] for row in drawn(stage, first, first + 20))
        expected = [(1 - balance) * count + balance * 200 for count in COUNTS]
        assert [counts[label] for label in range(5)] == pytest.approx(expected, abs=1)
    rarest = [sum(LABEL_OF[row] == 4 for row in step_rows(stage, step, 3)) for step in range(200)]
    share = ((1 - balance) * 50 + balance * 200) / 1000
    assert np.mean(rarest) == pytest.approx(50 * share, rel=0.01)
    assert np.std(rarest) == pytest.approx((50 * share * (1 - share)) ** 0.5, rel=0.25)


def test_the_rows_of_a_class_take_turns() -> None:
    stage = planned(1.0)
    for passes in (1, 3, 10):
        times = Counter(drawn(stage, 0, 20 * passes))
        for label, count in enumerate(COUNTS):
            mine = [times[row] for row in ROWS.tolist() if LABEL_OF[row] == label]
            assert sum(mine) == 200 * passes
            assert {200 * passes // count, -(-200 * passes // count)} == set(mine)


def test_a_function_of_seed_and_step() -> None:
    stage = planned(0.7)
    whole = drawn(stage, 0, 60)
    assert drawn(stage, 37, 60) == whole[37 * 50 :]
    assert drawn(planned(0.7), 5, 6) == whole[250:300]
    assert drawn(stage, 0, 60, seed=4) != whole


def test_a_subset_of_classes_is_balanced_among_them() -> None:
    counts = Counter(LABEL_OF[row] for row in drawn(planned(1.0, classes=3, rows=0.5), 0, 17))
    assert set(counts) == {0, 1, 2}
    assert [counts[label] for label in range(3)] == pytest.approx([850 / 3] * 3, abs=2)


def test_no_balance_is_the_plain_stream() -> None:
    assert planned(0.0).balance is None
    assert sorted(drawn(planned(0.0), 0, 20)) == ROWS.tolist()


@pytest.mark.parametrize("balance", [0.0, 0.123, 0.77, 1.0])
def test_quotas_sum_to_the_rows(balance: float) -> None:
    labels = np.array([0] * 7 + [2] * 3 + [5] * 1)  # classes 1, 3 and 4 have no row
    found = balance_classes(np.arange(11), labels, balance)
    assert found.quotas.sum() == 11 and len(found.classes) == 3
    assert np.abs(found.quotas - ((1 - balance) * np.array([7, 3, 1]) + balance * 11 / 3)).max() < 1


def test_orders_of_passes_do_not_pile_up() -> None:
    """Of very many rows each takes as much memory as the table's numbers do."""
    rows = np.arange(1000)
    stages = plan_stages([StageConfig()], rows=rows, strata=rows % 3, epochs=20, size=8, batch_size=100)
    order_of_pass.cache_clear()
    seen = np.concatenate([step_rows(stages[0], step, 0) for step in range(stages[0].stop)])
    assert (np.bincount(seen) == 20).all()
    assert order_of_pass.cache_info().currsize <= 2 and order_of_pass.cache_info().misses == 20
