"""The time budget: costs measured on a real network, the plan that fits, folds and views that fit."""

from __future__ import annotations

import numpy as np
import pytest
import timm

from src.config import StageConfig
from src.data.spec import RGB
from src.training.budget import Cost, Watch, folds_in_time, measure, remaining, validations, views_in_time
from src.training.device import make_accelerator
from src.training.stages import Stage, is_epoch_end, plan, shorten


def stages(*specs: dict) -> list[Stage]:
    return plan(
        [StageConfig(**spec) for spec in specs],
        rows=np.arange(1000),
        labels=np.arange(1000) % 5,
        epochs=1,
        size=32,
        batch_size=10,
    )


TWO = stages({"length": "40 steps", "size": 0.5}, {"length": "120 steps"})
COST = Cost((1.0, 0.5), 0.01)


def test_measured_costs_grow_with_the_size() -> None:
    accelerator = make_accelerator("cpu", "fp32")
    model = timm.create_model("test_resnet", num_classes=5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    cost = measure(model, stages({"size": 1.0}, {"size": 192}, {"size": 1.0}), RGB, 5, accelerator)
    assert cost.steps[1] > 2 * cost.steps[0] > 0  # 36 times the pixels
    assert cost.steps[0] == cost.steps[2], "a shape is measured once"
    assert 0 < cost.image < cost.steps[0]
    assert all((value == before[key]).all() for key, value in model.state_dict().items()), "it measures a copy"


@pytest.mark.parametrize(("step", "seconds"), [(0, 100.0), (40, 60.0), (10, 90.0), (100, 30.0), (160, 0.0), (999, 0.0)])
def test_remaining(step: int, seconds: float) -> None:
    assert remaining(TWO, COST, step) == pytest.approx(seconds)


def test_a_run_on_time_is_never_late() -> None:
    watch = Watch(end=1000 + 100 * 1.02, stages=TWO, cost=COST, first=0)
    now = 1000.0
    for step in range(160):
        now += 1.0 if step < 40 else 0.5
        assert not watch.late(step + 1, now), step


def test_slow_first_steps_are_no_verdict() -> None:
    watch = Watch(end=1200, stages=TWO, cost=COST, first=0)
    now = 1000.0
    for step in range(5):  # 10 s each, where a step takes 1 s
        now += 10
        assert not watch.late(step + 1, now)
    for step in range(5, 40):
        now += 1
        assert not watch.late(step + 1, now), step


@pytest.mark.parametrize("slower", [1.3, 2.0, 10.0])
def test_a_slow_run_is_planned_anew_and_ends_in_time(slower: float) -> None:
    """Each step takes `slower` times what was measured; the plan is cut when it is late, as the recipe does."""
    plan_now, now, step, cuts = list(TWO), 1000.0, 0, 0
    end = now + 110
    watch = Watch(end, plan_now, COST, 0)
    while step < plan_now[-1].stop:
        now += slower * (1.0 if step < plan_now[0].stop else 0.5)
        step += 1
        if watch.late(step, now) and step < plan_now[-1].stop:
            plan_now = shorten(plan_now, step, watch.factor(step, now))
            watch, cuts = Watch(end, plan_now, COST, step), cuts + 1
    assert 1 <= cuts < 8
    assert now <= end + slower  # a step cannot be broken off
    assert now > end - 0.2 * 110, "the time is used"
    assert plan_now[1].stop > plan_now[1].start, "no stage is left out"


@pytest.mark.parametrize(
    ("seconds", "waiting", "expected"),
    [(1000, 5, 5), (425, 5, 5), (424, 5, 4), (85, 5, 1), (84, 5, 0), (-3, 5, 0), (1000, 1, 1)],
)
def test_folds_get_most_of_their_epochs_or_wait(seconds: float, waiting: int, expected: int) -> None:
    assert folds_in_time(seconds, waiting, fold=100, after=10) == expected


@pytest.mark.parametrize(("seconds", "kept"), [(100, 4), (40, 4), (39, 3), (20, 2), (5, 1), (0, 1), (-9, 1)])
def test_views_in_time(seconds: float, kept: int) -> None:
    assert views_in_time("abcd", seconds, 10) == list("abcd")[:kept]


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("step", [0, 1, 39, 40, 99, 100, 159, 160])
def test_validations_still_to_come(step: int, every: int) -> None:
    expected = sum(is_epoch_end(TWO, later, every) for later in range(step, 160))
    assert validations(TWO, step, every) == expected


def test_a_long_validation_is_no_slow_pace() -> None:
    """One of 5 s after 100 steps of 0.5 s: known to come, it changes nothing."""
    stages_now = stages({"length": "400 steps"})  # epochs of 100 steps
    watch = Watch(1000 + 200 + 20 + 1, stages_now, Cost((0.5,), 0.0), 0, validation=5.0)
    now = 1000.0
    for step in range(400):
        now += 0.5
        if is_epoch_end(stages_now, step):
            now += 5
            watch.validated(5.0)
        assert not watch.late(step + 1, now), step
    surprised = Watch(1000 + 200 + 1, stages_now, Cost((0.5,), 0.0), 0)
    surprised.late(5, 1002.5)
    surprised.validated(5.0)
    assert surprised.factor(100, 1055.0) == pytest.approx((1201 - 1055) / (150 + 3 * 5))
