"""Asking the internet without waiting for it."""

from __future__ import annotations

import threading
from collections.abc import Callable


def answers_within(ask: Callable[[], bool], seconds: float) -> bool:
    """Whether `ask` says yes in that time. In a thread, because the resolution of names knows no time limit."""
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(ask()), daemon=True)
    thread.start()
    thread.join(seconds)
    return any(found)
