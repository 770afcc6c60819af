"""Rates against closed forms, and durations and times in every unit."""

from __future__ import annotations

import math

import pytest
import torch

from src.errors import UserError
from src.training.optimizer import scaled_rate
from src.training.schedule import duration, multiplier, one_cycle, seconds


@pytest.mark.parametrize("kind", ["cosine", "linear", "steps", "exponential", "constant"])
@pytest.mark.parametrize("warmup", [1, 4, 25])
def test_warmup_is_linear_with_exact_ends(kind: str, warmup: int) -> None:
    at = multiplier(kind, 100, warmup, drops=(0.5, 0.9), every=10)
    for step in range(warmup):
        assert at(step) == (step + 1) / warmup
    assert at(0) == 1 / warmup and at(warmup - 1) == 1.0
    assert at(warmup) == 1.0  # decay starts from the full rate


@pytest.mark.parametrize("kind", ["cosine", "linear", "steps", "exponential", "constant"])
def test_no_warmup(kind: str) -> None:
    assert multiplier(kind, 10, 0, drops=(0.5,), every=2)(0) == 1.0


@pytest.mark.parametrize(("total", "warmup"), [(100, 0), (100, 10), (37, 5), (10, 9)])
@pytest.mark.parametrize("final", [0.0, 0.01])
def test_cosine_and_linear(total: int, warmup: int, final: float) -> None:
    cosine, linear = (multiplier(kind, total, warmup, final=final) for kind in ("cosine", "linear"))
    for step in range(warmup, total):
        t = (step - warmup) / (total - warmup)
        assert cosine(step) == pytest.approx(final + (1 - final) * (1 + math.cos(math.pi * t)) / 2, abs=1e-12)
        assert linear(step) == pytest.approx(1 - (1 - final) * t, abs=1e-12)
    for at in (cosine, linear):
        assert at(total) == pytest.approx(final, abs=1e-12)
        assert at(total + 50) == pytest.approx(final, abs=1e-12)  # does not swing up again


