"""What all benchmarks share: their arguments, rounds in turn, the table, and the json with machine and ratios."""

from __future__ import annotations

import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from src.competition.listings import EXTENSIONS
from src.errors import UserError, nearest
from src.files import write_json

ROOT = Path(__file__).resolve().parent.parent  # where `python -m src.cli` and `python -m benchmarks.…` are started
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "torchvision", "timm", "numpy", "opencv-python-headless", "albumentations", "pillow", "fastai")


def arguments(words: Sequence[str], **defaults: Any) -> dict[str, Any]:
    """`key=value` words over `defaults`, each as its default's type. Raises UserError for a key that is none of them,
    a value of another type, and a missing root."""
    values = dict(defaults)
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in defaults:
            raise UserError(f"{word!r}: expected one of {', '.join(f'{k}=' for k in defaults)}{nearest(key, defaults)}")
        try:
            values[key] = type(defaults[key])(value)
        except ValueError:
            raise UserError(f"{word}: expected {type(defaults[key]).__name__}") from None
    if not values.get("root", "."):
        raise UserError("root=: which folder of images? Give root=DIR")
    return values


def pin(cores: int) -> None:
    """This process on its first `cores` cores, and as many threads in torch and OpenCV; freed memory is kept, for the
    peers as for us."""
    import cv2
    import torch

    from src.training.memory import keep_freed_memory

    keep_freed_memory()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    torch.set_num_threads(cores)
    cv2.setNumThreads(0 if cores == 1 else cores)


def words_of_a_run(place: Path, root: Path | str) -> list[str]:
    """What every run of a benchmark says to the command line: all that it writes goes below `place`."""
    words = [f"paths.{name}={place / name}" for name in ("runs", "cache", "folds", "submissions", "input")]
    words += ["competition=folder", "competition.name=bench", f"competition.root={root}", "preset=scratch"]
    return [*words, "wandb.mode=disabled", "device=cpu"]


def images_below(root: Path, count: int) -> np.ndarray:
    """The first `count` image files below `root`, sorted: (N,) bytes, relative. Raises UserError if there is none."""
    files = sorted(file for file in Path(root).rglob("*") if file.suffix.lower().encode() in EXTENSIONS)[:count]
    if not files:
        raise UserError(f"root={root}: no images below it")
    return np.array([file.relative_to(root).as_posix().encode() for file in files])


def in_turn(measures: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each measure once per round, one after the other, so that what else the machine does hits all of them."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
            print(f"  round {number + 1}/{rounds}  {name:<28} {found[name][-1]:12.4g}", flush=True)
    return found


def rate(work: Callable[[], int]) -> float:
    """What `work()` says it has done, per second."""
    began = time.perf_counter()
    return work() / (time.perf_counter() - began)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest of ours / theirs, round by round."""
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    return spread(each)


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def report(
    name: str,
    rounds: Mapping[str, Sequence[float]],
    ratios: Mapping[str, Mapping[str, float]],
    results: str,
    **more: Any,
) -> Path:
    """Print the table and write <results>/<name>.json: machine, all rounds, and the flat table of ratios, each with its
    `spread` or with value, low and high of an interval (null in the file where one is infinite)."""
    print(f"\n{'measure':<36}{'median':>12}{'min':>12}{'max':>12}")
    for key, values in rounds.items():
        print(f"{key:<36}" + "".join(f"{value:12.4g}" for value in spread(values).values()))
    for names in dict.fromkeys(tuple(values) for values in ratios.values()):
        print(f"\n{'ratio':<36}" + "".join(f"{name:>12}" for name in names))
        for key, values in ratios.items():
            if tuple(values) == names:
                print(f"{key:<36}" + "".join(f"{value:12.4g}" for value in values.values()))
    flat = {
        key: {name: value if math.isfinite(value) else None for name, value in of.items()} for key, of in ratios.items()
    }
    path = Path(results) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"machine": machine(), **more, "rounds": dict(rounds), "ratios": flat})
    print(f"wrote {path}")
    return path


def machine() -> dict[str, Any]:
    cpu, info = platform.processor(), Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), "versions": versions}


def run(main: Callable[[Sequence[str]], object]) -> None:
    """A benchmark as a program: a user's mistake is one line and exit code 2."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
