"""What is seen while a fold trains, and how well the time that is left is known."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from src import log
from src.log import Ticker, draws_bars
from src.training import progress
from src.training.progress import Afterwards, ProgressBar, validations_in
from src.training.stages import Stage, is_epoch_end


class Clock:
    """time.monotonic() that only `work` moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for module in (log, progress):
            monkeypatch.setattr(module.time, "monotonic", lambda: self.now)

    def work(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize(
    ("environment", "terminal", "expected"),
    [
        ({}, True, True), ({}, False, False), ({"TERM": "dumb"}, True, False),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, True, False), ({"JPY_PARENT_PID": "7"}, True, False),
        ({"COLAB_RELEASE_TAG": "x"}, True, False),
        ({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, True, False), ({"MPLBACKEND": "agg"}, True, True),
    ],
)  # fmt: skip
def test_a_bar_is_for_somebody_who_looks(
    environment: dict, terminal: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert draws_bars(environment) == expected


def test_lines_of_hours_are_few(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    stages = (Stage(0, 0, 36000, 64, np.arange(64 * 36000), 64, 1.0, 64),)
    bar = ProgressBar(stages, 0, "accuracy", True, lambda row: None)
    for step in range(36000):
        clock.work(0.1)
        bar.step(stages[0], step)
    lines = capsys.readouterr().out.splitlines()
    assert 110 <= len(lines) <= 120, "an hour at a line each half minute"
    assert lines[0].startswith("stage 1/1  64 px  step 30") and lines[0].endswith("640 img/s  59m30s left")


def test_a_ticker_is_silent_at_first(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    ticker = Ticker("predicting", 100)
    for _ in range(100):
        clock.work(0.5)
        ticker.step(1)
    ticker.close()
    assert capsys.readouterr().out == "predicting: 61%, 20s left\n"


@pytest.mark.parametrize("every", [1, 2, 3])
def test_validations_are_counted_as_they_come(every: int) -> None:
    stages = (Stage(0, 0, 13, 8, np.arange(40), 8, 1.0, 8), Stage(1, 13, 28, 8, np.arange(80), 8, 1.0, 8))
    for stage in stages:
        for begun in range(stage.start, stage.stop):
            expected = sum(is_epoch_end(stages, step, every) for step in range(begun, stage.stop))
            assert validations_in(stage, begun, every) == expected


def test_the_time_that_is_left_is_known_after_a_minute_of_each_stage(clock: Clock) -> None:
    """On a machine whose small steps cost more than their pixels say, as a trial has told, whose first steps are slow,
    and whose validations and predictions take a third of the time."""
    rows, held, images = 6400, 1600, 9000
    stages = (
        Stage(0, 0, 1000, 64, np.arange(rows), 64, 1.0, 64),
        Stage(1, 1000, 1400, 128, np.arange(rows), 64, 1.0, 64),
        Stage(2, 1400, 2400, 224, np.arange(rows), 32, 1.0, 32),
    )
    cost = {0: 0.2, 1: 0.5, 2: 0.75}  # seconds of a step

    def of_prediction(stage: Stage) -> float:
        return 1.5e-7 * stage.size**2

    bar = ProgressBar(stages, 0, "accuracy", False, lambda row: None, 1, Afterwards(held, images, 32), [2.2, 5.0, 7.5])
    said: list[tuple[int, float, float]] = []  # stage, now, end that is expected
    for stage in stages:
        began = clock.now
        for step in range(stage.start, stage.stop):
            clock.work(cost[stage.number] + (8.0 if step == stage.start else 0.0))
            bar.step(stage, step)
            if is_epoch_end(stages, step):
                clock.work(held * of_prediction(stage))
                bar.epoch(stage, {"step": step + 1, "loss": 1.0, "images_per_second": 1.0})
            if clock.now - began > 60:
                said.append((stage.number, clock.now, clock.now + bar.seconds_left()))
    clock.work(images * of_prediction(stages[-1]) + 32 * cost[2] / 3)
    assert {stage for stage, _, _ in said} == {0, 1, 2}
    for stage, now, expected in said:
        left = clock.now - now
        assert abs(expected - clock.now) < 0.2 * left, (stage, now, expected, clock.now)
