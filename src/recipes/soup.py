"""Average the weights of runs of one architecture: load, choose on out-of-fold rows, fresh BatchNorm, save as a run."""

from __future__ import annotations

import dataclasses
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from src.competition.folds import fold_rows
from src.config import Config
from src.data.preprocess import Preprocess
from src.ensembling.nested import nested, splits
from src.ensembling.soup import Chosen, greedy, mean_state
from src.errors import UserError
from src.files import read_config, read_json
from src.fold.lesson import augmented_inputs
from src.fold.measured import ranges
from src.fold.network import architecture, on_device, trained_model
from src.fold.plan import stages_of
from src.fold.predictor import TrainedFold, load_network, make_predictor, predict_test
from src.inference.tta import parse_views
from src.model.weights_file import read_state
from src.predictions import Predictions
from src.recipes.report import report_at_end
from src.runs.combined import FoldResult, compared, named, open_members, rows_of, save_run
from src.runs.folder import Runs, fold_folder, open_runs
from src.runs.opening import groups_of, open_competition, open_folds, open_images
from src.runs.scoring import metric_of
from src.training.averaging import refresh_batchnorm
from src.training.device import make_accelerator
from src.training.stages import training_orders


def soup(config: Config) -> None:
    """Greedy (or uniform) soups of `config.runs`, fold by fold: fold k's networks of all runs are averaged.

    Which runs join fold k's soup is decided on the other folds' rows, so the score is nested; where there is but one
    fold, on parts of its rows. A soup of one run is that run. The result has weights of its own and can predict.
    """
    began = time.monotonic()
    competition = open_competition(config)
    config = named(config, "soup", f"{competition.name}-soup")
    members, runs = open_members(config, competition), open_runs(config.paths)
    sizes = {k: same_network(runs, members.names, k) for k in members.folds}
    task, folds = competition.task, open_folds(config, competition)
    metric = metric_of(config, competition)
    table_rows = rows_of(competition, members.ids)

    accelerator = make_accelerator(config.device, config.precision)
    short_side = round(max(sizes.values()) / config.eval.crop)
    images = partial(open_images, config, competition, short_side=short_side)
    store = images(competition.train.images, unreadable="blank")
    test_store = images(competition.test.images, unreadable="mark")
    views = parse_views(config.tta)

    def build_soup(chosen: Chosen, k: int) -> tuple[TrainedFold, Preprocess, Any]:
        """Fold k's network of the chosen runs, how it is shown images, and its predictor."""
        files = [fold_folder(runs, members.names[r], k) / "weights.safetensors" for r in chosen]
        first = load_network(runs, members.names[chosen[0]], k)
        network = on_device(first.network, accelerator)
        preprocess = Preprocess(first.normalisation, accelerator.device, store.spec)
        if len(chosen) > 1:
            network.load_state_dict(mean_state([read_state(file) for file in files]))
            rows = fold_rows(folds, k).train
            last = dataclasses.replace(stages_of(config, rows, task.strata(competition.y)[rows])[-1], size=sizes[k])
            augment = ranges(config.augment, read_json(files[0].parent / "manifest.json").get("brightness"))
            orders = training_orders([last], augment, config.seed, last.start)
            refresh_batchnorm(network, augmented_inputs(store, orders, config.average.bn_batches, preprocess))
        return first, preprocess, make_predictor(config, accelerator, preprocess, first.outputs.predict)

    @cache
    def predictions(chosen: Chosen) -> np.ndarray:
        """(N, C) out-of-fold, each fold's rows by its own soup; a single member also in the soup's views."""
        pred = np.empty_like(members.oof[0])
        for k in members.folds:
            made, _, probabilities = build_soup(chosen, k)
            there = members.fold == k
            pred[there] = probabilities(made.network, store, table_rows[there], size=sizes[k], views=views)
        return pred

    def choose(rows: np.ndarray) -> Chosen:
        def quality(chosen: Chosen) -> float:
            return metric.sign * metric.function(members.y[rows], predictions(chosen)[rows])

        everyone = range(len(members.names))
        if config.soup.method == "uniform":
            return tuple(everyone)
        return greedy(sorted(everyone, key=lambda r: quality((r,)), reverse=True), quality)

    parts = splits(
        members.fold,
        task.strata(members.y),
        config.seed,
        groups_of(config, competition, rows_of(competition, members.ids)),
    )
    found = nested(
        parts,
        lambda k, rows: choose(rows),
        lambda chosen, k, rows: predictions(chosen)[rows],
        len(members.ids),
        len(task.names),
    )
    plain = choose(np.arange(len(members.ids)))

    results = {}
    for k, chosen in found.fitted.items():
        made, preprocess, probabilities = build_soup(chosen, k)
        prior = task.prior(competition.y[fold_rows(folds, k).train], metric.name)
        test, _ = predict_test(
            probabilities, made.network, test_store, competition.test.ids, prior, size=sizes[k], views=views
        )
        names = [members.names[r] for r in chosen]
        notes = {
            "model": config.model.name,
            "size": sizes[k],
            "short_side": short_side,
            "normalisation": dataclasses.asdict(preprocess.normalisation),
            "prior": prior.tolist(),
            "scaling": made.outputs.scaling,
        }
        results[k] = FoldResult(
            test=test,
            kept="+".join(names),
            weights=dict.fromkeys(names, 1 / len(names)),
            notes=notes,
            state=made.network.state_dict(),
        )
    oof = Predictions(members.ids, found.pred, task.names, members.fold, task.cells(members.y), task.kind)
    save_run(config, competition, oof, competition.test.ids, results, began)
    scored = {name: metric.function(members.y, members.oof[r]) for r, name in enumerate(members.names)}
    print()
    for name, value in scored.items():
        print(f"member {name}   {metric.name} {value:.4f}")
    print(f"chosen on all rows: {'+'.join(members.names[r] for r in plain)}")
    nested_score, plain_score = (metric.function(members.y, p) for p in (found.pred, predictions(plain)))
    print(compared(metric, scored, nested_score, plain_score), flush=True)
    report_at_end(config)


def same_network(runs: Runs | Path, names: tuple[str, ...], k: int) -> int:
    """The size in pixels that all networks of fold k were chosen at. Raises UserError if the runs' networks differ."""
    kinds = {}
    for name in names:
        folder, config = fold_folder(runs, name, k), read_config(runs / name / "config.yaml")
        if not (folder / "weights.safetensors").is_file():
            raise UserError(f"runs: {name!r} has no weights of its own; a soup takes trained runs")
        kinds[name] = (
            config["model"]["name"],
            f" with {network}" if (network := architecture(trained_model(config))) else "",
            read_json(folder / "manifest.json")["size"],
            config.get("prune") or {"run": None},
        )
    manifests = {name: read_json(fold_folder(runs, name, k) / "manifest.json") for name in names}
    for entry, what, key in (
        ("normalisation", "normalises", "of one normalise="),
        ("scaling", "scales its numbers", "of the same rows and one loss.name="),
    ):
        mine = manifests[names[0]].get(entry)
        other = [name for name, one in manifests.items() if one.get(entry) and mine and one[entry] != mine]
        if other:
            raise UserError(f"runs: {other[0]!r} {what} otherwise than {names[0]!r}; a soup takes runs {key}")
    first = kinds[names[0]]
    for name, kind in kinds.items():
        if kind != first:
            raise UserError(
                f"runs: {name!r} is {kind[0]}{kind[1]} at {kind[2]} px, "
                f"{names[0]!r} is {first[0]}{first[1]} at {first[2]} px; "
                "a soup takes runs of one network and size"
            )
    return int(first[2])
