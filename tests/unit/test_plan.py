"""The plan as functions of the step: rates, momentum, trained part, mixing, averaging, batches, and a shorter plan."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from src.config import AverageConfig, MixConfig, ScheduleConfig
from src.data.augment import Augment
from src.errors import UserError
from src.seeds import Stream, generator
from src.training.mixing import draw_mix
from src.training.plan import Plan, plan_over_steps
from src.training.schedule import multiplier
from src.training.stages import Stage, shorten, stage_at, training_orders

ROWS = np.arange(80)
STAGES = (
    Stage(0, 0, 40, 16, ROWS[:40], 8, 0.5, 8),
    Stage(1, 40, 80, 32, ROWS, 4, 1.0, 16),
    Stage(2, 80, 100, 48, ROWS, 4, 0.0, 16, "head+norm", 0.004),
)


def planned(stages: tuple[Stage, ...] = STAGES, **sections: Any) -> Plan:
    own = {
        "schedule": ScheduleConfig(warmup="10 steps"), "average": AverageConfig(), "mixing": MixConfig(),
        "augment": Augment(flip=True, rotate=10.0),
    }  # fmt: skip
    return Plan(stages, len(ROWS), 5, 0.8, **(own | sections))


def test_rates_follow_the_schedule_and_each_stages_batch() -> None:
    plan, at = planned(), multiplier("cosine", 80, 10)
    for step in range(80):
        batch = 8 if step < 40 else 16
        assert plan.share(step) == pytest.approx(at(step))
        assert plan.rate(step) == pytest.approx(0.8 * batch / 256 * at(step))
    assert (plan.steps, plan.scheduled) == (100, 80)
    for step in range(80, 100):
        assert plan.rate(step) == pytest.approx(0.004 * 16 / 256), "a stage's own rate, whatever the schedule says"
        assert plan.share(step) == pytest.approx(0.004 / 0.8)


def test_a_rate_for_the_steps_that_swa_averages() -> None:
    averaged = AverageConfig(swa=True, swa_start=0.5, swa_lr=0.3)
    plan, without = planned(STAGES[:2], average=averaged), planned(STAGES[:2])
    assert [plan.share(step) for step in range(80)] == [without.share(step) for step in range(40)] + [0.3] * 40
    off = planned(STAGES[:2], average=dataclasses.replace(averaged, swa=False))
    assert off.share(60) == without.share(60) != 0.3


def test_momentum() -> None:
    assert {planned().momentum(step) for step in range(100)} == {None}
    plan = planned(schedule=ScheduleConfig(kind="one_cycle", warmup="50%", momentum=[0.95, 0.85]))
    assert [plan.momentum(step) for step in (0, 39, 79, 80, 99)] == pytest.approx([0.95, 0.85, 0.95, 0.95, 0.95])
    first = [plan.momentum(step) for step in range(40)]
    assert first == sorted(first, reverse=True) and plan.momentum(20) == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize(("freeze", "frozen"), [(None, 0), ("15 steps", 15), ("2 epochs", 10), ("30%", 30)])
def test_parts(freeze: str | None, frozen: int) -> None:
    """Durations are of the whole plan; an epoch is one of the last stage's batches over all rows."""
    plan = planned(freeze=freeze)
    assert [plan.part(step) for step in range(100)] == ["head"] * frozen + ["all"] * (80 - frozen) + ["head+norm"] * 20


def test_statistics_are_held_in_every_stage_or_in_none() -> None:
    assert planned(STAGES[:2], hold_norms=True).holds_statistics and planned(STAGES, hold_norms=True).holds_statistics
    assert not planned(STAGES[:2]).holds_statistics and not planned(STAGES).holds_statistics


@pytest.mark.parametrize("stop", [0.0, 0.35, 0.8, 1.0])
def test_mixing_ends_where_it_should(stop: float) -> None:
    plan = planned(mixing=MixConfig(mixup=0.4, cutmix=1.0, stop=stop))
    for step in range(100):
        for rank in (0, 1):
            mix, again = plan.mix(step, 6, rank), plan.mix(step, 6, rank)
            assert (mix is None) == (step >= 100 * stop)
            if mix is None or again is None:
                continue
            size = 16 if step < 40 else 32 if step < 80 else 48
            drawn = draw_mix(generator(5, Stream.MIX, step, rank), 6, size, 0.4, 1.0)
            assert drawn is not None and len(mix.partner) == 6
            assert (mix.kind, mix.lam, mix.box) == (drawn.kind, drawn.lam, drawn.box)
            assert mix.partner.tolist() == drawn.partner.tolist() == again.partner.tolist()


def test_processes_and_steps_mix_differently() -> None:
    plan = planned(mixing=MixConfig(mixup=1.0))
    found = {plan.mix(step, 4, rank).lam for step in range(20) for rank in range(2)}  # type: ignore[union-attr]
    assert len(found) == 40
    rare = planned(mixing=MixConfig(mixup=1.0, probability=0.3))
    assert 0.15 < np.mean([rare.mix(step, 4) is not None for step in range(100)]) < 0.45
    assert {planned().mix(step, 4) for step in range(100)} == {None}


