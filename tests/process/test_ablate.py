"""An ablation that is stopped, killed, and started twice at once: every fold is trained once, the table is complete."""

from __future__ import annotations

import csv
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.process.starts import Moment, Start

pytestmark = pytest.mark.process
WORDS = [
    "competition=digits", "preset=scratch", "stages=[{length: 12 steps}]", "tta=none", "average.swa=false",
    "checkpoint.every=0.05", "run=study", "tricks=[mixup,smoothing]", "loss.smoothing=0", "seeds=2", "folds=[0,1]",
]  # fmt: skip


def test_stopped_killed_and_started_twice(
    start_server: Any, command_in: Callable[..., list[str]], tmp_path: Path
) -> None:
    words, place = ["ablate", *command_in(tmp_path, *WORDS)], tmp_path / "runs" / "study"

    def table() -> dict[str, str]:
        with open(place / "ablate.csv", encoding="utf-8", newline="") as file:
            return {row["trick"]: row["pairs"] for row in csv.DictReader(file)}

    stop = Moment("os.rename", r"mixup-s0/fold1/checkpoints/", signum=signal.SIGTERM)
    code, output = Start(start_server, words, tmp_path / "stopped", stop).end()
    assert code == 143, output
    assert "[5/12]" not in output and "the same command goes on from there" in output
    assert table() == {"mixup": "1", "smoothing": "1"}, "of what is finished"

    kill = Moment("os.rename", r"smoothing-s0/fold1/checkpoints/")
    code, output = Start(start_server, words, tmp_path / "killed", kill).end()
    assert code == -signal.SIGKILL, output

    starts = [Start(start_server, words, tmp_path / f"log{number}") for number in range(2)]
    for start in starts:
        code, output = start.end()
        assert code == 0, output
        assert "error" not in output
    code, output = Start(start_server, words, tmp_path / "last").end()
    assert code == 0 and "12 folds to train, 12 of them finished" in output
    assert table() == {"mixup": "4", "smoothing": "4"}
    # a fold says how long it trained when it is over; several processes write this file, line by line
    ended = Counter(re.findall(r"wrote (\S+) and ", (place / "log.txt").read_text()))
    assert sum(ended.values()) >= 12 and len(ended) == 6
    trained = re.findall(r"fold \d: accuracy [\d.]+, trained in", (place / "log.txt").read_text())
    assert len(trained) == 12, "none twice"
