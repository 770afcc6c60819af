"""The TPU path on XLA's CPU device: needs an interpreter with torch_xla, which the newest torch has none for."""

from __future__ import annotations

import os
import re
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


COUNTED = """
import sys
from src.cli import main

code = main(sys.argv[1:])
import torch_xla.debug.metrics as metrics

compiled = metrics.metric_data("CompileTime")
print("compilations", compiled[0] if compiled else 0, "of graphs", metrics.counter_value("UncachedCompile") or 0)
sys.exit(code)
"""
STAGES = "stages=[{length: 50%, size: 0.75}, {length: 50%}]"


@pytest.mark.skipif(not PYTHON, reason="set XLA_PYTHON to a Python that has torch 2.8 and torch_xla 2.8")
def test_steps_are_not_compiled_again(command: Callable[..., list[str]], tmp_path: Path) -> None:
    """What is compiled are the shapes of each stage, in training and in prediction, and never a step again: 27 graphs
    were counted for 2 epochs, 31 for 6 epochs, which have 14 steps more."""
    environment = {**os.environ, "PJRT_DEVICE": "CPU"}
    found = []
    for epochs in (2, 6):
        words = ["competition=digits", "device=tpu", "processes=1", "size=32", "mix.cutmix=1.0", "mix.mixup=0.2"]
        run = subprocess.run(
            [PYTHON, "-c", COUNTED, *command(*words, STAGES, f"epochs={epochs}", f"run=r{epochs}")],
            cwd=REPO, capture_output=True, text=True, timeout=900, env=environment,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr[-3000:]
        found.append(int(re.search(r"^compilations (\d+)", run.stdout, re.MULTILINE)[1]))  # type: ignore[index]
    assert 0 < found[0] < 40 and found[1] < found[0] + 7, found


ARITHMETIC = """
import torch
from torch import nn
from types import SimpleNamespace
from src.training.averaging import Ema
from src.training.device import end_step, make_accelerator
from src.training.learner import Learner

accelerator = make_accelerator("tpu", "bf16")
device = accelerator.device
layer = nn.Linear(4, 3).to(device)
nn.init.ones_(layer.weight), nn.init.zeros_(layer.bias)
ema = Ema(layer, 0.999)
with torch.no_grad():
    layer.weight.fill_(2.0)
x, running = torch.ones(8, 4, device=device), torch.zeros((), device=device)
with accelerator.autocast():
    assert (x @ layer.weight.t()).dtype == torch.bfloat16
for step in range(1, 1001):
    ema.update(layer, 20000 + step, True)
    running = running + torch.full((), 0.7, device=device)
    end_step(device)
optimizer = torch.optim.SGD(layer.parameters(), lr=1e-4)
model, optimizer = accelerator.prepare(layer, optimizer)
learner = Learner(accelerator, model, optimizer, None, None, None)
objective = SimpleNamespace(loss=lambda logits, y, x: logits.mean())
for _ in range(20):
    learner.step(x, x, objective)
    end_step(device)
print("moved", float(ema.module.weight[0, 0]) - 1, "sum", float(running), "weight", float(layer.weight[0, 0]))
"""


@pytest.mark.skipif(not PYTHON, reason="set XLA_PYTHON to a Python that has torch 2.8 and torch_xla 2.8")
def test_averages_sums_and_steps_under_bf16_are_those_of_float32() -> None:
    """In bf16 the average would not move, the sum end at 256 and steps of 1e-4 vanish beside a weight of 2."""
    environment = {**os.environ, "PJRT_DEVICE": "CPU"}
    run = subprocess.run(
        [PYTHON, "-c", ARITHMETIC], cwd=REPO, capture_output=True, text=True, timeout=600, env=environment
    )
    assert run.returncode == 0, run.stderr[-3000:]
    words = run.stdout.split()
    found = {name: float(words[words.index(name) + 1]) for name in ("moved", "sum", "weight")}
    assert found["moved"] == pytest.approx(1 - 0.999**1000, rel=1e-3)
    assert found["sum"] == pytest.approx(700, rel=1e-4)
    assert found["weight"] == pytest.approx(2 - 20 * 1e-4 / 3, rel=1e-5)
