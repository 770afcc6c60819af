"""A W&B key in a place without a network: folds are tracked offline, said in one line."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

pytestmark = pytest.mark.process

FOLDS = """
import sys, time
from pathlib import Path
from src.tracking import start_tracking

for fold in range(2):
    folder, began = Path(sys.argv[1]) / f"fold{fold}", time.monotonic()
    tracker = start_tracking("auto", project="p", entity=None, run="r", fold=fold, folder=folder, config={"size": 8})
    took = time.monotonic() - began
    for step in (1, 2):
        tracker.log({"step": step, "loss": 1 / step})
    print(f"fold {fold}: {took:.1f} s |{tracker.finish()}", flush=True)
"""


def no_network() -> list[str]:
    """What starts a command where there is no interface, not even the machine's own."""
    for words in (["unshare", "-n"], ["unshare", "-rn"]):
        if shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True).returncode == 0:
            return words
    pytest.skip("no network namespaces here")


def test_a_key_without_a_network(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    done = subprocess.run(
        [*no_network(), sys.executable, "-c", FOLDS, str(tmp_path)],
        cwd=REPO,
        env={**environment, "WANDB_API_KEY": "0" * 40},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    first, *folds = done.stdout.splitlines()
    assert first == "W&B: https://api.wandb.ai does not answer, tracking offline"
    assert len(folds) == 2
    places = []
    for fold, line in enumerate(folds):
        command = shlex.split(line.partition("|")[2])
        assert command[:2] == ["wandb", "sync"] and len(command) == 3
        (file,) = Path(command[2]).glob("run-*.wandb")
        assert f"fold{fold}" in str(file) and b"loss" in file.read_bytes()
        places.append(command[2])
    sync = [
        sys.executable,
        "-m",
        "wandb",
        "sync",
        "--dry-run",
        *places,
    ]  # the command as it is printed, but for sending
    seen = subprocess.run(sync, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert seen.returncode == 0 and all(Path(place).name in seen.stdout + seen.stderr for place in places), seen
