"""`model.start=probe`: the new classifier begins as the linear model that is best on the backbone's own features.

A classifier that knows nothing pulls the backbone about before it has learnt what the features say (2202.10054). So the
training rows are passed through the pretrained network once, as it predicts, and a regularised linear model of their
features becomes weight and bias of the classifier. At the size of the first stage, whose batches are the first that
this classifier meets, and which is never larger than what follows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.competition.metrics import Metric
from src.competition.tables import Competition
from src.config import Config, LossConfig
from src.data.spec import ImageSpec, example_input
from src.ensembling.nested import splits
from src.errors import UserError
from src.fold.lesson import flipped
from src.fold.objective import labelled
from src.fold.predictor import make_predictor
from src.fold.setup import Setup
from src.inference.tta import parse_views
from src.log import say
from src.runs.opening import groups_of
from src.training import linear_probe
from src.training.linear_probe import STRENGTHS, Linear
from src.training.stages import subset

# What bounds the time with many rows or classes. 1,000 classes of 1,280 features are fitted on 7,812 rows, which takes
# two cores about a minute; what the sample does not know, the epochs after it learn.
ROWS = 20_000
WORK = 1e10  # multiply-adds of a pass over the features: rows x features x outputs
INNER_WORK = 2e8  # above: one inner part chooses the strength, not all five
FALLBACK = 1e-2  # the inverse strength where there are too few rows to choose it


def start_from_probe(
    config: Config, competition: Competition, start: Setup, size: int, metric: Metric, accelerator: Any
) -> bool:
    """Fit the classifier of `start.network` on features of the fold's training rows, where `model.start` asks for it.
    Returns whether it has been.

    Not where weights are those of a run, whose classifier is no new one; nor, with a line that says why, where the
    network does not end in one linear layer on pooled features. The same on all processes: fitted by the first.
    """
    if config.model.start != "probe" or not start.source.pretrained or start.source.kind == "run":
        return False
    began, network = time.monotonic(), start.network
    head = linear_head(network, size, start.train.spec)
    if isinstance(head, str):
        say(f"model.start=probe: {head}; its classifier starts as with model.start=zero")
        return False

    # ---- features ---------------------------------------------------------------------------------------------------
    task, rows = competition.task, start.fold.train
    most = min(ROWS, int(WORK / (head.in_features * head.out_features)))
    if len(rows) > most:
        rows = rows[subset(task.strata(competition.y)[rows], most / len(rows), seed=config.seed)]
    activations = make_predictor(config, accelerator, start.preprocess, activation=lambda x: x)
    with replaced(network, head, nn.Identity()):
        features = activations(network, start.train, rows, size=size, views=parse_views("none"))

    # ---- fit --------------------------------------------------------------------------------------------------------
    fitted = Linear(head.weight.detach(), head.bias.detach())
    if accelerator.is_main_process:
        fitted, found = fit_probe(config, competition, start, rows, features, metric)
        seconds = time.monotonic() - began
        say(f"model.start=probe: {len(rows)} rows at {size} px, {found}, {seconds:.0f} s")
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast

        fitted = broadcast(Linear(*(values.to(head.weight.device).contiguous() for values in fitted)))
    with torch.no_grad():
        head.weight.copy_(fitted.weight)
        head.bias.copy_(fitted.bias)
    return True


def fit_probe(
    config: Config, competition: Competition, start: Setup, rows: np.ndarray, features: np.ndarray, metric: Metric
) -> tuple[Linear, str]:
    """The linear model of `features` (n, D) of the training `rows` (n,), and what inner folds say about it.

    Its loss is the run's on hard labels; of the focal loss, and of errors of numbers that are not squared, the one that
    a linear model is usually fitted with: cross-entropy and least squares.
    """
    device = start.preprocess.device if start.preprocess.device.type == "cuda" else torch.device("cpu")
    task, kept = competition.task, config.loss.name in ("bce", "ordinal")
    y = flipped(competition.y, start.fold.train, len(task.names), config.loss.flip_labels, config.seed)
    plain = LossConfig(name=config.loss.name if kept else "auto", class_weights=config.loss.class_weights)
    objective = labelled(task, y, start.fold.train, start.outputs, plain, device)
    x = torch.from_numpy(features).to(device)
    targets = objective.targets(torch.from_numpy(rows).to(device))

    def loss(logits: Tensor, wanted: Tensor) -> Tensor:
        return objective.loss(logits, wanted, x)  # which looks at no inputs without a teacher

    mean, std = linear_probe.scaling_of(x)
    scaled, width = (x - mean) / std, start.outputs.width
    c, begin, text = FALLBACK, linear_probe.nothing(x, width), f"C={FALLBACK:g} as they are too few to choose it"
    parts = inner_parts(config, competition, rows, scaled.numel() * width)
    if parts:
        there = [(torch.from_numpy(fit).to(device), torch.from_numpy(score).to(device)) for fit, score in parts]
        chosen = linear_probe.choose(scaled, targets, loss, there, width, STRENGTHS)
        c, begin = chosen.c, chosen.by_part[0]
        scored = rows[np.concatenate([score for _, score in parts])]
        text = inner_score(metric, competition.y[scored], start.outputs.predict(chosen.held_out).cpu().numpy())
        text += f"loss {chosen.loss:.4f} on inner folds with C={c:.2g}"
    return linear_probe.unscaled(linear_probe.fit(scaled, targets, loss, c, begin), mean, std), text


def inner_parts(
    config: Config, competition: Competition, rows: np.ndarray, work: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Positions in `rows` (n,) to fit and to score, with whole groups; none if there are too few rows for that."""
    groups = groups_of(config, competition, rows)
    strata = np.unique(competition.task.strata(competition.y)[rows], return_inverse=True)[1].reshape(-1)
    try:
        found = splits(np.zeros(len(rows), np.int64), strata, config.seed, groups)
    except UserError:
        return []
    parts = [(part.fit, part.score) for part in found if len(part.score)]
    return parts if work <= INNER_WORK else parts[:1]


