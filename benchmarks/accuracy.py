"""Held-out accuracy at equal wall time against fastai, and the time that progressive resizing saves.

fastai (an extra, not in pyproject.toml): xresnet18, eight epochs of one-cycle at 64 px with its tutorial's transforms.
Both are graded on solution.csv. `python -m benchmarks.accuracy root=DIR [seeds=3 epochs=8 cores=2]`
"""

from __future__ import annotations

import csv
import importlib.util
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rounds import RESULTS, arguments, pin, report, run, spread, words_of_a_run
from benchmarks.training import run_command
from src.competition.tables import Competition, load_competition

SOLUTION = "solution.csv"


def main(words: Sequence[str]) -> Path:
    values = arguments(words, root="", seeds=3, epochs=8, cores=2, extra="", results=str(RESULTS))
    pin(values["cores"])
    root, cores = Path(values["root"]), values["cores"]
    competition = load_competition(name="bench", root=root)
    truth = solution(root / SOLUTION)
    found: dict[str, list[float]] = {}
    ratios: dict[str, dict[str, float]] = {}

    def keep(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)
        print(f"  {name:<28} {value:.4f}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        command = [*words_of_a_run(place, root), *values["extra"].split()]
        there = importlib.util.find_spec("fastai") is not None
        if not there:
            print("fastai is not installed (pip install fastai): accuracy_points_over_fastai is skipped")
        for seed in range(values["seeds"] if there else 0):
            seconds, labels = fastai_labels(competition, values["epochs"], seed)
            keep("fastai_seconds", seconds)
            keep("fastai_accuracy", graded(dict(zip(competition.test_ids.tolist(), labels, strict=True)), truth))
            run_command([*command, f"seed={seed}", f"run=s{seed}", f"time_budget={max(1.0, seconds):.1f}s"], cores)
            keep("ours_accuracy", graded(solution(place / "submissions" / f"s{seed}.csv"), truth))
        if there:
            points = [100 * (a - b) for a, b in zip(found["ours_accuracy"], found["fastai_accuracy"], strict=True)]
            ratios["accuracy_points_over_fastai"] = spread(points)

        shares = []
        for seed in range(values["seeds"]):
            histories = {}
            for name, more in (("fixed", ["experiment=fixed_size"]), ("progressive", [])):
                words_of_run = [*command, *more, f"seed={seed}", f"run={name}{seed}", "time_budget=null", "tta=none"]
                run_command(words_of_run, cores)
                histories[name] = history(place / "runs" / f"{name}{seed}" / "fold0" / "history.csv")
                keep(f"{name}_seconds", histories[name][-1][0])
                keep(f"{name}_accuracy", histories[name][-1][1])
            wanted = histories["fixed"][-1][1]
            reached = [seconds for seconds, score in histories["progressive"] if score >= wanted]
            if reached:
                keep("progressive_reached_seconds", reached[0])
                shares.append(reached[0] / histories["fixed"][-1][0])
        if len(shares) == values["seeds"]:
            ratios["progressive_time"] = spread(shares)
        else:  # a mean over the runs that did reach it would be too good
            missed = values["seeds"] - len(shares)
            print(f"progressive_time is left out: {missed} of {values['seeds']} runs never had the fixed run's score")
    return report("accuracy", found, ratios, values["results"], epochs=values["epochs"], fastai=there)


def solution(path: Path) -> dict[str, str]:
    """Label by id: the first two columns of a csv file."""
    with open(path, newline="") as file:
        return {row[0]: row[1] for row in list(csv.reader(file))[1:]}


def graded(labels: dict[str, str], truth: dict[str, str]) -> float:
    return float(np.mean([labels[name] == label for name, label in truth.items()]))


def history(path: Path) -> list[tuple[float, float]]:
    """(seconds of training, accuracy of the held-out fold) of each validated epoch."""
    with open(path, newline="") as file:
        return [(float(row["seconds"]), float(row["accuracy"])) for row in csv.DictReader(file)]


def fastai_labels(competition: Competition, epochs: int, seed: int) -> tuple[float, list[Any]]:
    """Seconds of training (without prediction) and the labels of the test rows."""
    from fastai.vision.all import ImageDataLoaders, Learner, Resize, accuracy, aug_transforms, set_seed, xresnet18

    set_seed(seed, reproducible=True)
    files = [str(competition.root / path.decode()) for path in competition.paths]
    names = competition.classes[competition.labels].tolist()
    began = time.perf_counter()
    loaders = ImageDataLoaders.from_lists(
        competition.root,
        files,
        names,
        valid_pct=0.2,
        seed=seed,
        item_tfms=Resize(96),
        batch_tfms=aug_transforms(size=64, min_scale=0.75),
        bs=64,
        num_workers=0,
    )
    learner = Learner(loaders, xresnet18(n_out=len(competition.classes)), metrics=accuracy)
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(epochs, 5e-3)
    seconds = time.perf_counter() - began
    tests = [str(competition.root / path.decode()) for path in competition.test_paths]
    with learner.no_bar():
        pred, _ = learner.tta(dl=loaders.test_dl(tests))
    return seconds, [loaders.vocab[i] for i in pred.argmax(1).tolist()]


if __name__ == "__main__":
    run(main)
