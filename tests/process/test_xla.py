"""The TPU path on XLA's CPU device: needs an interpreter with torch_xla, which the newest torch has none for."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from src.artefacts import load_predictions

pytestmark = pytest.mark.process
REPO = Path(__file__).resolve().parent.parent.parent
PYTHON = os.environ.get("XLA_PYTHON", "")


@pytest.mark.skipif(not PYTHON, reason="set XLA_PYTHON to a Python that has torch 2.8 and torch_xla 2.8")
def test_a_fold_on_an_xla_device_is_that_on_the_cpu(command: Callable[..., list[str]], tmp_path: Path) -> None:
    """The same batches, weights and steps; what differs is the order of sums in fp32."""
    words = ["competition=digits", "processes=1", "size=32", "batch_size=16", "mix.cutmix=1.0", "mix.mixup=0.2"]
    stages = "stages=[{length: 4 steps}, {length: 4 steps, size: 1.5}]"
    for device, says in (("tpu", "1 x xla:0"), ("cpu", "1 x cpu")):
        run = subprocess.run(
            [PYTHON, "-m", "src.cli", *command(*words, stages, f"device={device}", f"run={device}")],
            cwd=REPO,
            capture_output=True,
            text=True,
            timeout=900,
            env={**os.environ, "PJRT_DEVICE": "CPU"},
        )
        assert run.returncode == 0, run.stderr[-3000:]
        assert says in run.stdout
        assert (tmp_path / "submissions" / f"{device}.csv").is_file()
    for name in ("oof.npz", "test.npz"):
        xla, cpu = (load_predictions(tmp_path / "runs" / device / "fold0" / name) for device in ("tpu", "cpu"))
        assert list(xla.ids) == list(cpu.ids)
        assert np.ptp(cpu.pred, axis=0).max() > 0.01, "predictions that can differ"
        np.testing.assert_allclose(xla.pred, cpu.pred, atol=1e-3)
