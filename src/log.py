"""Printing once, whatever the number of processes."""

from __future__ import annotations

_speaks = True
_said: set[str] = set()


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
