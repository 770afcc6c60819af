"""Folds side by side: each in a process of its own that sees one device, as many at a time as there are devices."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Literal

from src.errors import NoMemory, UserError
from src.launch import passed_on, signal_to, told_of_kill
from src.log import Labelled, say
from src.parent import signalled_without
from src.runs.claims import FoldBusy
from src.training.interrupt import Interrupted
from src.training.memory import in_one_line, out_of_memory

# Trains a fold, of which so many share the device's time; False if there is not enough left to begin it.
Work = Callable[[int, int], bool]
# trained: or it was finished before. late: no time to begin. busy: another start trains it. too large: for its device
End = Literal["trained", "late", "busy", "too large", "mistake", "stopped", "killed", "bug"]


@dataclass(frozen=True)
class Running:
    """A fold's process, the environment that says which device is its own, and where it reports how it ended."""

    fold: int
    process: SpawnProcess
    device: Mapping[str, str]
    report: Connection

    def ended(self) -> tuple[End, str | int]:
        """How, when it is over; what it said, or its signal."""
        self.process.join()
        code = self.process.exitcode or 0
        try:
            if self.report.poll():
                return self.report.recv()
        except EOFError:
            pass
        finally:
            self.report.close()
        return ("killed", -code) if code < 0 else ("stopped", code - 128) if code > 128 else ("bug", code)


def train_apart(work: Work, folds: Sequence[int], devices: Sequence[Mapping[str, str]]) -> list[int]:
    """Call `work` for each of the folds, and return those that are too large for one device.

    devices: the environment of each process. Ctrl-C and SIGTERM are passed on once, and no fold begins after them. A
    process that is killed costs the others nothing. Raises, when all that run have ended, the first UserError of any,
    or Interrupted with the exit code of the first that was stopped or killed.
    """
    waiting, free = deque(folds), deque(devices)
    running: dict[int, Running] = {}
    too_large: list[int] = []
    failed: list[tuple[int, End, str | int]] = []
    with passed_on(lambda: [each.process for each in running.values()]) as told:
        while running or (waiting and free):
            while waiting and free and not told:
                fold, left = waiting.popleft(), math.ceil((len(waiting) + 1 + len(running)) / len(devices))
                running[fold] = start(work, fold, left, free.popleft())
                if told:  # while it was started
                    signal_to(running[fold].process, told[0])
            if told and not running:
                break
            over = wait([each.process.sentinel for each in running.values()])
            for one in [each for each in running.values() if each.process.sentinel in over]:
                del running[one.fold]
                free.append(one.device)
                how, said = one.ended()
                if how == "busy":
                    say(f"{said}: left to it")
                elif how == "too large":
                    too_large.append(one.fold)
                elif how == "late":
                    if waiting:
                        say(f"time_budget: {listed(waiting)} not begun")
                    waiting.clear()
                elif how != "trained":
                    failed.append((one.fold, how, said))
                    if how == "killed" and not told:
                        line = told_of_kill(f"the process of fold {one.fold}", int(said))
                        print(f"error: {line}", file=sys.stderr, flush=True)
                    elif how != "killed":
                        waiting.clear()  # the next one would meet the same
    if told:
        raise Interrupted(told[0], stopped_text([fold for fold, *_ in failed]))
    for how in ("bug", "mistake", "stopped", "killed"):
        for fold, ended, said in failed:
            if ended == how == "bug":
                raise RuntimeError(f"the process of fold {fold} ended with exit code {said}; its lines are above")
            if ended == how == "mistake":
                raise UserError(str(said))
            if ended == how:
                raise Interrupted(int(said), stopped_text([each for each, *_ in failed]))
    return too_large


def listed(folds: Iterable[int]) -> str:
    numbers = [str(fold) for fold in sorted(folds)]
    return f"fold{'s' * (len(numbers) > 1)} {', '.join(numbers)}"


def stopped_text(folds: Sequence[int]) -> str:
    return f"{listed(folds)} not finished; the same command goes on" if folds else "stopped; the same command goes on"


def start(work: Work, fold: int, left: int, device: Mapping[str, str]) -> Running:
    context = multiprocessing.get_context("spawn")
    report, reports = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(work, fold, left, reports))
    before = dict(os.environ)
    os.environ.update(device)  # threads are counted when torch is loaded, before any code of ours
    try:
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    reports.close()  # here: its end is then that of the process
    return Running(fold, process, device, report)


# ---- in a fold's process --------------------------------------------------------------------------------------------


def run(work: Work, fold: int, left: int, reports: Connection) -> None:
    """Train the fold, its lines labelled, and report how that ended."""
    os.setsid()  # a terminal's Ctrl-C then reaches the parent only, which passes it on once
    signalled_without(os.getppid(), signal.SIGTERM)
    label = f"fold {fold} | "
    sys.stdout, sys.stderr = Labelled(label, 1), Labelled(label, 2)
    try:
        found = outcome(work, fold, left)
    except KeyboardInterrupt:  # before it could leave a checkpoint
        sys.exit(128 + signal.SIGINT)
    with suppress(OSError):  # of a parent that is gone
        reports.send(found)


def outcome(work: Work, fold: int, left: int) -> tuple[End, str | int]:
    try:
        return ("trained" if work(fold, left) else "late"), ""
    except FoldBusy as busy:
        return "busy", str(busy)
    except NoMemory as error:
        return "too large", str(error)
    except UserError as error:
        return "mistake", str(error)
    except (RuntimeError, MemoryError) as error:
        if (told := in_one_line(error)) is None:
            raise
        return ("too large" if out_of_memory(error) else "mistake"), told
    except Interrupted as stop:
        print(stop, flush=True)
        return "stopped", stop.exit_code - 128
