"""Commands in namespaces of their own: little shared memory, or folders that refuse to be written, also by root.

Where such namespaces are not allowed, as in many containers, the tests that need one are skipped.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

NEW_MOUNTS = 0x00020000  # CLONE_NEWNS
READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'


def in_namespace(script: str, words: Sequence[str], *more: str) -> list[str]:
    """A command that runs the shell's `script` on `words`, which may mount what it likes. more: options of unshare."""
    return ["unshare", *([] if os.geteuid() == 0 else ["-r"]), "-m", *more, "bash", "-c", script, "bash", *words]


def in_small_memory(command: Sequence[str], size: str) -> list[str]:
    """A command whose /dev/shm has so much room."""
    return in_namespace(f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"', command)


def as_container(folder: Path, command: Sequence[str]) -> list[str]:
    """A command that cannot write below `folder` and whose first process, as of a container, began with it."""
    return in_namespace(READ_ONLY, [str(folder), *command], "--pid", "--fork", "--kill-child", "--mount-proc")


@functools.cache
def may_mount() -> bool:
    try:
        tried = [in_small_memory(["true"], "1m"), as_container(Path(__file__).parent, ["true"])]
        return all(subprocess.run(words, capture_output=True, timeout=60).returncode == 0 for words in tried)
    except (OSError, subprocess.TimeoutExpired):
        return False


def require_mounts(root: bool = False) -> None:
    """Skip the test where there are no mount namespaces. root: where a process cannot enter one by itself either."""
    if not may_mount() or (root and os.geteuid()):
        pytest.skip("no mount namespaces here")


def enter(read_only: Sequence[Path] = (), shared_memory: str | None = None) -> None:
    """Move this process to a namespace of its own, where folders cannot be written, or /dev/shm has that size."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_MOUNTS):
        raise OSError(ctypes.get_errno(), "unshare")
    mount("--make-rprivate", "/")
    for folder in map(str, read_only):
        mount("--bind", folder, folder)
        mount("-o", "remount,ro,bind", folder)
        assert not os.access(folder, os.W_OK), f"{folder} can be written"
    if shared_memory is not None:
        mount("-t", "tmpfs", "-o", f"size={shared_memory}", "tmpfs", "/dev/shm")


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)
