"""A small competition of every kind of target: pictures of noise over shades, which the targets are made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from src.cli import main
from tests.conftest import TINY, write


class Kind(NamedTuple):
    """columns: of the table; cells: of a row from three shades in 0..1; metric: by which it is scored, and whether a
    run has learnt that reaches a score; losses: beside the usual one."""

    name: str
    columns: list[str]
    cells: Callable[[np.ndarray], list[str]]
    metric: str
    reached: Callable[[float], bool]
    losses: list[str]


NUMBER = Kind("number", ["weight"], lambda s: [f"{40 + 20 * s[0]:.3f}"], "rmse", lambda s: s < 4.0, ["huber", "bce"])
NUMBERS = Kind(
    "number",
    ["red", "far"],
    lambda s: [f"{s[0]:.4f}", f"{1000 * s[1] - 500:.2f}"],
    "r2",
    lambda s: s > 0.6,
    ["mae"],
)
TARGETS = Kind(
    "targets",
    ["root", "mark"],
    lambda s: ["abc"[int(3 * s[0])], ["no", "yes"][int(2 * s[1])]],
    "recall_macro",
    lambda s: s > 0.75,
    ["focal"],
)
SINGLE = Kind("single", ["label"], lambda s: ["abc"[int(3 * s[0])]], "accuracy", lambda s: s > 0.75, [])
MULTI = Kind(
    "multi", ["red", "green", "blue"], lambda s: [str(int(v > 0.5)) for v in s], "auc", lambda s: s > 0.85, ["focal"]
)
KINDS = {"number": NUMBER, "numbers": NUMBERS, "targets": TARGETS, "single": SINGLE, "multi": MULTI}


def make(root: Path, kind: Kind, shuffled: bool = False, train: int = 120) -> Path:
    """120 training and 20 test pictures of noise over a shade of each channel, which the cells are made of; shuffled:
    cells of other rows."""
    rng = np.random.default_rng(0)
    tables: dict[str, list[list[str]]] = {"train": [], "test": []}
    for part, count in (("train", train), ("test", 20)):
        (root / part).mkdir(parents=True)
        shades = rng.random((count, 3)) * 0.999
        for row, shade in enumerate(shades):
            image = rng.integers(0, 50, (24, 24, 3)) + 200 * shade[::-1]  # OpenCV writes blue first
            cv2.imwrite(str(root / part / f"{part}{row:03d}.png"), image.astype(np.uint8))
        told = rng.permutation(shades) if shuffled and part == "train" else shades
        tables[part] = [[f"{part}{row:03d}", *kind.cells(shade)] for row, shade in enumerate(told)]
    header = ["id", *kind.columns]
    write(root / "train.csv", header, tables["train"])
    write(root / "solution.csv", header, tables["test"])
    blank = tables["train"][0][1:]
    write(root / "sample_submission.csv", header, [[row[0], *blank] for row in reversed(tables["test"])])
    return root


class Place(NamedTuple):
    path: Path
    kind: Kind

    def start(self, verb: str, *words: str) -> int:
        return start(self.path, self.kind, verb, *words)

    def scores(self, run: str) -> dict[str, float]:
        return json.loads((self.path / "runs" / run / "cv.json").read_text())["scores"]

    def score(self, run: str) -> float:
        return self.scores(run)[self.kind.metric]


def start(place: Path, kind: Kind, verb: str, *words: str) -> int:
    places = [f"paths.{name}={place / name}" for name in ("runs", "cache", "folds", "submissions", "input")]
    if verb not in ("train", "smoke", "prepare", "lr_find", "ablate"):
        return main([verb, *places, *words])
    task = [f"competition.root={place / 'data'}", "competition.name=shades", "competition.solution=solution.csv"]
    task += ["competition=folder", f"competition.kind={kind.name}", f"competition.metric={kind.metric}"]
    plan = ["preset=scratch", "folds.n=2", "size=24", "epochs=14", "batch_size=16", "stages=[{}]", "optimizer.lr=0.1"]
    calm = ["augment.crop_area=[0.8,1]", "augment.brightness=0", "augment.saturation=0", "average.ema=0"]
    own = [*task, *plan, *calm, "optimizer.name=sgd", "tta=none", *TINY]
    given = {word.partition("=")[0] for word in words}  # a key may be given once
    return main([verb, *places, *(word for word in own if word.partition("=")[0] not in given), *words])
