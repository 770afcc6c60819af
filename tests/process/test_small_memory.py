"""A whole training where /dev/shm has the 64 MB of many containers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.files import read_json
from src.predictions import load_predictions
from tests.process.namespaces import require_mounts
from tests.process.starts import Start

pytestmark = pytest.mark.process
# A batch of the held-out rows, 60 in five views of 288 px, has 75 MB.
WORDS = ["competition=folder", "workers=2", "size=288", "batch_size=30", "eval.batch_size=60", "tta=crops", "epochs=1"]
WORDS += ["average.ema=0", "average.swa=false"]


def test_a_training_with_loader_workers(start_server: Any, command: Callable[..., list[str]], tmp_path: Path) -> None:
    """It ends, with all that belongs to a fold; a second start finds it finished."""
    require_mounts(root=True)

    def start(name: str) -> str:
        code, out = Start(start_server, command(*WORDS), tmp_path / name, shared_memory="64m").end(600)
        assert code == 0, out
        return out

    assert "/dev/shm has no room for batches of this size: they come through pipes" in start("first.log")
    fold = tmp_path / "runs" / "r" / "fold0"
    assert read_json(fold / "manifest.json")["fold"] == 0 and (fold / "weights.safetensors").is_file()
    assert len(load_predictions(fold / "oof.npz").ids) == 60 and len(load_predictions(fold / "test.npz").ids) == 30
    assert (tmp_path / "runs" / "r" / "cv.json").is_file() and (tmp_path / "submissions" / "r.csv").is_file()
    assert "is finished already" in start("second.log")