@pytest.mark.parametrize(
    ("start", "every", "first"), [(0.5, "20 steps", 59), (0.5, "1 epoch", 54), (0.25, "7 steps", 29), (0.9, "50%", 99)]
)
def test_swa_takes_the_last_weights_and_others_before_at_even_distances(start: float, every: str, first: int) -> None:
    plan = planned(average=AverageConfig(swa=True, swa_start=start, swa_every=every))
    distance = {"20 steps": 20, "1 epoch": 5, "7 steps": 7, "50%": 50}[every]
    found = [step for step in range(100) if plan.in_swa(step)]
    assert found == list(range(99, round(100 * start) - 1, -distance))[::-1]
    assert found[-1] == 99 and found[0] == first


@pytest.mark.parametrize("start", [0.0, 0.99, 1.0])
@pytest.mark.parametrize("every", ["0", "1 step", "100%"])
def test_the_last_weights_are_always_among_swas(start: float, every: str) -> None:
    plan = planned(average=AverageConfig(swa=True, swa_start=start, swa_every=every))
    assert plan.in_swa(99)
    assert plan.shortened(30, 0.33).in_swa(plan.shortened(30, 0.33).steps - 1)


def test_orders_are_those_of_the_stages() -> None:
    plan = planned()
    for first, rank, world in ((0, 0, 1), (57, 0, 1), (33, 0, 2), (90, 1, 2)):
        stages = [dataclasses.replace(stage, batch_size=4) for stage in STAGES]
        plan = planned(tuple(stages))
        mine = list(plan.orders(first, rank, world))
        theirs = list(training_orders(stages, plan.augment, 5, first, rank, world))
        assert len(mine) == len(theirs) > 0
        for one, other in zip(mine, theirs, strict=True):
            assert one.rows.tolist() == other.rows.tolist() and one[1:] == other[1:]
    assert next(plan.orders()).augment == plan.augment.at_strength(0.5)
    assert len(list(plan.orders(95))) == 5 * 16 // 4


@pytest.mark.parametrize(("step", "factor"), [(0, 0.5), (50, 0.5), (50, 0.1), (95, 0.2)])
def test_a_shortened_plan(step: int, factor: float) -> None:
    """What is past stays as it was; rate, mixing and averaging are planned anew over what is left."""
    plan = planned(mixing=MixConfig(mixup=1.0, stop=0.5), average=AverageConfig(swa=True, swa_start=0.75))
    shorter = plan.shortened(step, factor)
    assert list(shorter.stages) == shorten(STAGES, step, factor)
    assert shorter.steps == pytest.approx(step + (100 - step) * factor, abs=2)
    past = sum(stage_at(STAGES, earlier).total_batch // stage_at(STAGES, earlier).batch_size for earlier in range(step))
    for one, other in zip(list(plan.orders())[:past], list(shorter.orders())[:past], strict=True):
        assert one.rows.tolist() == other.rows.tolist()
    assert plan.steps == 100, "the whole plan is left alone"
    assert shorter.scheduled == shorter.stages[-1].start
    assert shorter.share(shorter.scheduled - 1) < 0.05
    mixed = [shorter.mix(later, 4) is not None for later in range(shorter.steps)]
    assert mixed == [later < shorter.steps / 2 for later in range(shorter.steps)]
    assert shorter.in_swa(shorter.steps - 1) and not shorter.in_swa(round(0.75 * shorter.steps) - 1)
    assert shorter.shortened(step, 1.0).stages == shorter.stages


@pytest.mark.parametrize(
    ("sections", "key", "ask"),
    [
        ({"schedule": ScheduleConfig(warmup="soon")}, "schedule.warmup=", lambda plan: plan.rate(0)),
        ({"schedule": ScheduleConfig(every="2 years")}, "schedule.every=", lambda plan: plan.rate(0)),
        ({"freeze": "a bit"}, "model.freeze=", lambda plan: plan.part(0)),
        ({"average": AverageConfig(swa=True, swa_every="often")}, "average.swa_every=", lambda plan: plan.in_swa(90)),
    ],
)
def test_a_duration_that_cannot_be_read_is_named(sections: dict[str, Any], key: str, ask: Any) -> None:
    with pytest.raises(UserError) as error:
        ask(planned(**sections))
    assert str(error.value).startswith(key)


def test_what_a_picture_shows() -> None:
    steps, columns = plan_over_steps(planned())
    assert steps == list(range(100))
    assert columns["learning rate"] == [planned().rate(step) for step in range(100)]
    assert columns["size (px)"] == [16] * 40 + [32] * 40 + [48] * 20
    assert columns["rows"] == [40] * 40 + [80] * 60 and columns["batch"] == [8] * 40 + [16] * 60
    long = planned((dataclasses.replace(STAGES[0], stop=50_000),))
    steps, columns = plan_over_steps(long)
    assert len(steps) == 2000 and (steps[0], steps[-1]) == (0, 49_999) and len(columns["batch"]) == 2000
