"""This checkout as a small archive, to travel inside a notebook or as a data set: code and configurations, no tests."""

from __future__ import annotations

import io
import lzma
import subprocess
import tarfile
from pathlib import Path

PARTS = ("run.sh", "pyproject.toml", "src/", "configs/", "folds/")
ROOT = Path(__file__).resolve().parents[2]


def code_files(root: Path = ROOT) -> list[str]:
    """Paths below root, sorted: what git tracks or does not ignore; without git, every file."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        found = (path.relative_to(root) for path in root.rglob("*"))
        listed = [str(path) for path in found if "__pycache__" not in path.parts and path.suffix != ".pyc"]
    metrics = {name for name in listed if "/" not in name and name.endswith(".py")}  # of the user's own
    wanted = {name for name in listed if name.startswith(PARTS)} | metrics
    return sorted(name for name in wanted if (root / name).is_file())


def packed(root: Path = ROOT) -> bytes:
    """A tar.xz of `code_files`, the same for the same contents."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in code_files(root):
            contents = (root / name).read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(contents), 0o755 if name.endswith(".sh") else 0o644
            archive.addfile(entry, io.BytesIO(contents))
    return lzma.compress(buffer.getvalue(), preset=9)
