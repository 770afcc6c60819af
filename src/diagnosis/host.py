"""Memory, shared memory, disk and time of the machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.diagnosis.finding import GB, Finding, ok, problem, size, warning

PREFETCHED = 4 + 1  # batches of a loader process that wait, and the one that it makes


@dataclass(frozen=True)
class Disk:
    """Of the disk that a folder is, or would be, on. free: bytes; writable: whether anything can be made in it."""

    folder: Path
    free: float
    writable: bool


def read_disk(folder: Path) -> Disk:
    """Makes nothing: of a folder that is not there yet, the one above it is asked."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    return Disk(folder, shutil.disk_usage(there).free, there.is_dir() and os.access(there, os.W_OK | os.X_OK))


def check_memory(free: float, limit: float, processes: int, workers: int) -> Finding:
    """free, limit: bytes that this machine or its container has left, and has. A process that trains takes 1.5 GB with
    its libraries (CUDA's included), a loader process 0.2 GB of its own."""
    needed = processes * (1.5 + 0.2 * workers) * GB
    seen = f"{size(free)} free of {size(limit)}"
    if free < needed:
        seen += f", {processes} x (1 + {workers} loading) processes want {size(needed)}"
        return problem("memory", seen, "end what else runs, say workers=0, or take a larger machine")
    if free < 2 * needed:
        return warning("memory", seen, "smaller batch_size, size or workers leave room")
    return ok("memory", seen)


def check_shared_memory(free: float | None, needed: float, workers: int) -> Finding:
    """/dev/shm, through which loader processes hand over their batches. free: bytes, None where there is no such place;
    needed: bytes."""
    if free is None:
        return ok("/dev/shm", "not on this system")
    seen = f"{size(free)} free, {size(needed)} for the batches on their way"
    if workers and free < needed:
        return problem("/dev/shm", seen, "start the container with --shm-size=8g, or say workers=0")
    return ok("/dev/shm", seen)


def bytes_on_their_way(batch: int, side: int, bytes_per_pixel: int, windows: int, workers: int, processes: int) -> int:
    """Of the largest batches: training ones, or those of a prediction, twice as large and with several windows each."""
    return 2 * batch * windows * side**2 * bytes_per_pixel * PREFETCHED * workers * processes


def check_disks(disks: Mapping[str, Disk], cache: bool) -> list[Finding]:
    """By key (paths.runs …). Decoded images are not kept where there is too little room, so that is a warning."""
    found = []
    for key, disk in disks.items():
        seen = f"{disk.folder}: {size(disk.free)} free"
        if not disk.writable:
            found.append(problem(key, f"{disk.folder}: cannot be written to", f"give another folder, {key}=DIR"))
        elif disk.free < (0.1 if key == "paths.submissions" else 1.0) * GB:
            found.append(problem(key, seen, f"free some disk, or give another folder, {key}=DIR"))
        elif key == "paths.cache" and cache and disk.free < 5 * GB:
            found.append(warning(key, seen, "images may have to be decoded whenever they are needed; free some disk"))
        else:
            found.append(ok(key, seen))
    return found


def check_session(left: float | None, limit: str) -> Finding:
    """left: seconds of a notebook's session, None anywhere else; limit: the key's value, which Kaggle does not tell."""
    if left is None:
        return ok("session", "no notebook: no limit")
    hours, minutes = divmod(round(max(left, 0) / 60), 60)
    seen = f"{hours}h{minutes:02d}m left of {limit}"
    if left <= 0:
        return problem("session", seen, "start a new session; session.limit=… if it is longer than that")
    if left < 1800:
        return warning("session", seen, "a fold may not fit; it goes on in the next session")
    return ok("session", seen)


def check_versions(
    absent: Sequence[str], versions: Mapping[str, str], python: tuple[int, int], offline: bool
) -> Finding:
    """absent: requirement lines that are not met; versions: of what is installed."""
    shown = ", ".join(f"{name} {version}" for name, version in versions.items())
    seen = f"Python {python[0]}.{python[1]}, {shown}"
    if python < (3, 11):
        return problem("packages", seen, "take Python 3.11 or newer")
    if absent:
        cure = "attach a dataset of wheels that has them" if offline else "start ./run.sh again, which installs them"
        return problem("packages", f"{seen}; missing: {', '.join(absent)}", cure)
    return ok("packages", seen)


def check_backend(environment: Mapping[str, str]) -> Finding:
    """MPLBACKEND, which a notebook's kernel exports: pictures are drawn without any window or kernel."""
    backend = environment.get("MPLBACKEND")
    return ok("pictures", "drawn to files" + (f", whatever MPLBACKEND={backend} says" if backend else ""))
