"""One process per device: started here for several GPUs, TPU cores or CPU processes, or found already running."""

from __future__ import annotations

import logging
import math
import multiprocessing.connection
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from src.config import Config
from src.errors import UserError
from src.training.device import cores_here, count_gpus, gpus

Start = Callable[..., int]
# Share of the devices' time from which folds side by side are the better use of them: they exchange no gradients, but
# some devices have no fold in the last round.
ENOUGH = 0.75


def processes_wanted(wanted: int | str, device: str) -> int:
    """`auto`: one per GPU, all cores of a TPU (0 stands for "as many as it has"), one on a CPU.

    Under torchrun or accelerate launch (WORLD_SIZE is set) always 1: this process is one of several already.
    """
    if "WORLD_SIZE" in os.environ:
        return 1
    if wanted != "auto":
        if not str(wanted).isdigit() or int(wanted) < 1:
            raise UserError(f"processes={wanted}: give a number from 1, or auto")
        return int(wanted)
    if device in ("auto", "tpu") and os.environ.get("ISTPUVM") == "1":
        return 0
    return max(1, count_gpus()) if device in ("auto", "cuda") else 1


def folds_at_once(config: Config) -> int:
    """How many folds of a run are trained at the same time, each by a process with a device of its own; 1: one after
    the other, each on all devices."""
    devices = processes_wanted(config.processes, config.device)
    if config.fold != "all" or config.parallel == "data" or devices < 2:
        return 1
    return devices if config.parallel == "folds" or busy(config.folds.n, devices) >= ENOUGH else 1


def busy(folds: int, devices: int) -> float:
    """Share of their time that devices train in, if each takes one of the folds after the other."""
    return folds / (math.ceil(folds / devices) * devices)


def environments(at_once: int, device: str) -> list[dict[str, str]]:
    """What each of several processes that do not know each other gets: a GPU, or its share of the cores."""
    each = {"LOCAL_WORLD_SIZE": str(at_once)}  # of which its loader has to leave some to the others
    cards = gpus() if device in ("auto", "cuda") else []
    if cards:
        return [{**each, "CUDA_VISIBLE_DEVICES": cards[number % len(cards)]} for number in range(at_once)]
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores_here() // at_once)))
    return [{**each, "OMP_NUM_THREADS": threads}] * at_once


def launch(start: Start, arguments: tuple[Any, ...], processes: int) -> int:
    """Call `start(*arguments)` here, or in `processes` new processes; 0, or the exit code of the first that failed.

    Raises the first UserError of any process.

    torch.multiprocessing instead of torchrun, because torchrun turns every exit code into 1 and a traceback.
    """
    if processes == 1:
        return start(*arguments)
    if processes == 0:
        import torch_xla

        try:
            torch_xla.launch(_start_on_tpu, args=(start, arguments))
        except BrokenProcessPool:
            told = "one of the TPU's processes was ended, as the system does when memory runs out; workers=0 takes less"
            print(f"error: {told}; the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
            return 128 + signal.SIGKILL
        return 0
    import torch.multiprocessing as mp

    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # warnings of those whose neighbour has died
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()))
    complaints = mp.get_context("spawn").SimpleQueue()
    ranked = (start, arguments, processes, complaints)
    context = mp.start_processes(_start_ranked, ranked, processes, join=False, start_method="spawn")
    assert context is not None

    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # that it ends the others is no news
    killed: tuple[int, int] | None = None
    try:
        with passed_on(lambda: context.processes):
            ended = False
            while not ended:
                running = {each.sentinel: each for each in context.processes if each.exitcode is None}
                for sentinel in multiprocessing.connection.wait(list(running)):
                    running[sentinel].join()  # its exit code is there a moment after its sentinel
                # before `join` ends the others, the last of them by SIGKILL
                codes = [each.exitcode or 0 for each in context.processes]
                killed = next(((rank, -code) for rank, code in enumerate(codes) if code < 0), None)
                ended = context.join()  # raises when one has failed
    except (mp.ProcessExitedException, mp.ProcessRaisedException) as error:
        if killed is not None:  # what the others then say is not the cause
            print(
                f"error: {told_of_kill(f'process {killed[0]} of {processes}', killed[1])}", file=sys.stderr, flush=True
            )
            return 128 + killed[1]
        if isinstance(error, mp.ProcessRaisedException):  # a bug
            raise
        if not complaints.empty():
            raise UserError(complaints.get()) from None
        return error.exit_code if error.exit_code > 0 else 1
    return 0


@contextmanager
def passed_on(processes: Callable[[], Iterable[BaseProcess]]) -> Iterator[list[int]]:
    """Pass Ctrl-C and SIGTERM on to the processes that there are; the signals that have come, the first one first."""
    told: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        told.append(signum)
        for process in processes():
            signal_to(process, signum)

    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def signal_to(process: BaseProcess, signum: int) -> None:
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, signum)


def told_of_kill(process: str, signum: int) -> str:
    """One line about a process that a signal has ended."""
    names = {each.value: each.name for each in signal.Signals}
    name = names.get(signum, f"signal {signum}")
    why = {
        signal.SIGKILL.value: "as the system does when memory runs out; workers=0 or a smaller batch_size take less",
        signal.SIGBUS.value: "a full disk or /dev/shm is the usual cause (./run.sh doctor)",
    }.get(signum, "from outside, or by a library's fault")
    return f"{process} was ended by {name}, {why}; the same command goes on from the last checkpoint"


def _start_ranked(rank: int, start: Start, arguments: tuple[Any, ...], world: int, complaints: Any) -> None:
    """What a spawned process does: say which of `world` it is, in the environment that Accelerate reads.

    A UserError of any of them is handed to the parent, which shows the first.
    """
    os.setsid()  # a terminal's Ctrl-C then reaches the parent only, which passes it on once
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    try:
        code = start(*arguments)
    except UserError as error:
        complaints.put(str(error))
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _start_on_tpu(index: int, start: Start, arguments: tuple[Any, ...]) -> None:
    os.environ["XLA_PERSISTENT_CACHE_READ_ONLY"] = str(int(index > 0))  # all compile the same: one of them keeps it
    code = start(*arguments)
    if code:
        sys.exit(code)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
