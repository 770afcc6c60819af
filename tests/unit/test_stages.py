"""The plan of a run: lengths in every unit, subsets, and rows that depend on seed and step alone."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from src.config import StageConfig
from src.data.augment import Augment
from src.errors import UserError, counted
from src.training.stages import (
    Stage,
    is_epoch_end,
    pixels,
    plan_stages,
    shorten,
    stage_at,
    step_rows,
    subset,
    training_orders,
)

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(5), [400, 250, 200, 100, 50]))
ROWS = np.arange(1000) * 3 + 7  # rows of the table, not positions


def planned(*specs: dict, **changes: object) -> list[Stage]:
    asked = {"rows": ROWS, "strata": LABELS, "epochs": 10, "size": 128, "batch_size": 50} | changes
    return plan_stages([StageConfig(**spec) for spec in specs], **asked)


# ---- lengths and sizes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "changes", "steps"),
    [
        ({}, {}, 200),  # 10 x 1000 / 50
        ({"length": "30%"}, {}, 60),
        ({"length": "0.3"}, {}, 60),
        ({"length": "7 steps"}, {}, 7),
        ({"length": "1 step"}, {}, 1),
        ({"length": "3 epochs"}, {}, 60),
        ({"length": "1 epoch"}, {}, 20),
        ({"length": "1.5 epochs"}, {}, 30),
        ({"length": "3 epochs", "rows": 0.5}, {}, 30),  # epochs of this stage's rows
        ({"length": "30%", "rows": 0.5}, {}, 60),  # a share of the run's examples
        ({"length": "3 epochs", "classes": 1}, {}, 24),  # 400 rows of the largest class
        ({"batch_size": 100}, {}, 100),  # the same number of examples
        ({"length": "3 epochs", "batch_size": 100}, {}, 30),
        ({"length": "7 steps", "batch_size": 100}, {}, 7),
        ({}, {"processes": 2}, 100),
        ({}, {"accumulate": 4}, 50),
        ({}, {"processes": 2, "accumulate": 4, "batch_size": 25}, 50),
        ({"length": "3 epochs"}, {"processes": 2}, 30),
        ({"length": "0 steps"}, {}, 1),
        ({}, {"epochs": 0.5}, 10),
        ({}, {"epochs": 20}, 400),
        ({"length": "3 epochs"}, {"epochs": 20}, 60),  # absolute lengths do not follow `epochs`
    ],
)
def test_lengths(spec: dict, changes: dict, steps: int) -> None:
    (stage,) = planned(spec, **changes)
    assert (stage.start, stage.stop) == (0, steps)


PRESET = ({"length": "30%", "size": 0.5, "rows": 0.2}, {"length": "30%", "size": 0.75}, {"length": "40%"})


@pytest.mark.parametrize("epochs", [1, 5, 40])
@pytest.mark.parametrize("size", [64, 128, 224])
def test_a_preset_scales_with_epochs_and_size(epochs: int, size: int) -> None:
    stages = planned(*PRESET, epochs=epochs, size=size)
    assert [stage.stop - stage.start for stage in stages] == [6 * epochs, 6 * epochs, 8 * epochs]
    assert [stage.size for stage in stages] == {64: [32, 48, 64], 128: [64, 96, 128], 224: [128, 160, 224]}[size]
    assert [stage.start for stage in stages] == [0, *(stage.stop for stage in stages[:-1])]
    assert [stage.number for stage in stages] == [0, 1, 2]
    assert [len(stage.rows) for stage in stages] == [200, 1000, 1000]


@pytest.mark.parametrize(
    ("value", "size", "expected"),
    [
        (1.0, 100, 100),  # as asked, not rounded
        (0.5, 128, 64),
        (0.5, 100, 48),  # from 32 px to a multiple of 16
        (0.75, 224, 160),  # from 64 px to a multiple of 32
        (0.6, 224, 128),  # a vision transformer's patches of 16 px fit
        (1.25, 128, 160),
        (2.0, 128, 256),
        (0.5, 28, 16),  # below 32 to a multiple of 4; half of 14/4 rounds to even
        (0.75, 28, 20),
        (0.01, 128, 4),
        (96, 128, 96),
        (97, 128, 97),
        (224.0, 64, 224),
    ],
)
def test_pixels(value: float, size: int, expected: int) -> None:
    assert pixels(value, size) == expected


def test_what_a_stage_carries() -> None:
    first, second = planned(
        {"batch_size": 30, "augment": 0.2, "length": "4 steps"}, {"size": 96}, processes=2, accumulate=3
    )
    assert (first.batch_size, first.total_batch, first.augment) == (30, 180, 0.2)
    assert (second.batch_size, second.total_batch, second.size) == (50, 300, 96)
    assert (first.epoch_steps, second.epoch_steps) == (6, 3)
    assert "4 steps" in first.describe() and "batch 180" in first.describe()


def test_a_share_of_the_batch_follows_the_batch() -> None:
    twice, half = planned({"batch_size": "200%", "length": "40%"}, {"batch_size": "1.5%"}, batch_size=48)
    assert (twice.batch_size, half.batch_size) == (96, 1)
    assert twice.stop == round(0.4 * 10 * 1000 / 96)  # a share of the run is one of its examples
    assert planned({"batch_size": "200%"}, batch_size=8, processes=2)[0].total_batch == 32


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"rows": 0}, "rows must be in 0..1"),
        ({"rows": 1.5}, "rows must be in 0..1"),
        ({"rows": -0.1}, "rows must be in 0..1"),
        ({"augment": 2.0}, "augment in 0..1"),
        ({"augment": -1.0}, "augment in 0..1"),
        ({"size": 0}, "size above 0"),
        ({"length": "long"}, r"stages\[1\].length='long'.*expected a duration"),
        ({"length": "3"}, "3 epochs"),
        ({"length": "-3 epochs"}, "expected a duration"),
        ({"length": ""}, "expected a duration"),
        *(
            pytest.param(spec, "must|above|at least|from 1")
            for spec, why in (
                ({"batch_size": -4}, "a negative batch size is planned, and fails with a traceback later"),
                ({"batch_size": 0}, "a batch size of 0 silently means the default"),
                ({"batch_size": "0%"}, "no images"),
                ({"batch_size": "2x"}, "no share"),
                ({"classes": 0}, "0 classes silently means all"),
                ({"classes": -1}, "-1 classes leaves out the rarest class"),
            )
        ),
    ],
)
def test_mistakes_name_the_stage(spec: dict, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        planned({}, spec)
    assert "stages[1]" in str(caught.value)


# ---- subsets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.02, 0.1, 0.25, 1 / 3, 0.5, 0.99, 1.0])
def test_subset_is_stratified(share: float) -> None:
    chosen = subset(LABELS, share, seed=3)
    assert len(set(chosen)) == len(chosen) and (np.diff(chosen) > 0).all()
    for label, count in enumerate(np.bincount(LABELS)):
        assert share * count - 1e-6 <= (LABELS[chosen] == label).sum() < share * count + 1 + 1e-6


def test_subset_is_nested_and_seeded() -> None:
    shares = [0.01, 0.05, 0.2, 0.5, 0.51, 1.0]
    found = [set(subset(LABELS, share, seed=5)) for share in shares]
    for small, large in itertools.pairwise(found):
        assert small < large
    assert found[-1] == set(range(1000))
    assert found[2] == set(subset(LABELS, 0.2, seed=5))
    assert found[2] != set(subset(LABELS, 0.2, seed=6))


def test_subset_of_classes() -> None:
    labels = np.array([2] * 5 + [0] * 9 + [1] * 7 + [4] * 9)  # class 3 never occurs; 0 and 4 are equally frequent
    by_size = [0, 4, 1, 2]
    found = [subset(labels, 1.0, k, seed=0) for k in (1, 2, 3, 4, 5)]
    for k, chosen in enumerate(found[:4], 1):
        assert set(labels[chosen]) == set(by_size[:k])
        assert len(chosen) == np.isin(labels, by_size[:k]).sum()
    for few, many in itertools.pairwise(found):
        assert set(few) <= set(many)
    half = subset(labels, 0.5, 2, seed=0)  # both at once: nested in either alone
    assert set(half) == set(subset(labels, 0.5, seed=0)) & set(found[1]) and len(half) == 10


def test_every_class_keeps_a_row() -> None:
    assert set(LABELS[subset(LABELS, 0.0001)]) == set(range(5))


def test_a_stage_has_rows_of_the_table() -> None:
    (stage,) = planned({"rows": 0.3, "classes": 2}, seed=4)
    np.testing.assert_array_equal(stage.rows, ROWS[subset(LABELS, 0.3, 2, 4)])


# ---- rows of a step -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "batch"), [(100, 10), (101, 10), (97, 32), (10, 64), (1, 3), (64, 64)])
def test_every_row_once_per_pass(rows: int, batch: int) -> None:
    stage = Stage(1, 5, 5 + 50, 64, np.arange(rows) + 1000, batch, 1.0, batch)
    stream = np.concatenate([step_rows(stage, step, seed=2) for step in range(stage.start, stage.stop)])
    assert len(stream) == 50 * batch  # every batch is full
    passes = [stream[first : first + rows] for first in range(0, len(stream) - rows + 1, rows)]
    assert len(passes) >= 4
    for one in passes:
        assert sorted(one) == list(stage.rows)
    if rows > 5:
        assert len({tuple(one) for one in passes}) == len(passes)  # reshuffled


def test_rows_depend_on_seed_and_stage_and_step_alone() -> None:
    first, second = planned({"length": "40 steps"}, {"length": "40 steps"})
    expected = [step_rows(first, step, 1) for step in range(40)]
    for step in np.random.default_rng(0).permutation(40):  # whatever was asked before
        np.testing.assert_array_equal(step_rows(first, int(step), 1), expected[step])
    assert not np.array_equal(step_rows(first, 0, 2), expected[0])
    assert not np.array_equal(step_rows(second, 40, 1), expected[0])


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_ranks_share_the_total_batch(world: int, accumulate: int) -> None:
    """The same rows per step as one process with a large batch: order within it is free."""
    batch = 48 // (world * accumulate)
    split = planned({"length": "9 steps"}, batch_size=batch, processes=world, accumulate=accumulate)
    whole = planned({"length": "9 steps"}, batch_size=48)
    orders = [list(training_orders(split, Augment(), 7, rank=rank, world=world)) for rank in range(world)]
    assert all(len(share) == 9 * accumulate for share in orders)
    for step in range(9):
        micro = [order for share in orders for order in share[step * accumulate : (step + 1) * accumulate]]
        assert all(len(order.rows) == batch for order in micro)
        union = np.concatenate([order.rows for order in micro])
        assert sorted(union) == sorted(step_rows(whole[0], step, 7))
    seeds = [order.seed for share in orders for order in share]
    assert len(set(seeds)) == len(seeds)  # no two batches draw the same random numbers


@pytest.mark.parametrize("first", [0, 1, 5, 6, 11, 16, 17])
def test_a_resume_goes_on_with_the_same_orders(first: int) -> None:
    stages = planned({"length": "6 steps", "size": 0.5, "augment": 0.3}, {"length": "11 steps"}, accumulate=2)
    augment = Augment(rotate=10, crop_area=(0.2, 1))
    whole = list(training_orders(stages, augment, 3))
    rest = list(training_orders(stages, augment, 3, first=first))
    assert len(whole) == 34 and len(rest) == 34 - 2 * first
    for expected, found in zip(whole[2 * first :], rest, strict=True):
        np.testing.assert_array_equal(expected.rows, found.rows)
        assert expected[1:] == found[1:]


def test_orders_carry_the_stage() -> None:
    stages = planned({"length": "2 steps", "size": 0.5, "augment": 0.5}, {"length": "1 steps"})
    augment = Augment(rotate=10)
    found = list(training_orders(stages, augment, 0))
    assert [order.size for order in found] == [64, 64, 128]
    assert [order.augment.rotate for order in found] == [5, 5, 10]


# ---- the clock of a run ---------------------------------------------------------------------------------------------


def test_epoch_ends() -> None:
    stages = planned({"length": "50 steps", "rows": 0.5}, {"length": "45 steps"})  # 10 and 20 steps an epoch
    assert [step + 1 for step in range(95) if is_epoch_end(stages, step)] == [10, 20, 30, 40, 50, 70, 90, 95]
    assert [step + 1 for step in range(95) if is_epoch_end(stages, step, 2)] == [20, 40, 50, 90, 95]
    assert [stage_at(stages, step).number for step in (0, 49, 50, 94)] == [0, 0, 1, 1]


def test_an_epoch_is_at_least_a_step() -> None:
    stage = replace(planned({})[0], rows=np.arange(3), total_batch=64)
    assert stage.epoch_steps == 1


@pytest.mark.parametrize(
    ("step", "factor", "stops"),
    [
        (0, 1.0, (40, 160)),
        (0, 0.5, (20, 80)),
        (0, 0.25, (10, 40)),
        (20, 0.5, (30, 90)),  # what is past stays
        (40, 0.5, (40, 100)),
        (100, 0.5, (40, 130)),
        (20, 0.0, (20, 21)),  # a stage that has not begun keeps a step
        (0, 0.0, (1, 2)),
        (160, 0.1, (40, 160)),
    ],
)
def test_shorten(step: int, factor: float, stops: tuple[int, ...]) -> None:
    stages = shorten(planned({"length": "40 steps"}, {"length": "120 steps"}), step, factor)
    assert tuple(stage.stop for stage in stages) == stops
    assert [stage.start for stage in stages] == [0, stops[0]]


def test_a_shortened_plan_keeps_the_rows_of_its_steps() -> None:
    """A resume builds the plan from the cuts: the steps before a cut are those of the whole plan."""
    whole = planned(*PRESET)
    shorter = shorten(whole, 50, 0.3)
    for step in range(50):
        assert (step_rows(stage_at(whole, step), step, 0) == step_rows(stage_at(shorter, step), step, 0)).all()


def test_one_step_is_not_steps() -> None:
    (stage,) = planned({"length": "1 steps"})
    assert stage.describe().startswith(f"stage 1: 1 step, {len(stage.rows)} rows, ")
    assert [counted(number, "class", "classes") for number in (0, 1, 2)] == ["0 classes", "1 class", "2 classes"]
