"""Large tables: seconds and peak memory up to the first step, and whether memory grows from epoch to epoch.

A synthetic competition whose rows repeat the images of root; each size in a process of its own.
`python -m benchmarks.scale root=DIR [rows=10000,100000,1000000 classes=1000 workers=2 epochs=30 memory_rows=3000]`
"""

from __future__ import annotations

import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.loader import AUGMENT, PREPROCESS
from benchmarks.rounds import RESULTS, ROOT, arguments, images_below, report, run, words_of_a_run
from src.competition.folds import fold_rows, load_folds
from src.competition.tables import load_competition
from src.config import CompetitionConfig, StageConfig
from src.data.cache import ImageStore
from src.data.loader import batches
from src.training.stages import plan_stages, training_orders

KEEP = ("tables", "folds", "first_step", "peak_mb")


def main(words: Sequence[str]) -> Path:
    values = arguments(
        words,
        root="",
        rows="10000,100000,1000000",
        classes=1000,
        rounds=1,
        workers=2,
        epochs=30,
        memory_rows=3000,
        results=str(RESULTS),
    )
    found: dict[str, list[float]] = {}
    for rows in map(int, values["rows"].split(",")):
        with tempfile.TemporaryDirectory() as folder:
            write_competition(Path(folder), Path(values["root"]), rows, min(values["classes"], rows // 5))
            for number in range(values["rounds"]):
                once = first_step_alone(folder)
                for name in KEEP:
                    found.setdefault(f"{name}_{rows}", []).append(once[name])
                print(f"  {rows} rows, round {number + 1}: {once}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        write_competition(Path(folder), Path(values["root"]), values["memory_rows"], 10)
        memory = resident_in_training(Path(folder), values["workers"], values["epochs"])
    found["resident_mb_after_epoch_3"] = [memory["early"]]
    found[f"resident_mb_after_epoch_{values['epochs']}"] = [memory["late"]]
    growth = memory["late"] / memory["early"]
    ratios = {"resident_growth": {"median": growth, "min": growth, "max": growth}}
    return report("scale", found, ratios, values["results"], unit="seconds; MB", workers=values["workers"])


def write_competition(folder: Path, images: Path, rows: int, classes: int) -> None:
    """`rows` training rows that point at the images of `images` in turn, under `folder`/train as links."""
    paths = images_below(images, 500)
    extension = Path(paths[0].decode()).suffix
    # a million links would measure the file system: rows are named by a column, the image by the template
    (folder / "images").mkdir()
    for number, path in enumerate(paths):
        os.symlink((images / path.decode()).resolve(), folder / "images" / f"{number}{extension}")
    with open(folder / "train.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "label"])
        writer.writerows([f"r{i}", f"{i % len(paths)}{extension}", f"c{i * 7919 % classes}"] for i in range(rows))
    for name, header in (("test.csv", ["id", "image"]), ("sample_submission.csv", ["id", "label"])):
        with open(folder / name, "w", newline="") as file:
            last = f"0{extension}" if name == "test.csv" else "c0"
            csv.writer(file).writerows([header, *([f"t{i}", last] for i in range(10))])


def first_step_alone(folder: str) -> dict[str, Any]:
    """`first_step` in a process of its own, which has a peak of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", "--first_step", folder],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def prepared(folder: Path) -> tuple[dict[str, float], ImageStore, np.ndarray, np.ndarray]:
    """Seconds of tables and folds, the images, training rows (n,) and labels (N,) of fold 0."""
    began = time.perf_counter()
    images = "images/{image}"
    competition = load_competition(
        CompetitionConfig(name="scale", root=str(folder), train_images=images, test_images=images)
    )
    tables = time.perf_counter() - began
    began = time.perf_counter()
    folds = load_folds(folder / "folds.csv", competition, 5, 0, "auto", None)
    seconds = {"tables": tables, "folds": time.perf_counter() - began}
    store = ImageStore(competition.root, competition.train.images, 73, folder / "cache")
    return seconds, store, fold_rows(folds, 0).train, competition.y


def first_step(folder: Path) -> dict[str, float]:
    import timm

    began = time.perf_counter()
    seconds, store, rows, labels = prepared(folder)
    network = timm.create_model("test_resnet", num_classes=int(labels.max()) + 1)
    stages = plan_stages([StageConfig()], rows=rows, strata=labels[rows], epochs=1, size=64, batch_size=64)
    batch = next(batches(store, training_orders(stages, AUGMENT, 0), 0))
    x = PREPROCESS(batch.images[0], batch.colour)
    torch.nn.functional.cross_entropy(network(x), torch.from_numpy(labels)[batch.rows]).backward()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**seconds, "first_step": time.perf_counter() - began, "peak_mb": peak}


def resident_in_training(folder: Path, workers: int, epochs: int) -> dict[str, float]:
    """Resident memory (MB, shared pages counted once) of a fold that trains with `workers` loader processes, itself and
    these, after epochs 3 and `epochs`: read when the command line prints the epoch."""
    import psutil

    template = "'images/{image}'"  # in quotes of Hydra's grammar
    words = [*words_of_a_run(folder, folder), "fold=0", "time_budget=null"]
    words += [f"competition.train_images={template}", f"competition.test_images={template}", "tta=none"]
    words += ["model=test_resnet", "size=64", "stages=[{}]", f"epochs={epochs}", f"workers={workers}"]
    command = [sys.executable, "-m", "src.cli", *words]
    sizes: list[float] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        me = psutil.Process(run.pid)
        for line in run.stdout:
            if line.startswith("stage") and "loss" in line:
                family = [me, *me.children(recursive=True)]
                sizes.append(sum(getattr(p.memory_full_info(), "pss", p.memory_info().rss) for p in family) / 2**20)
    if run.returncode or len(sizes) != epochs:
        raise RuntimeError(f"{' '.join(command)}: exit code {run.returncode}, {len(sizes)} of {epochs} epochs seen")
    return {"early": sizes[min(2, len(sizes) - 1)], "late": sizes[-1]}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--first_step"]:
        print(json.dumps(first_step(Path(sys.argv[2]))))
    else:
        run(main)
