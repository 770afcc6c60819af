"""The next session, with the output of the one before attached and not to be written: it goes on, bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.process.image import attach
from tests.process.starts import Moment, Start, require_same, result

pytestmark = pytest.mark.process
WORDS = ["competition=digits", "fold=all", "stages=[{length: 8 steps}]", "competition.metric=log_loss"]
WORDS += ["average.swa_every=1 steps", "checkpoint.every=0.001"]


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with its size and when it changed."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


def test_a_run_goes_on_from_an_attached_output(
    start_server: Any, command_in: Callable[..., list[str]], tmp_path: Path
) -> None:
    mount = "notebooks/me/training-output"

    def start(place: Path, *more: str, verb: str = "train", at: Moment | None = None) -> tuple[int, str]:
        place.mkdir(exist_ok=True)
        return Start(start_server, [verb, *command_in(place, *more)], place / f"{verb}.log", at).end(600)

    whole, first, second = (tmp_path / name for name in ("whole", "first", "second"))
    assert start(whole, *WORDS)[0] == 0
    code, _ = start(first, *WORDS, at=Moment("os.rename", r"fold1/checkpoints/step\d+\.ckpt$", nth=4))
    assert code == -9 and not (first / "submissions/r.csv").exists()
    attached = attach(first, second / "input", mount)
    before = state_of(attached)
    code, said = start(second, *WORDS)
    assert code == 0, said
    assert f"fold0: finished in an earlier session, from {attached}" in said
    assert "fold1: begun in an earlier session" in said and "going on at step" in said
    require_same(result(second), result(whole))

    third = tmp_path / "third"
    attached_whole = attach(second / "runs", third / "input", f"{mount}/runs")
    whole_before = state_of(attached_whole)
    words = [word for word in command_in(third) if word.startswith("paths.")]
    process = Start(start_server, ["predict", "run=r", "tta=none", *words], third / "predict.log")
    code, said = process.end(600)
    assert code == 0, said
    assert (third / "submissions/r.csv").is_file() and not list(third.glob("runs/r/fold*"))
    assert state_of(attached) == before and state_of(attached_whole) == whole_before
