"""Folds trained side by side by real processes: what one process makes of them, whatever happens to one of these."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
