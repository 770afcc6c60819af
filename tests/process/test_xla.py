"""The TPU path on XLA's CPU device: needs an interpreter with torch_xla, which the newest torch has none for."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from src.predictions import load_predictions

pytestmark = pytest.mark.process
REPO = Path(__file__).resolve().parent.parent.parent
PYTHON = os.environ.get("XLA_PYTHON", "")


@pytest.mark.skipif(not PYTHON, reason="set XLA_PYTHON to a Python that has torch 2.8 and torch_xla 2.8")
def test_a_fold_trains_and_predicts_on_an_xla_device(command: Callable[..., list[str]], tmp_path: Path) -> None:
    words = ["competition=digits", "device=tpu", "processes=1", "size=32", "mix.cutmix=1.0", "mix.mixup=0.2"]
    run = subprocess.run(
        [PYTHON, "-m", "src.cli", *command(*words, "stages=[{length: 8 steps}]")],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PJRT_DEVICE": "CPU"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "1 x xla:0" in run.stdout
    oof = load_predictions(tmp_path / "runs" / "r" / "fold0" / "oof.npz")
    np.testing.assert_allclose(oof.pred.sum(1), 1, atol=1e-4)
    assert (tmp_path / "submissions" / "r.csv").is_file()
