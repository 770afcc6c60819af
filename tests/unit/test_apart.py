"""Which folds are trained at the same time, on what, and what one of them that ends badly costs the others."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from src import apart
from src.apart import train_apart
from src.config import Config, StageConfig, difference, plain
from src.config.schema import FoldsConfig
from src.errors import NoMemory, UserError
from src.fold.batch_size import dividing, spread
from src.launch import environments, folds_at_once
from src.log import Labelled
from src.runs.claims import FoldBusy
from src.training.interrupt import Interrupted, stop_on_signals

# ---- which ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cards", "keys", "folds", "at_once"),
    [
        ("0,1", {}, 5, 2),
        ("0,1", {}, 3, 2),  # three quarters of their time
        ("0,1,2,3", {}, 5, 1),  # three of four would be idle in the second round
        ("0,1,2,3", {"parallel": "folds"}, 5, 4),
        ("0,1,2,3,4,5,6,7", {}, 5, 1),
        ("0,1,2,3,4", {}, 5, 5),
        ("0,1", {"parallel": "data"}, 5, 1),
        ("0,1", {"fold": 0}, 5, 1),
        ("0,1", {"fold": 0, "parallel": "folds"}, 5, 1),
        ("0,1", {"processes": 1}, 5, 1),
        ("0,1", {"device": "cpu"}, 5, 1),
        ("0", {"parallel": "folds"}, 5, 1),
        ("", {}, 5, 1),
        ("", {"processes": 2, "device": "cpu"}, 4, 2),
    ],
)
def test_folds_side_by_side_or_one_on_all_devices(
    cards: str, keys: dict[str, Any], folds: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", cards)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("ISTPUVM", raising=False)
    config = dataclasses.replace(Config(fold="all", folds=FoldsConfig(n=folds)), **keys)
    assert folds_at_once(config) == at_once
    monkeypatch.setenv("WORLD_SIZE", "2")  # one of several already
    assert folds_at_once(config) == 1
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("ISTPUVM", "1")  # whose cores are one program
    assert folds_at_once(dataclasses.replace(config, processes="auto", device="tpu")) == 1


def test_each_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-abc")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments(3, "auto")] == ["3", "GPU-abc", "3"]
    assert environments(2, "cpu") == [{"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "4"}] * 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the user's
    assert environments(2, "cpu")[1]["OMP_NUM_THREADS"] == "1"


def test_how_it_is_divided_is_no_part_of_a_run() -> None:
    other = Config(parallel="folds", start=3, processes=4)
    assert not difference(plain(Config()), plain(other)) and difference(plain(Config()), plain(Config(seed=1)))


def test_processes_that_divide_a_step_see_the_same_images() -> None:
    config = Config(batch_size=48, stages=(StageConfig(batch_size=32), StageConfig()))
    assert [dividing(config, processes) for processes in (2, 3, 4, 5, 8)] == [2, 2, 4, 4, 8]
    assert dividing(Config(batch_size=7), 4) == 1 and dividing(Config(batch_size="auto"), 5) == 4
    four = spread(config, 4)
    assert four.batch_size == 12 and [stage.batch_size for stage in four.stages] == [8, None]
    assert spread(config, 1) is config
    shares = Config(batch_size=12, stages=(StageConfig(batch_size="150%"), StageConfig()))  # 18 and 12 images
    assert [dividing(shares, processes) for processes in (2, 3, 4, 5, 8)] == [2, 3, 3, 3, 6]
    assert [stage.batch_size for stage in spread(shares, 6).stages] == ["150%", None]


# ---- how they end ---------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """In no time, where a new Python would load torch first."""
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(apart.multiprocessing, "get_context", lambda how: context)


def work(place: Path, ends: dict[int, Any], fold: int, left: int) -> bool:
    """Note what the fold's process was given; end as `ends` has it."""
    note = f"{left} {os.environ['DEVICE']} {os.environ['LOCAL_WORLD_SIZE']}"
    (place / str(fold)).write_text(note)
    print(f"fold {fold} of many")
    end = ends.get(fold, True)
    if isinstance(end, signal.Signals):
        os.kill(os.getpid(), end)
    if isinstance(end, Exception):
        raise end
    return end


ONE, TWO = ([{"DEVICE": str(number), "LOCAL_WORLD_SIZE": "2"} for number in range(count)] for count in (1, 2))


def test_each_fold_has_its_share_of_the_time(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert train_apart(partial(work, tmp_path, {}), range(5), TWO) == []
    found = [(tmp_path / str(fold)).read_text().split() for fold in range(5)]
    assert [note[0] for note in found[:2]] == ["3", "3"] and found[4][0] == "1"
    assert {note[1] for note in found[:2]} == {"0", "1"} and "DEVICE" not in os.environ
    assert sorted(capfd.readouterr().out.splitlines()) == [f"fold {fold} | fold {fold} of many" for fold in range(5)]


def test_what_is_left_to_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ends = {0: NoMemory("too large"), 1: FoldBusy("fold1 is being trained"), 2: RuntimeError("CUDA out of memory")}
    assert train_apart(partial(work, tmp_path, {**ends, 4: False}), range(6), ONE) == [0, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3", "4"], "4 had no time to begin"
    said = capfd.readouterr().out
    assert "fold1 is being trained: left to it" in said and said.count("time_budget: fold 5 not begun") == 1


def test_a_killed_fold_costs_the_others_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Interrupted, match="fold 1 not finished; the same command goes on") as stop:
        train_apart(partial(work, tmp_path, {1: signal.SIGKILL}), range(4), TWO)
    assert stop.value.exit_code == 137
    assert len(list(tmp_path.iterdir())) == 4
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: the process of fold 1 was ended by SIGKILL, as the system")


def test_a_mistake_is_told_once_and_ends_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^train\.csv: row 3$"):
        train_apart(partial(work, tmp_path, {0: UserError("train.csv: row 3")}), range(4), ONE)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_bug_keeps_its_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="the process of fold 0 ended with exit code 1"):
        train_apart(partial(work, tmp_path, {0: ZeroDivisionError("a bug")}), range(1), ONE)
    assert "fold 0 | ZeroDivisionError: a bug" in capfd.readouterr().err


def waiting(place: Path, fold: int, left: int) -> bool:
    with stop_on_signals() as wish:
        (place / str(fold)).touch()
        while not wish.signum:
            time.sleep(0.01)
        raise Interrupted(wish.signum, f"checkpoint of fold {fold}")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_passed_on_once(
    signum: signal.Signals, code: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def send() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signum)

    before, thread = signal.getsignal(signum), threading.Thread(target=send)
    thread.start()
    with pytest.raises(Interrupted, match="folds 0, 1 not finished; the same command goes on") as stop:
        train_apart(partial(waiting, tmp_path), range(4), TWO)
    thread.join()
    assert stop.value.exit_code == code and signal.getsignal(signum) is before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"], "no other fold is begun"
    said = capfd.readouterr().out
    assert [said.count(f"fold {fold} | checkpoint of fold {fold}") for fold in range(2)] == [1, 1]


def test_lines_stay_whole(capfd: pytest.CaptureFixture[str]) -> None:
    stream = Labelled("a | ", 1)
    print("one", 2, file=stream)
    print("three\n\nfo", end="", file=stream)
    print("ur", file=stream, flush=True)
    assert capfd.readouterr().out == "a | one 2\na | three\na |\na | four\n" and not stream.isatty()
