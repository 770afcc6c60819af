"""The network that the keys `model.*` describe, for training and from a finished run, and its optimiser.

All keys of the sections `model` and `optimizer` that build them are known here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from src.competition.kinds.number import Scaling, scaling_of
from src.competition.task import Task
from src.config import Config, ModelConfig, OptimizerConfig, build, loss_for
from src.errors import UserError

if TYPE_CHECKING:  # loading torch takes seconds, and `./run.sh features` may only ask what a network is
    import numpy as np
    import torch
    from torch import nn

    from src.data.spec import ImageSpec, Normalisation
    from src.model.outputs import Outputs
    from src.model.weights import WeightsSource
    from src.training.learner import Learner

# Keys that leave the network as it is and only say how it comes to its weights; `acnet` is gone from what is saved.
TRAINING_KEYS = (
    "pretrained", "weights", "drop_rate", "drop_path_rate", "start", "init", "margin", "acnet", "sync_bn", "compile",
    "freeze", "hold_norms",
)  # fmt: skip


def build_from(
    config: ModelConfig,
    classes: int,
    source: WeightsSource,
    *,
    seed: int = 0,
    spec: ImageSpec,
    trained: bool = False,
) -> tuple[nn.Module, Normalisation]:
    """`build_model` with all keys of the section `model`. Raises its UserErrors, and one for keys that exclude each
    other.

    trained: `source` is what a run has saved, the network is for prediction, and what only training needs is left out.
    """
    from src.model.backbone import build_model

    if not trained:
        refuse_contradictions(config, source)
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    elsewhere = ("name", "pretrained", "weights", "margin", "sync_bn", "compile", "freeze", "hold_norms")
    for key in (*elsewhere, *(TRAINING_KEYS if trained else ())):
        values.pop(key, None)
    return build_model(config.name, classes, source, seed=seed, spec=spec, **values)


def outputs_from(config: Config, task: Task, y: np.ndarray) -> Outputs:
    """What the network of this configuration ends in; y: of the rows that it learns from, which numbers are scaled
    by."""
    scaling = scaling_of(y, loss_for(task.kind, config.loss.name)) if task.numeric else None
    return outputs_again(config, task, scaling)


def outputs_again(config: Config, task: Task, scaling: Scaling | None) -> Outputs:
    """`outputs_from` with the scaling that is known."""
    from src.model.outputs import outputs_of

    groups = () if task.exclusive else task.groups
    return outputs_of(task.kind, loss_for(task.kind, config.loss.name), len(task.names), groups, scaling)


def on_device(network: Any, accelerator: Any) -> Any:
    """The network on its device, its convolutions in the layout that they are fastest in."""
    import torch

    return network.to(accelerator.device, memory_format=torch.channels_last)


def optimizer_from(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """`build_optimizer` with the keys of the section `optimizer` that it takes."""
    from src.training.optimizer import build_optimizer

    return build_optimizer(
        model,
        config.name,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        decay_bias=config.decay_bias,
        layer_decay=config.layer_decay,
        fused=config.fused,
    )


def make_learner(config: Config, network: nn.Module, accelerator: Any) -> Learner:
    """`network` with its optimiser and averages, prepared for its device and processes."""
    from src.training.averaging import Ema, make_swa
    from src.training.device import sync_batchnorm
    from src.training.learner import Learner

    synced = sync_batchnorm(network, accelerator) if config.model.sync_bn else network
    optimizer, average = optimizer_from(config.optimizer, synced), config.average
    ema = Ema(synced, average.ema, average.ema_every) if average.ema else None  # copies: made before `prepare`
    swa = make_swa(synced) if average.swa else None
    prepared, stepping = accelerator.prepare(synced, optimizer)
    if config.model.compile:  # in place, so that names and copies of the weights stay as they are
        prepared.compile(dynamic=False)
    return Learner(accelerator, prepared, stepping, ema, swa, config.optimizer.clip)


def refuse_contradictions(config: ModelConfig, source: WeightsSource) -> None:
    """UserError for keys of the section `model` that exclude each other, or do not go with pretrained weights."""
    if config.separable and config.acnet:
        raise UserError("model.separable=true leaves no 3x3 convolutions to model.acnet=true; choose one of them")
    if config.separable_width > 1 and not config.separable:
        raise UserError(f"model.separable_width={config.separable_width}: needs model.separable=true")
    if config.subcentres > 1 and config.head == "linear":
        raise UserError(f"model.subcentres={config.subcentres}: needs model.head=cosface or arcface")
    for key, value, option in (
        ("pool", None if config.pool == "default" else config.pool, "global_pool"),
        ("output_stride", config.output_stride, "output_stride"),
    ):
        if value is not None and option in config.options:
            raise UserError(f"model.{key}={value}: model.options.{option}={config.options[option]} says it as well")
    if source.kind == "run":  # which has been built with these keys before
        return
    if config.init != "default" and source.pretrained:
        raise UserError(f"model.init={config.init}: is for training from scratch ({source.why}); or model.init=default")
    if config.separable and source.pretrained and config.weights is None:  # a file may be of a separable network
        raise UserError(f"model.separable=true: {source.why}, which have no such layers; set model.pretrained=never")


def norms_to_hold(config: ModelConfig, source: WeightsSource) -> tuple[bool, str]:
    """Whether BatchNorm keeps its statistics (`model.hold_norms`), and why not where it cannot: they are true of the
    very layers and weights that they were taken from."""
    if not config.hold_norms:
        return False, ""
    if not source.pretrained:
        return False, "there are none to hold in training from scratch"
    if source.kind == "run":
        return False, "those of a pruned network are of the whole one"
    for key in ("activation", "separable", "acnet"):
        if value := getattr(config, key):
            return False, f"model.{key}={str(value).lower()} has exchanged the layers that they were taken from"
    return True, ""


def trained_model(config: Mapping[str, Any]) -> ModelConfig:
    """The section `model` of a run's config.yaml; a run that was made before a key existed has its default."""
    return build({"model": config["model"]}).model


def architecture(config: ModelConfig) -> dict[str, Any]:
    """The keys that decide which network a file of weights belongs to, without those at their defaults."""
    default, given = (dataclasses.asdict(each) for each in (ModelConfig(), config))
    skip = TRAINING_KEYS if config.head != "linear" else (*TRAINING_KEYS, "scale", "subcentres")
    return {key: value for key, value in given.items() if key not in skip and value != default[key] and key != "name"}
