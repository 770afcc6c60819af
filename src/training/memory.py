"""Memory on the host: what a process keeps for the next step, the peak of what it uses, and what is left for it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# mallopt's names for its settings, from malloc.h
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Let the process keep the memory of tensors that are freed, for the next ones; where the C library is glibc.

    By itself glibc gives every block above 32 MB back to the kernel, which maps and clears it again, page by page, in
    the next step: a training step of resnet18 at 128 px, batch 32, took 0.67 s on two cores instead of 0.46, and to
    normalise a batch of 64 images of 224 px took 0.83 ms an image instead of 0.19.
    """
    malloc = _glibc()
    if malloc is not None:
        malloc.mallopt(MMAP_MAX, 0)
        malloc.mallopt(TRIM_THRESHOLD, -1)  # never
        malloc.mallopt(TOP_PAD, 2**26)  # the heap grows by 64 MB at a time


def _glibc() -> Any:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "gnu_get_libc_version") else None


def count_memory(device: torch.device) -> Callable[[], int]:
    """Begin to watch this process' memory; what is returned says the peak in bytes since then.

    On CUDA the memory of tensors on the device, elsewhere the resident memory of the process, interpreter and libraries
    included. Where the kernel cannot forget an earlier peak (Linux can), the peak is that of the whole process.
    """
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return lambda: torch.cuda.max_memory_allocated(device)
    malloc = _glibc()
    if malloc is not None:
        malloc.malloc_trim(0)  # what `keep_freed_memory` keeps is of no use to what is counted from here on
    with suppress(OSError):  # 5 in clear_refs resets VmHWM; man 5 proc
        Path("/proc/self/clear_refs").write_text("5")
    return resident_peak


def resident_peak() -> int:
    """Bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if "VmHWM" in lines:
            return 1024 * int(lines["VmHWM"].split()[0])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


# ---- what is left ---------------------------------------------------------------------------------------------------

CGROUPS = Path("/sys/fs/cgroup")
# By version of Linux' control groups: the folder, its limit, what is used, and the line of memory.stat that counts
# what of it are pages of files, which the kernel takes back when memory is asked for.
VERSIONS = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def memory_limit(groups: Path = CGROUPS) -> int | None:
    """Bytes that the container of this process may use; None without a limit."""
    limits = [limit for folder, name, _, _ in VERSIONS if (limit := _number(groups / folder / name)) is not None]
    return min((limit for limit in limits if limit < 2**60), default=None)  # version 1 says "none" by a huge number


def free_memory(groups: Path = CGROUPS) -> int:
    """Bytes that this machine, or the container that the process is in, has left."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for folder, name, used, files in VERSIONS:
        limit, taken = _number(groups / folder / name), _number(groups / folder / used)
        if limit is not None and taken is not None:
            statistics = groups / folder / "memory.stat"
            lines = statistics.read_text().splitlines() if statistics.is_file() else []
            back = sum(int(line.split()[1]) for line in lines if line.startswith(f"{files} "))
            free = min(free, max(0, limit - taken + min(back, taken)))
    return free


def _number(file: Path) -> int | None:
    """What a file of one number holds; None where it is not there or says max."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


# ---- when it is not enough ------------------------------------------------------------------------------------------


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that host or device has no memory for a tensor."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # torch's CPU allocator, what cuDNN and cuBLAS make of it, and XLA
    signs = ("can't allocate memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED", "RESOURCE_EXHAUSTED",
             "out of memory")  # fmt: skip
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def worker_killed(error: BaseException) -> bool:
    """Whether an error is torch's word that a loader process has died."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


def in_one_line(error: BaseException, where: str = "") -> str | None:
    """What to tell of an error that means "too little memory", with the cure; None of any other. where: what was being
    done."""
    text = " ".join(str(error).split())
    if worker_killed(error):
        if "bus error" in text.lower() or "shared memory" in text.lower():
            cure = "/dev/shm is too small: start the container with --shm-size=8g, or say workers=0"
        else:
            cure = "too little memory is the usual cause: fewer of them, workers=1 or workers=0, take less"
        return f"workers: a loader process was killed{where}; {cure}"
    if out_of_memory(error):
        return (
            f"batch_size: out of memory{where}; batch_size=auto finds the largest that fits, "
            "a smaller eval.batch_size or size helps predictions, augment_on=workers takes images off the card, "
            "and another program may hold it (nvidia-smi)"
        )
    return None
