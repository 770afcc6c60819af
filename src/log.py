"""Printing once, whatever the number of processes, and how far work has come: a bar in a terminal, lines elsewhere."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

# Seconds between two lines about one piece of work: a notebook keeps every one, for hours.
BETWEEN_LINES = 30.0
_speaks = True
_said: set[str] = set()

KERNEL = "KFOLD_KERNEL"  # of the environment: a notebook's kernel has started this


def speak(first: bool) -> None:
    """Whether this process is the one that prints. Told once, where the processes learn which they are: the
    environment does not say it on a TPU."""
    global _speaks
    _speaks = first


def is_first() -> bool:
    """Whether this is the process that prints."""
    return _speaks


def say(line: str) -> None:
    """Print from the first process, at once: a notebook shows what is flushed."""
    if _speaks:
        print(line, flush=True)


def say_once(line: str) -> None:
    """`say`, but not what this process has printed in this way before."""
    if line not in _said:
        _said.add(line)
        say(line)


def forget_backend() -> None:
    """Draw as if no kernel had started this process. Its MPLBACKEND may be of a package that is not here, and
    matplotlib could then not be imported; that there is a kernel stays known."""
    if os.environ.get("MPLBACKEND", "").startswith("module://"):
        os.environ.update({"MPLBACKEND": "agg", KERNEL: "1"})


def draws_bars(environment: Mapping[str, str] | None = None) -> bool:
    """Whether somebody looks at a terminal. A notebook's `!` runs its commands in one that nobody sees: each message of
    a bar would be kept, ten a second."""
    known = os.environ if environment is None else environment
    in_notebook = (
        known.get("KAGGLE_KERNEL_RUN_TYPE")
        or known.get("COLAB_RELEASE_TAG")
        or known.get("JPY_PARENT_PID")
        or known.get(KERNEL)
        or known.get("MPLBACKEND", "").startswith("module://")  # a kernel's, which its children inherit
    )
    return not in_notebook and known.get("TERM") != "dumb" and sys.stderr.isatty()


class Labelled(io.TextIOBase):
    """Text for the open file `descriptor` whose every line begins with a label and is written in one piece, so that
    those of several processes can be told apart. Nobody is taken to look at it in a terminal."""

    encoding = "utf-8"

    def __init__(self, label: str, descriptor: int) -> None:
        self.label, self.descriptor, self.begun = label, descriptor, ""

    def write(self, text: str) -> int:
        *lines, self.begun = (self.begun + text).split("\n")
        whole = "".join(f"{self.label}{line}".rstrip() + "\n" for line in lines).encode(errors="replace")
        while whole:
            whole = whole[os.write(self.descriptor, whole) :]
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor


class Ticker:
    """Counts what is done of `total`, in a terminal as a bar, elsewhere as a line now and then; only in the process
    that prints. Nothing is seen of what is over sooner."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self.bar: Any = None
        self.began = self.spoke = time.monotonic()
        if _speaks and draws_bars():
            from tqdm import tqdm

            self.bar = tqdm(total=total, desc=what, dynamic_ncols=True, leave=False, delay=2.0)

    def step(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(count)
        elif now - self.spoke > BETWEEN_LINES:
            self.spoke = now
            left = clock((self.total - self.done) * (now - self.began) / self.done)
            say(f"{self.what}: {self.done / self.total:.0%}, {left} left")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def clock(seconds: float) -> str:
    """75 -> 1m15s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
