"""Score against test size: each fold's network on its held-out rows at several sizes; table, picture, the best one."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from src.config import Config
from src.data.preprocess import Preprocess
from src.errors import UserError
from src.files import write_csv
from src.fold.network import on_device
from src.fold.predictor import load_network, make_predictor
from src.inference.tta import parse_views
from src.model.backbone import check_sizes
from src.predictions import load_predictions
from src.reporting.figures import sizes_picture
from src.runs.claims import run_name
from src.runs.combined import rows_of
from src.runs.folder import Runs, finished_folds, fold_folder, open_runs
from src.runs.opening import image_spec, open_competition, open_images
from src.runs.scoring import metric_of
from src.runs.start import TEST, check_data
from src.training.device import make_accelerator


def score_sizes(config: Config) -> None:
    """Writes runs/<run>/figures/sizes.csv and sizes.png and prints the table, of `config.sizes` and the run's own size.

    The size that is best on all out-of-fold rows is named, with the nested score of choosing: each fold at the size
    that is best on the other folds' rows. With `config.runs` the picture has the out-of-fold score of this run and of
    those (before and after FixRes, say), whose sizes.csv must be there.
    """
    run, runs = run_name(config), open_runs(config.paths)
    folds = [k for k in finished_folds(runs, run) if config.fold == "all" or k == int(config.fold)]
    if not folds or not (fold_folder(runs, run, folds[0]) / "weights.safetensors").is_file():
        raise UserError(f"run={run}: has no finished fold with weights; give a trained run")
    if not config.sizes or min(config.sizes) < 8:
        raise UserError(f"sizes={list(config.sizes)}: which pixels? Give some from 8 on, e.g. sizes=[96,112,128]")
    others = {other: measured_before(runs, other) for other in config.runs}
    competition = open_competition(config)
    check_data(runs, run, f"run={run}", competition, but=TEST)
    task, metric = competition.task, metric_of(config, competition)
    accelerator, views = make_accelerator(config.device, config.precision), parse_views(config.tta)
    parts = {k: load_predictions(fold_folder(runs, run, k) / "oof.npz") for k in folds}
    y = {k: task.encode(np.asarray(part.target)) for k, part in parts.items()}
    pred: dict[tuple[int, int], np.ndarray] = {}
    trained = 0
    for k, part in parts.items():
        own = load_network(runs, run, k)
        trained, network = own.size, on_device(own.network, accelerator)
        sizes = sorted({*config.sizes, trained})
        check_sizes(config.model.name, network, sizes, image_spec(config.competition))
        short_side = round(max(sizes) / config.eval.crop)
        store = open_images(config, competition, competition.train.images, short_side=short_side, unreadable="blank")
        probabilities = make_predictor(
            config, accelerator, Preprocess(own.normalisation, accelerator.device, store.spec), own.outputs.predict
        )
        rows = rows_of(competition, part.ids)
        for size in sizes:
            pred[k, size] = probabilities(network, store, rows, size=size, views=views)

    def score(size: int, among: list[int]) -> float:
        together = [np.concatenate(column) for column in zip(*((y[k], pred[k, size]) for k in among), strict=True)]
        return metric.function(*together)

    def best(among: list[int]) -> int:
        return metric.best({size: score(size, among) for size in sizes})

    table = {f"fold {k}": [score(size, [k]) for size in sizes] for k in folds}
    table["out-of-fold"] = [score(size, folds) for size in sizes]
    print(f"\n{run}   {metric.name} by test size\n{'px':<12}" + "".join(f"{size:>9}" for size in sizes))
    for name, values in table.items():
        print(f"{name:<12}" + "".join(f"{value:9.4f}" for value in values))
    print(f"best {best(folds)} px, trained at {trained} px; chosen on the very rows that are scored", end="")
    if len(folds) > 1:
        chosen = {k: best([other for other in folds if other != k]) for k in folds}
        nested = [np.concatenate(c) for c in zip(*((y[k], pred[k, chosen[k]]) for k in folds), strict=True)]
        print(f", nested {metric.function(*nested):.4f}", end="")
    print(f"\nto predict with it: ./run.sh predict run={run} size={best(folds)}")

    figures = runs.own / run / "figures"
    columns = {"size": sizes, **table}
    lines = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    write_csv(figures / "sizes.csv", lines)
    if others:
        others[run] = dict(zip(sizes, table["out-of-fold"], strict=True))
        picture = sizes_picture(figures / "sizes_of_runs.png", others, metric.name, "out-of-fold score by test size")
    else:
        curves = {name: dict(zip(sizes, values, strict=True)) for name, values in table.items()}
        picture = sizes_picture(figures / "sizes.png", curves, metric.name, f"{run}: trained at {trained} px")
    print(f"wrote {picture}", flush=True)


def measured_before(runs: Runs | Path, run: str) -> dict[int, float]:
    """Out-of-fold score by size, of a run whose sizes have been measured. Raises UserError if they have not."""
    path = runs / run / "figures" / "sizes.csv"
    if not path.is_file():
        raise UserError(f"runs: {run} has no {path}; first ./run.sh sizes run={run} sizes=[…]")
    with open(path, newline="", encoding="utf-8") as file:
        return {int(row["size"]): float(row["out-of-fold"]) for row in csv.DictReader(file)}
