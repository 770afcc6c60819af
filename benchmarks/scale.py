"""Large tables: seconds and memory up to the first step and to the first score, and whether memory grows.

A synthetic competition whose rows repeat the images of root; each size in a process of its own. Seconds of the
processor are noted beside those of the clock, as they are less of what else the machine does.
`python -m benchmarks.scale root=DIR [rows=10000,100000,1000000,3000000 score_rows=1000,10000,100000,1000000
tables_rows=10000000 classes=100 workers=2 epochs=30 memory_rows=3000 picture=docs/scale.png]`
"""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from benchmarks.loader import AUGMENT, PREPROCESS
from benchmarks.rounds import RESULTS, ROOT, arguments, images_below, report, run, words_of_a_run
from src.competition.folds import fold_rows, load_folds
from src.competition.tables import Competition, load_competition
from src.config import CompetitionConfig, StageConfig
from src.data.cache import ImageStore
from src.data.loader import batches
from src.files import replacing
from src.training.stages import plan_stages, training_orders


def main(words: Sequence[str]) -> Path:
    values = arguments(
        words,
        root="",
        rows="10000,100000,1000000,3000000",
        score_rows="1000,10000,100000,1000000",
        tables_rows="10000000",
        classes=100,
        rounds=1,
        workers=2,
        epochs=30,
        memory_rows=3000,
        picture="",
        results=str(RESULTS),
    )
    steps, scores, tables = (numbers(values[name]) for name in ("rows", "score_rows", "tables_rows"))
    found: dict[str, list[float]] = {}
    for rows in sorted({*steps, *scores, *tables}):
        with tempfile.TemporaryDirectory() as folder:
            write_competition(Path(folder), Path(values["root"]), rows, min(values["classes"], max(2, rows // 50)))
            for number in range(values["rounds"]):
                once: dict[str, float] = {}
                if rows in steps or rows in tables:
                    once |= alone(folder, "--first_step" if rows in steps else "--tables")
                if rows in scores:
                    once |= first_score(Path(folder), values["workers"])
                for name, value in once.items():
                    found.setdefault(f"{name}_{rows}", []).append(value)
                print(f"  {rows} rows, round {number + 1}: {once}", flush=True)
    ratios = {}
    if values["memory_rows"]:
        with tempfile.TemporaryDirectory() as folder:
            write_competition(Path(folder), Path(values["root"]), values["memory_rows"], 10)
            memory = resident_in_training(Path(folder), values["workers"], values["epochs"])
        found["resident_mb_after_epoch_3"] = [memory["early"]]
        found[f"resident_mb_after_epoch_{values['epochs']}"] = [memory["late"]]
        growth = memory["late"] / memory["early"]
        ratios["resident_growth"] = {"median": growth, "min": growth, "max": growth}
    path = report("scale", found, ratios, values["results"], unit="seconds; MB", workers=values["workers"])
    if values["picture"]:
        draw(json.loads(path.read_text())["rounds"], Path(values["picture"]))
    return path


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


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
        # one label for all rows of a picture: where they differ, a picture has several
        labels = [f"c{i * 7919 % classes}" for i in range(len(paths))]
        names = [f"{i}{extension}" for i in range(len(paths))]
        writer.writerows([f"r{i}", names[i % len(paths)], labels[i % len(paths)]] for i in range(rows))
    for name, header in (("test.csv", ["id", "image"]), ("sample_submission.csv", ["id", "label"])):
        with open(folder / name, "w", newline="") as file:
            last = f"0{extension}" if name == "test.csv" else "c0"
            csv.writer(file).writerows([header, *([f"t{i}", last] for i in range(10))])


def alone(folder: str, what: str) -> dict[str, float]:
    """`first_step`, or `tables`, in a process of its own, which has a peak of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", what, folder],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def prepared(folder: Path) -> tuple[dict[str, float], Competition, np.ndarray]:
    """Seconds of tables and folds, the competition, and its folds (N,)."""
    seconds: dict[str, float] = {}
    with timed(seconds, "tables"):
        images = "images/{image}"
        competition = load_competition(
            CompetitionConfig(name="scale", root=str(folder), train_images=images, test_images=images)
        )
    with timed(seconds, "folds"):
        folds = load_folds(folder / "folds.csv", competition, 5, 0, "auto", None)
    return seconds, competition, folds


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began, busy = time.perf_counter(), time.process_time()
    yield
    seconds[name], seconds[f"{name}_cpu"] = time.perf_counter() - began, time.process_time() - busy


def tables(folder: Path) -> dict[str, float]:
    seconds, _, _ = prepared(folder)
    return {**seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def first_step(folder: Path) -> dict[str, float]:
    import timm

    seconds: dict[str, float] = {}
    with timed(seconds, "first_step"):
        parts, competition, folds = prepared(folder)
        store = ImageStore(competition.root, competition.train.images, 73, folder / "cache")
        rows, labels = fold_rows(folds, 0).train, competition.y
        network = timm.create_model("test_resnet", num_classes=int(labels.max()) + 1)
        stages = plan_stages([StageConfig()], rows=rows, strata=labels[rows], epochs=1, size=64, batch_size=64)
        batch = next(batches(store, training_orders(stages, AUGMENT, 0), 0))
        x = PREPROCESS(batch.images[0], batch.colour)
        torch.nn.functional.cross_entropy(network(x), torch.from_numpy(labels)[batch.rows]).backward()
    return {**parts, **seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def first_score(folder: Path, workers: int) -> dict[str, float]:
    """Seconds from the start of the command to the first score of held-out rows, with experiment=subset_first; and then
    the memory (MB) that a loader process has for itself alone, and that of the run, shared pages counted once."""
    import psutil

    words = [*run_words(folder, workers), "experiment=subset_first", "epochs=1"]
    began, found = time.perf_counter(), {}
    with subprocess.Popen(
        [sys.executable, "-m", "src.cli", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        assert run.stdout is not None
        me = psutil.Process(run.pid)
        for line in run.stdout:
            if line.startswith("stage") and "loss" in line and "accuracy" in line:
                family = me.children(recursive=True)
                used = [sum(each.cpu_times()[:2]) for each in (me, *family)]
                found = {
                    "first_score": time.perf_counter() - began,
                    "first_score_cpu": sum(used),
                    "worker_mb": max((each.memory_full_info().uss for each in family), default=0) / 2**20,
                    "run_mb": sum(each.memory_full_info().pss for each in (me, *family)) / 2**20,
                }
                print(f"  {line.strip()}", flush=True)
                break
        run.terminate()
        for _ in run.stdout:
            pass
    if not found:
        raise RuntimeError(f"{' '.join(words)}: exit code {run.returncode} before a score")
    return found


def run_words(folder: Path, workers: int) -> list[str]:
    template = "'images/{image}'"  # in quotes of Hydra's grammar
    words = [*words_of_a_run(folder, folder), "fold=0", "time_budget=null", "tta=none", f"workers={workers}"]
    words += [f"competition.train_images={template}", f"competition.test_images={template}"]
    return [*words, "model=test_resnet", "size=64"]


def resident_in_training(folder: Path, workers: int, epochs: int) -> dict[str, float]:
    """Resident memory (MB, shared pages counted once) of a fold that trains with `workers` loader processes, itself and
    these, after epochs 3 and `epochs`: read when the command line prints the epoch."""
    import psutil

    words = [*run_words(folder, workers), "stages=[{}]", f"epochs={epochs}"]
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


def draw(rounds: Mapping[str, Sequence[float]], path: Path) -> None:
    """Seconds of the processor and MB against rows, each with the straight line through its points."""
    from matplotlib.figure import Figure

    figure = Figure((10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    lines = [(left, name, f"{name}_cpu") for name in ("tables", "folds", "first_step", "first_score")]
    lines += [(right, "peak up to the first step", "peak_mb"), (right, "a run with its loader", "run_mb")]
    lines += [(right, "a loader process, its own", "worker_mb")]
    for axes, label, name in lines:
        points = points_of(rounds, name)
        if len(points) < 2:
            continue
        rows, values = np.array(points).T
        slope, start = np.polyfit(rows, values, 1)
        unit = "s" if axes is left else "MB"
        told = f"{label.replace('_', ' ')}: {start:.3g} {unit} + {slope * 1e6:.3g} {unit} per million"
        drawn = axes.plot(rows / 1e6, start + slope * rows, label=told)
        axes.plot(rows / 1e6, values, "o", color=drawn[0].get_color())
    for axes, title in ((left, "seconds of the processor"), (right, "MB")):
        axes.set(xlabel="million rows", title=title, ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    print(f"wrote {path}")


def points_of(rounds: Mapping[str, Sequence[float]], name: str) -> list[tuple[int, float]]:
    """(rows, median) of a measure, by rows."""
    pattern = re.compile(rf"{name}_(\d+)")
    found = [(int(match[1]), statistics.median(values)) for key, values in rounds.items()
             if (match := pattern.fullmatch(key))]  # fmt: skip
    return sorted(found)


if __name__ == "__main__":
    alone_here = {"--first_step": first_step, "--tables": tables}
    if len(sys.argv) > 1 and sys.argv[1] in alone_here:
        print(json.dumps(alone_here[sys.argv[1]](Path(sys.argv[2]))))
    else:
        run(main)
