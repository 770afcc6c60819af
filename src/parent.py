"""A process that does not outlive the one that has started it."""

from __future__ import annotations

import ctypes
import os
import sys


def signalled_without(parent: int, signum: int) -> None:
    """Get the signal when the process `parent` has ended, in whatever way; where the system is Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(signum))  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it was quicker
            os.kill(os.getpid(), signum)