def inner_score(metric: Metric, y: np.ndarray, pred: np.ndarray) -> str:
    """`accuracy 0.8123, `, or nothing where the metric cannot be had of these rows (of one class, say)."""
    try:
        return f"{metric.name} {metric.score(y, pred):.4f}, "
    except (UserError, ValueError, ZeroDivisionError):
        return ""


def linear_head(network: Any, size: int, spec: ImageSpec) -> nn.Linear | str:
    """The one linear layer with a bias that the network ends in, on features (B, D); or why there is none.

    By trial: with another layer of these sizes in its place, the network has to say what that says of its features.
    """
    found = network.get_classifier() if hasattr(network, "get_classifier") else None
    if not isinstance(found, nn.Linear) or found.bias is None:
        kind = "several layers" if isinstance(found, (tuple, list)) else type(found).__name__
        return f"{type(network).__name__} ends in {kind}, not in one linear layer with a bias"
    x = example_input(spec, 2, size, found.weight.device)
    other: Any = nn.Linear(found.in_features, found.out_features).to(found.weight.device)
    mode = network.training
    network.eval()
    with torch.no_grad():
        with replaced(network, found, nn.Identity()):
            features = network(x)
        with replaced(network, found, other):
            logits = network(x)
        plain = features.shape == (2, found.in_features) and torch.allclose(logits, other(features), 1e-3, 1e-4)
    network.train(mode)
    return found if plain else f"the classifier of {type(network).__name__} does not stand on pooled features"


@contextmanager
def replaced(network: nn.Module, module: nn.Module, other: nn.Module) -> Iterator[None]:
    """`other` in the place of `module`, for a while."""
    name = next(name for name, each in network.named_modules() if each is module)
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, other)
    try:
        yield
    finally:
        setattr(network.get_submodule(parent), own, module)