def test_cosine_is_torchs() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=0.1)
    mine = multiplier("cosine", 50, 0, final=0.1)
    for step in range(50):
        assert mine(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(("total", "share"), [(100, 0.3), (37, 10 / 37), (60, 0.5)])
def test_one_cycle_is_torchs(total: int, share: float) -> None:
    """Rate and momentum of each step of torch's OneCycleLR, which has the values of fastai's fit_one_cycle."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total, pct_start=share, div_factor=25, final_div_factor=1e4
    )
    rise = round(share * total)
    at = multiplier("one_cycle", total, rise, start=1 / 25, final=1 / 25e4)
    for step in range(total):
        assert at(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        momentum = one_cycle(step, total, rise, 0.95, 0.85, 0.95)
        assert momentum == pytest.approx(optimizer.param_groups[0]["momentum"], abs=1e-12)
        optimizer.step()
        theirs.step()
    assert at(0) == pytest.approx(0.04) and at(rise - 1) == 1.0 and at(total - 1) == pytest.approx(4e-6)


@pytest.mark.parametrize("rise", [0, 1])
def test_one_cycle_without_a_rise(rise: int) -> None:
    at = multiplier("one_cycle", 5, rise, start=0.04)
    assert [at(step) for step in range(5)] == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0])


def test_steps_fall_at_shares_of_the_run() -> None:
    at = multiplier("steps", 100, 5, drops=(0.33, 0.66, 0.9), factor=0.1)
    for first, last, rate in ((5, 32, 1.0), (33, 65, 0.1), (66, 89, 0.01), (90, 99, 0.001)):
        assert at(first) == pytest.approx(rate) and at(last) == pytest.approx(rate)
    halves = multiplier("steps", 10, 0, drops=(0.5,), factor=0.5)
    assert [halves(step) for step in range(10)] == [1.0] * 5 + [0.5] * 5


def test_exponential_is_a_staircase() -> None:
    at = multiplier("exponential", 100, 3, decay=0.94, every=20)
    for step in range(3, 100):
        assert at(step) == pytest.approx(0.94 ** ((step - 3) // 20))


def test_constant() -> None:
    assert {multiplier("constant", 100, 0)(step) for step in range(100)} == {1.0}


def test_swa_rate() -> None:
    plain = multiplier("cosine", 100, 5)
    at = multiplier("cosine", 100, 5, swa_start=75, swa_lr=0.05)
    assert [at(step) for step in range(75)] == [plain(step) for step in range(75)]
    assert {at(step) for step in range(75, 100)} == {0.05}
    kept = multiplier("cosine", 100, 5, swa_start=75, swa_lr=None)
    assert [kept(step) for step in range(100)] == [plain(step) for step in range(100)]
    assert multiplier("cosine", 100, 5, swa_start=75, swa_lr=0.0)(80) == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("200 steps", 200),
        ("1 step", 1),
        ("200steps", 200),
        ("  3 epochs ", 75),
        ("1 epoch", 25),
        ("0.5 epochs", 12),
        (".5epochs", 12),
        ("25%", 250),
        ("25 %", 250),
        ("2.5%", 25),
        ("100%", 1000),
        ("0.25", 250),
        ("1", 1000),
        ("1.0", 1000),
        ("0", 0),
        ("0%", 0),
        ("0 steps", 0),
    ],
)
def test_duration(text: str, expected: int) -> None:
    assert duration(text, total=1000, epoch=25, key="k") == expected


@pytest.mark.parametrize(
    "text",
    ["", "abc", "-5%", "-3 epochs", "3 weeks", "3 epochs 2 steps", "1e3 steps", "5.", "%", "epochs", "nan", "None"],
)
def test_bad_durations(text: str) -> None:
    with pytest.raises(UserError, match=r"schedule\.warmup=.*200 steps.*3 epochs.*25%"):
        duration(text, total=1000, epoch=25, key="schedule.warmup")


@pytest.mark.parametrize("text", ["2", "5", "1.5", "200"])
def test_a_number_without_a_unit_is_no_duration(text: str) -> None:
    with pytest.raises(UserError, match=f'length={text!r}.*"{text} epochs" or "{text} steps"'):
        duration(text, total=1000, epoch=25, key="length")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8.5h", 30600), ("90m", 5400), ("300s", 300), ("300", 300), (" 2 h ", 7200), (".5m", 30), ("0.1", 0.1)],
)
def test_seconds(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "0", "0h", "-5s", "5d", "8:30", "1h30m", "soon", "inf", "1e3"])
def test_bad_seconds(text: str) -> None:
    with pytest.raises(UserError, match=r"time_budget=.*8\.5h, 90m or 300s"):
        seconds(text)
    with pytest.raises(UserError, match=r"^other="):
        seconds(text, "other")


def test_linear_scaling() -> None:
    """lr = base · batch/256, the batch counted over processes and accumulation by the plan."""
    import numpy as np

    from src.config import StageConfig
    from src.training.stages import plan_stages

    assert scaled_rate(0.1, 256) == pytest.approx(0.1)
    assert scaled_rate(0.1, 1024) == pytest.approx(0.4)
    assert scaled_rate(0.1, 1024, "sqrt") == pytest.approx(0.2)
    assert scaled_rate(0.1, 1024, "none") == pytest.approx(0.1)
    for processes, accumulate, expected in ((1, 1, 0.025), (2, 1, 0.05), (1, 4, 0.1), (2, 4, 0.2)):
        (stage,) = plan_stages(
            [StageConfig()],
            rows=np.arange(1000),
            strata=np.zeros(1000, int),
            epochs=1,
            size=64,
            batch_size=64,
            processes=processes,
            accumulate=accumulate,
        )
        assert scaled_rate(0.1, stage.total_batch) == pytest.approx(expected)
