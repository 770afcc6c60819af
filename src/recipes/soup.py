"""Average the weights of runs of one architecture: load, choose on out-of-fold rows, fresh BatchNorm, save as a run."""

from __future__ import annotations

import dataclasses
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.artefacts import Predictions, fold_folder, read_config, read_json
from src.competition.folds import fold_rows
from src.competition.metrics import find_metric
from src.config import Config
from src.data.cache import ImageStore
from src.ensembling.nested import nested, splits
from src.ensembling.soup import Chosen, greedy, mean_state
from src.errors import UserError
from src.inference.tta import parse_views
from src.model.backbone import Normalisation
from src.model.weights_file import read_state
from src.recipes.batch_size import usual
from src.recipes.fitted import ranges
from src.recipes.lesson import augmented_inputs
from src.recipes.network import architecture, trained_model
from src.recipes.predict import load_network, make_predictor, predict_test
from src.recipes.second_level import FoldResult, compared, groups_of, named, open_members, rows_of, save_run
from src.recipes.task import image_cache, open_competition, open_folds
from src.training.averaging import refresh_batchnorm
from src.training.device import make_accelerator, say
from src.training.stages import plan


def soup(config: Config) -> None:
    """Greedy (or uniform) soups of `config.runs`, fold by fold: fold k's networks of all runs are averaged.

    Which runs join fold k's soup is decided on the other folds' rows, so the score is nested; where there is but one
    fold, on parts of its rows. A soup of one run is that run. The result has weights of its own and can predict.
    """
    began = time.monotonic()
    kind = config.method or "greedy"
    if kind not in ("greedy", "uniform"):
        raise UserError(f"soup: method={kind}: choose greedy or uniform; {kind} belongs to ./run.sh ensemble")
    config = dataclasses.replace(config, method=kind)
    competition = open_competition(config)
    config = named(config, f"{competition.name}-soup")
    members, runs = open_members(config, competition), Path(config.paths.runs)
    sizes = {k: same_network(runs, members.names, k) for k in members.folds}
    metric, folds = find_metric(config.competition.metric), open_folds(config, competition)
    table_rows = rows_of(competition, members.ids)

    accelerator = make_accelerator(config.device, config.precision)
    short_side = round(max(sizes.values()) / config.eval.crop)
    open_store = partial(
        ImageStore,
        competition.root,
        short_side=short_side,
        folder=image_cache(config, competition, short_side),
        max_megapixels=config.competition.max_megapixels,
    )
    store = open_store(competition.paths, unreadable="blank")
    test_store = open_store(competition.test_paths, unreadable="mark")
    views = parse_views(config.tta)

    def brew(chosen: Chosen, k: int) -> tuple[torch.nn.Module, Normalisation, Any]:
        """Fold k's network of the chosen runs, its normalisation and its predictor."""
        files = [fold_folder(runs, members.names[r], k) / "weights.safetensors" for r in chosen]
        network, normalisation, _ = load_network(runs, members.names[chosen[0]], k, len(competition.classes))
        network = network.to(accelerator.device, memory_format=torch.channels_last)
        probabilities = make_predictor(config, accelerator, normalisation)
        if len(chosen) > 1:
            network.load_state_dict(mean_state([read_state(file) for file in files]))
            fold = fold_rows(folds, k)
            last = plan(
                config.stages,
                rows=fold.train,
                labels=competition.labels[fold.train],
                epochs=config.epochs,
                size=sizes[k],
                batch_size=usual(config),
                seed=config.seed,
                balance=config.balance,
            )[-1]
            inputs = augmented_inputs(
                store,
                dataclasses.replace(last, size=sizes[k]),
                ranges(config.augment, read_json(files[0].parent / "manifest.json").get("brightness")),
                config.seed,
                config.average.bn_batches,
                accelerator,
                normalisation,
            )
            refresh_batchnorm(network, inputs)
        return network.eval(), normalisation, probabilities

    @cache
    def predictions(chosen: Chosen) -> np.ndarray:
        """(N, C) out-of-fold, each fold's rows by its own soup."""
        if len(chosen) == 1:
            return members.oof[chosen[0]]
        pred = np.empty_like(members.oof[0])
        for k in members.folds:
            network, _, probabilities = brew(chosen, k)
            there = members.fold == k
            pred[there] = probabilities(network, store, table_rows[there], size=sizes[k], views=views)
        return pred

    def choose(rows: np.ndarray) -> Chosen:
        def quality(chosen: Chosen) -> float:
            value = metric.function(members.labels[rows], predictions(chosen)[rows])
            return value if metric.greater_is_better else -value

        everyone = range(len(members.names))
        if kind == "uniform":
            return tuple(everyone)
        return greedy(sorted(everyone, key=lambda r: quality((r,)), reverse=True), quality)

    parts = splits(members.fold, members.labels, config.seed, groups_of(competition, members.ids))
    found = nested(
        parts,
        lambda k, rows: choose(rows),
        lambda chosen, k, rows: predictions(chosen)[rows],
        len(members.ids),
        len(members.classes),
    )
    plain = choose(np.arange(len(members.ids)))

    results = {}
    for k, chosen in found.fitted.items():
        network, normalisation, probabilities = brew(chosen, k)
        test, _ = predict_test(
            probabilities,
            network,
            test_store,
            competition,
            competition.labels,
            size=sizes[k],
            views=views,
            say=partial(say, accelerator),
        )
        names = [members.names[r] for r in chosen]
        notes = {"model": config.model.name, "size": sizes[k], "normalisation": dataclasses.asdict(normalisation)}
        results[k] = FoldResult(
            test=test,
            kept="+".join(names),
            weights=dict.fromkeys(names, 1 / len(names)),
            notes=notes,
            state=network.state_dict(),
        )
    target = members.classes[members.labels]
    oof = Predictions(members.ids, found.pred, members.classes, members.fold, target)
    save_run(config, competition, oof, competition.test_ids, results, began)
    scored = {name: metric.function(members.labels, members.oof[r]) for r, name in enumerate(members.names)}
    print()
    for name, value in scored.items():
        print(f"member {name}   {metric.name} {value:.4f}")
    print(f"chosen on all rows: {'+'.join(members.names[r] for r in plain)}")
    nested_score, plain_score = (metric.function(members.labels, p) for p in (found.pred, predictions(plain)))
    print(compared(metric.name, scored, nested_score, plain_score), flush=True)


def same_network(runs: Path, names: tuple[str, ...], k: int) -> int:
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
    means = {name: read_json(fold_folder(runs, name, k) / "manifest.json").get("normalisation") for name in names}
    other = [name for name in names if means[name] and means[names[0]] and means[name] != means[names[0]]]
    if other:
        raise UserError(
            f"runs: {other[0]!r} normalises otherwise than {names[0]!r}; a soup takes runs of one normalise="
        )
    first = kinds[names[0]]
    for name, kind in kinds.items():
        if kind != first:
            raise UserError(
                f"runs: {name!r} is {kind[0]}{kind[1]} at {kind[2]} px, "
                f"{names[0]!r} is {first[0]}{first[1]} at {first[2]} px; "
                "a soup takes runs of one network and size"
            )
    return int(first[2])
