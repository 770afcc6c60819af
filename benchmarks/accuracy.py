"""Held-out accuracy at equal wall time against fastai, and the time that progressive resizing saves.

fastai (an extra, not in pyproject.toml): xresnet18, eight epochs of one-cycle at 64 px with its tutorial's transforms.
Both are graded on solution.csv. The preset has fastai's time at most, prediction included; the same run is compared
with the preset at fixed full size (`experiment=fixed_size`), which has all the time that it takes. With folds=5 that
comparison has five folds of each seed, fastai is beside the first.
`python -m benchmarks.accuracy root=DIR [seeds=3 folds=1 peers=fastai epochs=8 cores=2 place=DIR]`; with place=, what is
done there is kept and the same command goes on after a stop; `peers=` leaves fastai out.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rounds import RESULTS, arguments, pin, report, run, spread, words_of_a_run
from benchmarks.training import run_command
from src.competition.tables import Competition, load_competition
from src.config import CompetitionConfig
from src.files import read_json, write_json
from src.search.tricks import merged

SOLUTION = "solution.csv"


def main(words: Sequence[str]) -> Path:
    values = arguments(
        words,
        root="",
        seeds=3,
        folds=1,
        peers="fastai",
        epochs=8,
        cores=2,
        extra="",
        place="",
        results=str(RESULTS),
    )
    pin(values["cores"])
    root, cores = Path(values["root"]), values["cores"]
    competition = load_competition(CompetitionConfig(name="bench", root=str(root)))
    truth = solution(root / SOLUTION)
    found: dict[str, list[float]] = {}
    ratios: dict[str, dict[str, float]] = {}
    there = values["peers"] == "fastai" and importlib.util.find_spec("fastai") is not None
    if values["peers"] and not there:
        print("fastai is not installed (pip install fastai): accuracy_points_over_fastai is skipped")

    def keep(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)
        print(f"  {name:<28} {value:.4f}", flush=True)

    curves: dict[str, list[list[tuple[float, float]]]] = {"ours": [], "fixed": []}
    points = []
    with contextlib.ExitStack() as stack:
        place = Path(values["place"] or stack.enter_context(tempfile.TemporaryDirectory()))
        command = merged(words_of_a_run(place, root), values["extra"].split())
        for fold, seed in itertools.product(range(values["folds"]), range(values["seeds"])):
            budget = "null"
            if there and fold == 0:
                seconds, labels = fastai(competition, values["epochs"], seed, place / f"fastai{seed}.json")
                keep("fastai_seconds", seconds)
                keep("fastai_accuracy", graded(labels, truth))
                budget = f"{max(1.0, seconds):.1f}s"
            for name, more in (
                ("ours", [f"time_budget={budget}"]),
                ("fixed", ["experiment=fixed_size", "time_budget=null"]),
            ):
                of = f"{name}-{fold}-{seed}"
                run_command([*command, *more, f"fold={fold}", f"seed={seed}", f"run={of}"], cores)
                curves[name].append(history(place / "runs" / of / f"fold{fold}" / "history.csv"))
                keep(f"{name}_seconds", curves[name][-1][-1][0])
                keep(f"{name}_oof_accuracy", curves[name][-1][-1][1])
                keep(f"{name}_accuracy", graded(solution(place / "submissions" / f"{of}.csv"), truth))
            if there and fold == 0:
                points.append(100 * (found["ours_accuracy"][-1] - found["fastai_accuracy"][-1]))
    if points:
        ratios["accuracy_points_over_fastai"] = spread(points)
    for name in ("oof_accuracy", "accuracy"):
        more = [100 * (a - b) for a, b in zip(found[f"ours_{name}"], found[f"fixed_{name}"], strict=True)]
        ratios[f"{name}_points_over_fixed"] = interval(more, np.mean)
    pairs = list(zip(curves["ours"], curves["fixed"], strict=True))
    ratios["progressive_time"] = interval(pairs, time_share)
    return report("accuracy", found, ratios, values["results"], epochs=values["epochs"], fastai=there)


def time_share(pairs: Sequence[tuple[list[tuple[float, float]], list[tuple[float, float]]]]) -> float:
    """Share of the fixed run's time after which the mean score of the progressive runs stays at or above the mean of
    the fixed runs' last scores; infinite where it never does.

    pairs: (progressive, fixed) of one fold and seed each, both a list of (seconds, score) of the validated epochs.
    Means over pairs, as one run's first epoch above a level is a matter of luck (680 rows: a standard error of 0.015).
    """
    epochs = min(len(ours) for ours, _ in pairs)  # folds of a row more or less have the same number
    wanted = np.mean([fixed[-1][1] for _, fixed in pairs])
    scores = np.mean([[score for _, score in ours[-epochs:]] for ours, _ in pairs], axis=0)
    short = np.flatnonzero(scores < wanted)
    first = int(short[-1]) + 1 if len(short) else 0
    if first == epochs:
        return float("inf")
    return float(np.mean([ours[-epochs:][first][0] / fixed[-1][0] for ours, fixed in pairs]))


def interval(values: Sequence[Any], statistic: Callable[[Any], float], draws: int = 2000) -> dict[str, float]:
    """`statistic` of `values`, and the 95 % interval of its bootstrap over them."""
    rng = np.random.default_rng(0)
    drawn = [
        statistic([values[i] for i in rng.integers(len(values), size=len(values))])
        for _ in range(draws if len(values) > 1 else 1)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    return {"value": float(statistic(values)), "low": float(low), "high": float(high)}


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


def fastai(competition: Competition, epochs: int, seed: int, path: Path) -> tuple[float, dict[str, str]]:
    """Seconds of training (without prediction) and the label by id of the test rows: from `path` if they are there."""
    if path.exists():
        kept = read_json(path)
        return kept["seconds"], kept["labels"]
    from fastai.vision.all import ImageDataLoaders, Learner, Resize, accuracy, aug_transforms, set_seed, xresnet18

    set_seed(seed, reproducible=True)
    files = [str(competition.root / path.decode()) for path in competition.train.images]
    names = competition.task.cells(competition.y).tolist()
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
    learner = Learner(loaders, xresnet18(n_out=len(competition.task.names)), metrics=accuracy)
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(epochs, 5e-3)
    seconds = time.perf_counter() - began
    tests = [str(competition.root / path.decode()) for path in competition.test.images]
    with learner.no_bar():
        pred, _ = learner.tta(dl=loaders.test_dl(tests))
    names = [str(loaders.vocab[i]) for i in pred.argmax(1).tolist()]
    labels = dict(zip(competition.test.ids.tolist(), names, strict=True))
    write_json(path, {"seconds": seconds, "labels": labels})
    return seconds, labels


if __name__ == "__main__":
    run(main)
