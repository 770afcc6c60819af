"""Folds trained side by side by real processes: what one process makes of them, whatever happens to one of these."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.files import read_json
from tests.process.starts import Start, require_same, require_tidy, result

pytestmark = pytest.mark.process
WORDS = ["competition=digits", "fold=all", "device=cpu", "checkpoint.every=0.001"]
# The first process to score a second time is killed; none later. By then six steps have been taken, and as a checkpoint
# waits for the one before it, at least the fourth is on the disk, however slow that is.
METRIC = """
import os, signal
from pathlib import Path

calls = 0

def share(y_true, y_pred):
    global calls
    calls += 1
    try:
        if calls != 2:
            raise FileExistsError
        os.close(os.open(Path(__file__).with_name("killed"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return float((y_true == y_pred).mean())
    os.kill(os.getpid(), signal.SIGKILL)

share.greater_is_better = True
share.of = "labels"
"""


def test_a_killed_fold_goes_on_and_all_are_those_of_one_process(
    start_server: Any, command_in: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(METRIC)
    words = [*WORDS, f"competition.metric={tmp_path / 'own.py'}:share"]
    several = command_in(tmp_path, *words, "processes=2")
    code, output = Start(start_server, several, tmp_path / "log").end()
    assert code == 137, output
    assert output.count("was ended by SIGKILL") == 1
    assert len(list(tmp_path.glob("runs/r/fold*/manifest.json"))) == 1, "the other fold is finished"
    code, output = Start(start_server, several, tmp_path / "again", forks=True).end()
    assert code == 0, output
    assert output.count("is finished already: skipped") == 1 and output.count("| going on at step") == 1
    assert output.count("  mean ") == 1, "one table, of the process that started them"
    require_tidy(tmp_path)

    one = command_in(tmp_path, *words, "processes=1", "run=one")
    code, output = Start(start_server, one, tmp_path / "one").end()
    assert code == 0, output
    require_same(result(tmp_path), result(tmp_path, "one"))


def test_a_time_budget_is_one_deadline_for_all(
    start_server: Any, command_in: Callable[..., list[str]], tmp_path: Path
) -> None:
    """It cuts the first two folds, leaves nothing for the others, and says both; the next start trains of these what
    its own time allows."""
    words = command_in(tmp_path, *WORDS, "folds.n=4", "epochs=400", "processes=2", "time_budget=7s")
    code, output = Start(start_server, words, tmp_path / "log", forks=True).end()
    assert code == 0, output
    assert shares(tmp_path) == {0: "cut", 1: "cut"}, output
    for k in range(2):
        assert re.search(rf"^fold {k} \| time_budget: \d+s left, for 1 of 2 folds$", output, re.MULTILINE), output
        assert re.search(rf"^fold {k} \| time_budget: \d+% of the steps still to come$", output, re.MULTILINE), output
    for k in range(2, 4):  # both at once, or fold 3 is not even begun when fold 2 has met the deadline
        told = rf"^fold {k} \| time_budget: \ds left, too little for this fold|^time_budget: fold {k} not begun$"
        assert re.search(told, output, re.MULTILINE), output

    code, output = Start(start_server, words, tmp_path / "again", forks=True).end()
    assert code == 0, output
    assert output.count("is finished already: skipped") == 2
    assert set(shares(tmp_path)) > {0, 1}, "as little time as before, and yet it goes on"
    folds = read_json(tmp_path / "runs" / "r" / "cv.json")["folds"]
    assert list(folds) == [str(k) for k in shares(tmp_path)]


def shares(place: Path) -> dict[int, str]:
    """Of each finished fold, whether a time budget has left it all of its steps."""
    manifests = {k: place / "runs" / "r" / f"fold{k}" / "manifest.json" for k in range(4)}
    found = {k: read_json(path)["shortened_to"] for k, path in manifests.items() if path.is_file()}
    return {k: "whole" if share == 1 else "cut" for k, share in found.items()}
