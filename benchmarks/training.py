"""What the pipeline costs around the network: its own fold (EMA, metrics, checkpoints, loader) against a bare loop.

resnet18, 64 px, batch 64, SGD, in turn. `python -m benchmarks.training root=DIR [epochs=5 rounds=5 cores=2]`
"""

from __future__ import annotations

import csv
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.rounds import RESULTS, ROOT, arguments, in_turn, pin, ratio, report, run, words_of_a_run


def main(words: Sequence[str]) -> Path:
    values = arguments(
        words, root="", model="resnet18", size=64, batch=64, epochs=5, steps=40, rounds=5, cores=2, results=str(RESULTS)
    )
    pin(values["cores"])
    model, size, batch = values["model"], values["size"], values["batch"]
    with tempfile.TemporaryDirectory() as place:
        numbers = itertools.count()
        fold(values, Path(place), next(numbers), 1)  # decodes the images, which the bare loop has not to do either
        rounds = in_turn(
            {
                "bare": lambda: bare(model, size, batch, values["steps"]),
                "ours": lambda: fold(values, Path(place), next(numbers), values["epochs"]),
            },
            values["rounds"],
        )
    ratios = {f"training_{model}_{size}": ratio(rounds["ours"], rounds["bare"])}
    return report("training", rounds, ratios, values["results"], batch=batch, cores=values["cores"], unit="img/s")


def bare(model: str, size: int, batch: int, steps: int) -> float:
    """Images per second of forward, backward and step on one fixed batch."""
    import timm

    torch.manual_seed(0)
    network = timm.create_model(model, num_classes=10).to(memory_format=torch.channels_last).train()
    x = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (batch,))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for step in range(3 + steps):
        if step == 3:  # the first steps choose kernels and make room
            began = time.perf_counter()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return steps * batch / (time.perf_counter() - began)


def fold(values: dict[str, object], place: Path, number: int, epochs: int) -> float:
    """Images per second, mean over the epochs in history.csv, of fold 0 trained by the command line, with the
    checkpoint that falls due after a minute."""
    name = f"r{number}"
    words = words_of_a_run(place, str(values["root"]))
    words += [f"model={values['model']}", f"size={values['size']}", f"batch_size={values['batch']}", "stages=[{}]"]
    words += [f"epochs={epochs}", "optimizer.name=sgd", "optimizer.lr=0.02", f"run={name}"]
    words += ["time_budget=null", "tta=none", "workers=0", "precision=fp32"]
    run_command(words, int(str(values["cores"])))
    with open(place / "runs" / name / "fold0" / "history.csv", newline="") as file:
        return statistics.harmonic_mean([float(row["images_per_second"]) for row in csv.DictReader(file)])


def run_command(words: Sequence[str], cores: int) -> float:
    """Seconds of `python -m src.cli WORDS`, with that many threads; its output is shown if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(cores), "MKL_NUM_THREADS": str(cores)}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "src.cli", *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}")
    return time.perf_counter() - began


if __name__ == "__main__":
    run(main)
