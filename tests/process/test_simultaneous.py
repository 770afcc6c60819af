"""Two starts at the same time on one machine: what comes out is what they would have made one after the other."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.files import read_json
from tests.process.starts import Moment, Start, require_same, require_tidy, result

pytestmark = pytest.mark.process
WORDS = [
    "competition=digits",
    "stages=[{length: 4 steps, size: 0.75, rows: 0.5}, {length: 6 steps}]",
    "mix.mixup=0.2",
    "checkpoint.every=0.05",
]
BUSY = "is being trained by another process"
Command = Callable[..., list[str]]


@pytest.fixture(scope="module")
def alone(start_server: Any, command_in: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The place of a run whose folds were trained one after the other."""
    place = tmp_path_factory.mktemp("alone")
    for k in range(2):
        code, output = Start(start_server, command_in(place, *WORDS, f"fold={k}"), place / f"log{k}").end()
        assert code == 0, output
    return place


def both(server: Any, place: Path, one: list[str], other: list[str]) -> list[tuple[int, str]]:
    starts = [Start(server, words, place / f"log{number}") for number, words in enumerate((one, other))]
    return [start.end() for start in starts]


def same_fold_file_and_cache(place: Path, alone: Path) -> None:
    assert (place / "folds" / "mini.csv").read_bytes() == (alone / "folds" / "mini.csv").read_bytes()
    files, expected = (sorted((folder / "cache").rglob("*.*")) for folder in (place, alone))
    assert [path.name for path in files] == [path.name for path in expected]
    assert {path.suffix for path in files} == {".pixels", ".shapes"}
    for path, other in zip(files, expected, strict=True):
        assert path.read_bytes() == other.read_bytes()
        if path.suffix == ".shapes":
            assert np.fromfile(path, np.uint16).all(), "each image is in the cache"


@pytest.mark.parametrize("repeat", range(2))
def test_two_folds_of_one_run(repeat: int, start_server: Any, command_in: Command, alone: Path, tmp_path: Path) -> None:
    words = [command_in(tmp_path, *WORDS, f"fold={k}") for k in range(2)]
    for code, output in both(start_server, tmp_path, *words):
        assert code == 0, output
    require_same(result(tmp_path), result(alone))
    require_tidy(tmp_path)
    same_fold_file_and_cache(tmp_path, alone)


@pytest.mark.parametrize("repeat", range(2))
def test_the_same_fold_twice(repeat: int, start_server: Any, command_in: Command, alone: Path, tmp_path: Path) -> None:
    words = command_in(tmp_path, *WORDS, "fold=0")
    ends = both(start_server, tmp_path, words, words)
    codes = sorted(code for code, _ in ends)
    loser = max(ends)[1] if codes == [0, 2] else ""
    assert codes == [0, 2], ends
    assert [line for line in loser.splitlines() if BUSY in line] == [f"error: {tmp_path}/runs/r/fold0 {BUSY}"]
    code, output = Start(start_server, command_in(tmp_path, *WORDS, "fold=1"), tmp_path / "log1").end()
    assert code == 0, output
    require_same(result(tmp_path), result(alone))
    require_tidy(tmp_path)


def test_two_runs(start_server: Any, command_in: Command, alone: Path, tmp_path: Path) -> None:
    words = [command_in(tmp_path, *WORDS, "fold=all", f"run={name}") for name in ("r", "s")]
    for code, output in both(start_server, tmp_path, *words):
        assert code == 0, output
    for name in ("r", "s"):
        require_same(result(tmp_path, name), result(alone))
    require_tidy(tmp_path)
    same_fold_file_and_cache(tmp_path, alone)


@pytest.mark.parametrize("repeat", range(2))
def test_all_folds_twice(repeat: int, start_server: Any, command_in: Command, alone: Path, tmp_path: Path) -> None:
    """They share the folds between them, and who ends last has seen both."""
    words = command_in(tmp_path, *WORDS, "fold=all")
    ends = both(start_server, tmp_path, words, words)
    for code, output in ends:
        assert code == 0, output
    output = ends[0][1] + ends[1][1]
    assert f"fold0 {BUSY}: left to it" in output or "fold0 is finished already: skipped" in output
    assert [output.count(f"fold {k}: accuracy") for k in range(2)] == [1, 1], "each fold is trained once"
    assert list(read_json(tmp_path / "runs/r/cv.json")["folds"]) == ["0", "1"]
    require_same(result(tmp_path), result(alone))
    require_tidy(tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_lock_of_a_killed_process_does_not_block(
    workers: int, start_server: Any, command_in: Command, alone: Path, tmp_path: Path
) -> None:
    """Nor does that of its loader's workers, which have inherited it."""
    words = command_in(tmp_path, *WORDS, "fold=all", f"workers={workers}", "checkpoint.every=0.001")  # each step
    at = Moment("os.rename", r"fold0/checkpoints/step\d+\.ckpt$", nth=2)
    code, output = Start(start_server, words, tmp_path / "log", at).end()
    assert code == -signal.SIGKILL, output
    assert (tmp_path / "runs/r/.fold0.lock").exists()
    code, output = Start(start_server, words, tmp_path / "log-again").end()
    assert code == 0, output
    assert BUSY not in output
    assert "going on at step" in output
    require_same(result(tmp_path), result(alone))
