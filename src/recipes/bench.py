"""Measure against other libraries: one of benchmarks/, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from src.errors import UserError, nearest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ("loader", "training", "accuracy", "finetune", "inference", "parallel", "scale", "profile_loader", "gpu")


def bench(name: str = "", *words: str) -> int:
    """Run benchmarks/<name>.py, whose threads are set before torch is loaded there. Its exit code."""
    if name not in BENCHMARKS:
        raise UserError(f"bench {name}: choose one of {', '.join(BENCHMARKS)}{nearest(name, BENCHMARKS)}")
    cores = "1" if name in ("loader", "profile_loader") else str(os.cpu_count())
    threads = {key: os.environ.get(key, cores) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, "-m", f"benchmarks.{name}", *words]
    return subprocess.call(command, cwd=ROOT, env={**os.environ, **threads})
