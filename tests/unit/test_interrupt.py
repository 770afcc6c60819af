"""Signals become a wish to stop, and how many loader processes a machine gets."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace

import pytest

from src.errors import UserError
from src.training.device import loader_workers, workers_beside
from src.training.interrupt import Interrupted, StopWish, stop_on_signals


def test_a_first_signal_is_a_wish_and_a_second_ctrl_c_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as wish:
        assert wish.signum == 0
        signal.raise_signal(signal.SIGINT)
        assert wish.signum == signal.SIGINT
        signal.raise_signal(signal.SIGTERM)
        assert wish.signum == signal.SIGTERM, "no second Ctrl-C"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_thread_has_no_signals() -> None:
    found: list[StopWish] = []

    def work() -> None:
        with stop_on_signals() as wish:
            found.append(wish)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [wish.signum for wish in found] == [0]


def test_the_exit_code_is_the_shells() -> None:
    assert (Interrupted(2, "Ctrl-C").exit_code, Interrupted(15, "SIGTERM").exit_code) == (130, 143)


@pytest.mark.parametrize(
    ("cores", "processes", "device", "expected"),
    [
        (1, 1, "cpu", 0), (2, 1, "cpu", 0), (3, 1, "cpu", 2), (8, 1, "cpu", 7), (64, 1, "cpu", 8), (8, 4, "cpu", 0),
        (8, 2, "cpu", 3), (4, 2, "cuda", 1), (2, 2, "cuda", 1), (1, 1, "cuda", 1), (4, 1, "cuda", 3),
        (64, 2, "cuda", 8), (96, 8, "xla", 2), (8, 8, "xla", 1),
    ],
)  # fmt: skip
def test_loader_processes_by_cores(
    cores: int, processes: int, device: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert loader_workers("auto", device=device) == loader_workers("auto", processes, device) == expected
    there = SimpleNamespace(num_processes=processes, device=SimpleNamespace(type=device))
    assert workers_beside("auto", there) == expected
    assert loader_workers("3") == loader_workers(3) == 3
    with pytest.raises(UserError, match="workers=many: give a number from 0, or auto"):
        loader_workers("many")
