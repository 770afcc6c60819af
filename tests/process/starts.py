"""Starts of the pipeline as real processes in a tenth of a second: forked from a server that has torch loaded.

A start can be told to send itself a signal at a precise moment, e.g. before a file gets its name: Python's audit events
say when that is, without a change to the code under test.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from src.files import read_json
from tests.drawn import FOLDER, drawn_once
from tests.process.namespaces import enter

PRELOADED = [
    "torch",
    "torch._dynamo",
    "timm",
    "accelerate",
    "accelerate.utils",
    "cv2",
    "hydra",
    "hydra.core.hydra_config",
    "filelock",
    "pandas",
    "safetensors.torch",
    "sklearn.metrics",
    "sklearn.model_selection",
    "matplotlib.pyplot",
    "matplotlib.backends.backend_agg",
    "torch.optim.swa_utils",
    "torch.utils.data",
    "src.recipes.train",
    "src.cli",
    "pytest",
    "tests.process.starts",
]


@dataclass(frozen=True)
class Moment:
    """The `nth` audit event of that name whose path matches the regular expression `path`.

    os.rename comes before a finished file gets its name, os.remove (of the temporary name) right after it, open before
    a file is opened. beyond: if given, the first group of `path` must be a number above it.
    """

    event: str
    path: str
    nth: int = 1
    beyond: int | None = None
    signum: int = signal.SIGKILL


def server(environment: dict[str, str]) -> Any:
    """A multiprocessing context whose processes are forked from one that has everything imported.

    environment: set for it. Its first process takes seconds to start, the others do not.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        warm_up = context.Process(target=int)
        warm_up.start()
        warm_up.join()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


class Start:
    """One start of the command line with these words, its output in a file; environment: what it has beside."""

    def __init__(
        self,
        context: Any,
        words: list[str],
        log: Path,
        at: Moment | None = None,
        file_limit: int | None = None,
        environment: dict[str, str] | None = None,
        forks: bool = False,
        **namespace: Any,
    ) -> None:
        """forks: what it would start as new interpreters is forked, which spares each the seconds of its imports.
        namespace: what `namespaces.enter` takes, if the start is to have one of its own."""
        self.log = log
        arguments = (words, log, at, file_limit, Path(FOLDER.name), environment or {}, forks, namespace)
        self.process: ForkServerProcess = context.Process(target=run, args=arguments)
        self.process.start()

    def work(self) -> float:
        """Seconds of processor time so far, 0 when it is over: unlike the clock's, they do not depend on who else uses
        the machine."""
        try:
            times = psutil.Process(self.process.pid).cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return times.user + times.system

    def kill(self, after: float) -> None:
        """SIGKILL, after so many seconds of processor time."""
        while self.process.is_alive() and self.work() < after:
            time.sleep(0.002)
        self.process.kill()

    def wait_for(self, line: str) -> None:
        """Until a line of the output begins with `line`, or all is over."""
        while self.process.is_alive() and f"\n{line}" not in self.output():
            time.sleep(0.002)

    def signal(self, signum: int, line: str) -> None:
        """Send the signal as soon as a line of the output begins with `line`."""
        self.wait_for(line)
        assert self.process.pid is not None
        os.kill(self.process.pid, signum)

    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def end(self, seconds: float = 900) -> tuple[int, str]:
        """Exit code, negative for a signal, and output, when it is over."""
        self.process.join(seconds)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"no end after {seconds} s:\n{self.output()}")
        return code, self.output()


def result(place: Path, run: str = "r", folds: int = 2) -> dict[str, Any]:
    """Everything that a run leaves behind and that must not depend on when it was stopped, by file name, comparable
    with ==: bytes, and tables without their columns of times."""
    import pandas as pd
    from safetensors.numpy import load_file

    found: dict[str, Any] = {"submission": (place / "submissions" / f"{run}.csv").read_bytes()}
    cv = read_json(place / "runs" / run / "cv.json")
    found["cv.json"] = {key: value for key, value in cv.items() if key not in ("seconds", "run")}
    for k in range(folds):
        folder = place / "runs" / run / f"fold{k}"
        # by tensor: the order of the metadata in the file's header is random
        weights = load_file(folder / "weights.safetensors")
        found[f"fold{k}/weights"] = {key: (value.dtype, value.shape, value.tobytes()) for key, value in weights.items()}
        for name in ("oof", "test"):
            with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
                found[f"fold{k}/{name}"] = {key: (arrays[key].dtype, arrays[key].tobytes()) for key in arrays.files}
        history = pd.read_csv(folder / "history.csv").drop(columns=["images_per_second", "seconds"])
        found[f"fold{k}/history"] = history.to_csv()
        manifest = read_json(folder / "manifest.json")
        found[f"fold{k}/manifest"] = {
            key: value for key, value in manifest.items() if key not in ("seconds", "memory", "run", "made_by")
        }
    return found


def require_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    different = [name for name in expected | found if found.get(name) != expected.get(name)]
    assert not different, f"not as in the unbroken run: {', '.join(different)}"


def require_tidy(place: Path) -> None:
    """Nothing half-written and no checkpoint is left among the runs and submissions below `place`."""
    left = [path for part in ("runs", "submissions") for path in (place / part).rglob("*")]
    left = [path for path in left if path.suffix in (".tmp", ".ckpt")]
    assert not left, left


def run(
    words: list[str],
    log: Path,
    at: Moment | None,
    file_limit: int | None,
    drawn: Path,
    environment: dict[str, str],
    forks: bool,
    namespace: dict[str, Any],
) -> None:
    """In the new process. file_limit: bytes that no file may grow beyond, which a write answers as a full disk does.
    drawn: the folder of pictures that need not be drawn again. forks, namespace: see `Start`."""
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    if file_limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    # a process of a fork server starts its own children by it, too; the loader's workers are forked as usual
    multiprocessing.set_start_method("fork", force=True)
    if forks:
        contexts = multiprocessing.context._concrete_contexts  # type: ignore[attr-defined]
        contexts["spawn"] = contexts["fork"]
    if namespace:
        enter(**namespace)
    if at is not None:
        watch(at)
    from src.cli import main

    with drawn_once(drawn):
        sys.exit(main(words))


def watch(at: Moment) -> None:
    """Send the signal to this very process at that moment."""
    wanted, seen = re.compile(at.path), 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event != at.event or not arguments:
            return
        # of a rename, the second path is the one that counts; images are opened by bytes
        path = arguments[1 if event == "os.rename" else 0]
        found = wanted.search(os.fsdecode(path) if isinstance(path, bytes) else str(path))
        if found and (at.beyond is None or int(found[1]) > at.beyond):
            seen += 1
            if seen == at.nth:
                os.kill(os.getpid(), at.signum)

    sys.addaudithook(hook)
