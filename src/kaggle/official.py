"""Kaggle's own command line, `kaggle`: found, asked, and its answers read. It is not one of our dependencies."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from src.errors import MissingPackage, UserError

DONE = re.compile(r"complete|error|fail", re.IGNORECASE)


def ask(*words: str, check: bool = True) -> str:
    """What `kaggle words…` prints. Raises UserError if it is not installed, or fails and `check`."""
    beside = str(Path(sys.executable).parent)  # of an environment that is not activated
    command = shutil.which("kaggle", path=os.pathsep.join((os.environ.get("PATH", ""), beside)))
    if command is None:
        raise MissingPackage(
            "kaggle: the official command is not installed; pip install kaggle, and put a token of your account's "
            "settings page into ~/.kaggle"
        )
    done = subprocess.run([command, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    said = (done.stdout + done.stderr).strip()
    if check and (done.returncode or re.search(r"^Kernel push error|^Dataset creation error", said, re.MULTILINE)):
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        raise UserError(f"kaggle {' '.join(words)}: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return said


def user_name(given: str | None) -> str:
    """The account that notebooks and data sets belong to. Raises UserError if nobody says."""
    if given or os.environ.get("KAGGLE_USERNAME"):
        return given or os.environ["KAGGLE_USERNAME"]
    try:
        found = re.search(r"^- username: (?!None)(\S+)", ask("config", "view"), re.MULTILINE)
    except UserError:
        found = None
    if found is None:
        raise UserError("kaggle: whose account? Give user=NAME, or set KAGGLE_USERNAME")
    return found[1]


def upload_dataset(folder: Path, name: str) -> str:
    """Create the data set `owner/slug` of the files in `folder`, or a new version of it."""
    place = ["-p", str(folder), "--dir-mode", "zip"]
    if "ready" in ask("datasets", "status", name, check=False).lower():
        return ask("datasets", "version", *place, "-m", "made again")
    return ask("datasets", "create", *place)


class Submission(NamedTuple):
    """As Kaggle lists it; scores are "" until there are some."""

    date: str
    description: str
    status: str
    public: str
    private: str

    @property
    def over(self) -> bool:
        return bool(self.public or DONE.search(self.status))


def submissions(competition: str) -> list[Submission]:
    """Newest first, as they are listed."""
    lines = ask("competitions", "submissions", "-c", competition, "--csv").splitlines()
    start = next((number for number, line in enumerate(lines) if "description" in line and "," in line), len(lines))
    rows = csv.DictReader(lines[start:])
    names = ("date", "description", "status", "publicScore", "privateScore")
    return [Submission(*(str(row.get(name) or "").strip() for name in names)) for row in rows]
