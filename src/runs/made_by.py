"""What made a fold: the command, the code and the packages, for the day on which it is to be made again."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

COMMAND = "KFOLD_COMMAND"  # of the environment, which launched processes inherit
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "opencv-python-headless", "albumentations")
ROOT = Path(__file__).resolve().parents[2]


def remember_command(words: Sequence[str]) -> None:
    os.environ[COMMAND] = shlex.join(["./run.sh", *words]).replace("\0", "")


def made_by() -> dict[str, str]:
    """The command as it was typed, commit where the code is a clone with git, Python and the packages that decide."""
    found = {"command": os.environ.get(COMMAND, ""), "commit": commit(), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {name: value for name, value in found.items() if value}


def commit(root: Path = ROOT) -> str:
    """The commit of the checkout, with a note if files differ from it; empty where git does not know."""
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    if head.returncode:
        return ""
    return head.stdout.strip() + (" and changes that are not committed" if changed.stdout.strip() else "")
