"""A competition of noise pictures with labels that were drawn, its command line, and what chance is there.

For probes of leaks: what is honest scores at chance; what has seen the rows that it is scored on, or was chosen by
them, scores above it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from src.cli import main
from src.config import build, defaults, plain
from src.files import read_json, write_config, write_json
from src.predictions import Predictions, load_predictions, save_predictions
from src.runs.folder import fold_folder
from src.runs.opening import open_competition, open_folds
from tests.conftest import TINY, write

ROWS, TEST, FOLDS = 240, 120, 3
NAMES = ("0", "1", "2", "3")
# Of each kind: the metric, its value at chance, and its standard error times the root of the number of rows.
METRICS = {"single": ("accuracy", 0.25, 0.433), "grades": ("qwk", 0.0, 1.0), "multi": ("auc", 0.5, 0.289)}
FAR = 3.0  # standard errors


@dataclass(frozen=True)
class Place:
    """A competition with its folders in `root`."""

    root: Path
    kind: str

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def start(self, verb: str, *words: str, say: int = 0) -> None:
        """A verb that composes its configuration of the words of a training."""
        metric, form = METRICS[self.kind][0], "multi" if self.kind == "multi" else "single"
        task = [f"competition.root={self.root / 'data'}", "competition.name=noise", "competition.solution=solution.csv"]
        task += ["competition=folder", f"competition.kind={form}", f"competition.metric={metric}"]
        plan = ["preset=scratch", f"folds.n={FOLDS}", "size=8", "epochs=1", "batch_size=16", "stages=[{}]", "tta=none"]
        plan += ["optimizer.name=sgd", "optimizer.lr=1", "average.ema=0.7", "average.swa_start=0.3", "eval.every=100"]
        plan += ["average.swa_every=1 steps", "average.bn_batches=2"]
        plan += ["loss.name=ordinal"] if self.kind == "grades" else []
        given = {word.partition("=")[0] for word in words}
        known = [*task, *plan, *TINY, *self.paths]
        assert main([verb, *(word for word in known if word.partition("=")[0] not in given), *words]) == say

    def combine(self, verb: str, *words: str, say: int = 0) -> None:
        """A verb that takes its configuration from runs."""
        assert main([verb, f"paths.runs={self.runs}", *words]) == say

    @property
    def paths(self) -> list[str]:
        return [f"paths.{name}={self.root / name}" for name in ("runs", "cache", "folds", "submissions", "input")]

    def errors(self, score: float, rows: int) -> float:
        """How many standard errors of so many rows a score is above chance."""
        _, chance, error = METRICS[self.kind]
        return (score - chance) * rows**0.5 / error

    def is_at_chance(self, score: float, rows: int) -> bool:
        return abs(self.errors(score, rows)) < FAR

    def check_optimism(self, nested: float, plain: float, rows: int) -> None:
        """That what was fitted on the very rows looks better than it is, so that the probe would notice."""
        assert self.errors(plain, rows) > max(1.5, self.errors(nested, rows) + 1)

    def check(self, run: str) -> None:
        """Whatever the run's files quote."""
        cv, oof = read_json(self.runs / run / "cv.json"), self.oof(run)
        rows = len(oof)
        for what, score, count in (
            ("out-of-fold", cv["oof"], rows),
            ("mean of folds", cv["mean"], rows),
            ("test", cv["test"], TEST),
            *((f"fold {k}", score, rows // len(cv["folds"])) for k, score in cv["folds"].items()),
        ):
            if what != "test" or self.kind == "single":  # graded by labels
                assert self.is_at_chance(score, count), f"{run}: {what} {score:.4f}"

    def oof(self, run: str) -> np.ndarray:
        folds = sorted((self.runs / run).glob("fold*"))
        return np.concatenate([load_predictions(fold / "oof.npz").pred for fold in folds])


def make_place(root: Path, kind: str, rows: int = ROWS, copies: int = 1, seed: int = 0) -> Place:
    """`rows` noise pictures, each `copies` times with the same label, and test pictures of which nothing is known."""
    rng = np.random.default_rng(seed)
    header = ["id", *NAMES] if kind == "multi" else ["id", "grade"]
    tables: dict[str, list[list[str]]] = {}
    for part, count in (("train", rows // copies), ("test", TEST)):
        (root / "data" / part).mkdir(parents=True)
        labels = rng.permutation(np.arange(count) % len(NAMES))
        several = rng.random((count, len(NAMES))) < 0.5
        tables[part] = []
        for row in range(count):
            picture = rng.integers(0, 256, (9, 9, 3), np.uint8)
            cells = [str(int(cell)) for cell in several[row]] if kind == "multi" else [NAMES[labels[row]]]
            for again in range(copies if part == "train" else 1):
                name = f"{part}{row:03d}{'abcd'[again]}"
                cv2.imwrite(str(root / "data" / part / f"{name}.png"), picture)
                tables[part].append([name, *cells])
    data = root / "data"
    write(data / "train.csv", header, tables["train"])
    write(data / "solution.csv", header, tables["test"])
    blank = ["0.5"] * 4 if kind == "multi" else ["0"]
    write(data / "sample_submission.csv", header, [[row[0], *blank] for row in tables["test"]])
    return Place(root, kind)


def make_members(place: Place, names: list[str], seed: int = 0, **folds: object) -> list[str]:
    """Finished runs whose predictions are drawn."""
    values = defaults()
    form = "multi" if place.kind == "multi" else "single"
    task = {"root": str(place.root / "data"), "name": "noise", "solution": "solution.csv", "kind": form}
    values["competition"].update(task, metric=METRICS[place.kind][0])
    values["folds"].update(n=FOLDS, **folds)
    values["paths"].update(dict(path.removeprefix("paths.").split("=") for path in place.paths))
    for number, name in enumerate(names):
        config = build({**values, "run": name})
        competition = open_competition(config)
        fold_of = open_folds(config, competition)
        rng = np.random.default_rng((seed, number))
        write_config(place.runs / name / "config.yaml", plain(config))

        def pred(rows: int, rng: np.random.Generator = rng) -> np.ndarray:
            drawn = rng.random((rows, 4)) if place.kind == "multi" else rng.dirichlet(np.ones(4), rows)
            return drawn.astype(np.float32)

        for k in range(FOLDS):
            own, folder, classes = (
                np.flatnonzero(fold_of == k),
                fold_folder(place.runs, name, k),
                competition.task.names,
            )
            target = competition.task.cells(competition.y[own])
            ids, test_ids, form = competition.train.ids[own], competition.test.ids, competition.task.kind
            oof = Predictions(ids, pred(len(own)), classes, np.full(len(own), k), target, form)
            test = Predictions(test_ids, pred(TEST), classes, np.full(TEST, k), kind=form)
            save_predictions(folder / "oof.npz", oof)
            save_predictions(folder / "test.npz", test)
            write_json(folder / "manifest.json", {"score": 0.0, "kept": "raw", "seconds": {"total": 1.0}})
    return names


def printed_scores(text: str) -> tuple[float, float]:
    """`nested` and `plain` of the last line that has them."""
    found = re.findall(r"nested (-?[\d.]+)   plain (-?[\d.]+)", text)[-1]
    return float(found[0]), float(found[1])
