"""The network: a timm backbone with a classifier for the competition's classes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import timm
import torch
from torch import nn

from src.data.spec import RGB, ImageSpec, Normalisation, example_input
from src.errors import UserError
from src.model.conversions import convert
from src.model.convolutions import use_acnet
from src.model.hub import is_hub_name
from src.model.layers import initialise, start_at_zero
from src.model.packaged_weights import packaged_state
from src.model.weights import WeightsSource, check_model_name
from src.model.weights_file import load_state, load_weights


def build_model(
    name: str,
    classes: int,
    source: WeightsSource,
    *,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    options: dict[str, Any] | None = None,
    output_stride: int | None = None,
    pool: Literal["default", "avg", "max", "avgmax", "catavgmax", "gem"] = "default",
    acnet: bool = False,
    start: Literal["default", "zero", "probe"] = "default",
    init: Literal["default", "he", "xavier"] = "default",
    seed: int = 0,
    spec: ImageSpec = RGB,
    **conversions: Any,
) -> tuple[nn.Module, Normalisation]:
    """A timm model with a fresh `classes`-way head, and the normalisation that its weights expect.

    Weights are initialised from `seed` (He initialisation, and zero-gamma on the last norm of each residual block by
    timm's default, Bag of Tricks 3.1.3) and then replaced as `source` says. What is exchanged in the network
    (`conversions`: keywords of `convert`) is exchanged before a file is read, so a file of the network without it fits
    as far as it has the same layers; only acnet comes after, because files hold what it is fused into. `start` is of a
    classifier on weights that come from somewhere (a probe is fitted later, where there are images; it is zero until
    then). `init` is for training from scratch: weights that come from somewhere stay. Raises UserError for an unknown
    model, options or keys that the model does not take, or weights that do not fit.
    """
    check_model_name(name)
    torch.manual_seed(seed)
    timm_pool = None if pool in ("default", "gem") else pool
    arguments: dict[str, Any] = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
    arguments |= {"output_stride": output_stride, "global_pool": timm_pool, **(options or {})}
    # only what differs from 0 is passed on: not every timm model takes every argument
    arguments = {key: value for key, value in arguments.items() if value or key in (options or {})}
    if spec.channels != RGB.channels:  # timm sums or repeats the pretrained filters of the first layer
        arguments["in_chans"] = spec.channels
    if source.kind == "hub":
        arguments["pretrained"] = True
        if source.path is not None:  # timm would ask the network whether its cache is up to date
            arguments["pretrained_cfg_overlay"] = {"file": str(source.path), "source": ""}
    try:
        model = _create(source.model or name, num_classes=classes, **arguments)
    except (OSError, RuntimeError) as error:  # whatever the hub, the network or its cache make of it
        if isinstance(error, RuntimeError) and not (source.kind == "hub" or is_hub_name(name)):
            raise
        why = " ".join(str(error).split())[:160]
        cure = "name its timm architecture as model=" if is_hub_name(name) else "model.pretrained=never"
        raise UserError(f"model={name}: the hub failed ({why}); give model.weights=FILE or {cure}") from None
    except (TypeError, KeyError, ValueError, AssertionError) as error:
        asked = {"model.options": options, "model.output_stride": output_stride, "model.pool": timm_pool}
        given = ", ".join(f"{key}={value}" for key, value in asked.items() if value) or f"model.options={options}"
        raise UserError(f"{given}: {name} does not take them ({' '.join(str(error).split())})") from None
    config = timm.data.resolve_model_data_config(model)
    fresh = model.pretrained_cfg.get("classifier") or ()  # what a file of first weights need not have
    fresh = [fresh] if isinstance(fresh, str) else [*fresh]
    fresh += convert(model, classes, pool=pool, **conversions)
    if source.kind == "package" and source.path is not None:
        load_state(model, packaged_state(name, source.path), source.path, tuple(fresh))
    elif source.kind in ("file", "run") and source.path is not None:
        load_weights(model, source.path, tuple(fresh), widths=source.kind == "run")
    if acnet:
        use_acnet(model, example_input(spec, 1, config["input_size"][-1]), start=0.0 if source.pretrained else 1.0)
    if start != "default" and source.pretrained and source.kind != "run":
        start_at_zero(model)
    if init != "default" and not source.pretrained:
        initialise(model, init)
    return model, spec.for_channels(Normalisation(tuple(config["mean"]), tuple(config["std"])))


def attends(name: str) -> bool:
    """Whether the timm model `name` has attention layers, by building it without data; False where timm cannot."""
    try:
        with torch.device("meta"):
            model = timm.create_model(name, pretrained=False)
    except Exception:  # a model of somebody's hub without its configuration at hand: building it will say why
        return False
    return any("Attention" in type(module).__name__ for module in model.modules())


def _create(name: str, **arguments: Any) -> Any:
    """timm.create_model; vision transformers are asked to accept any image size, which progressive resizing needs."""
    try:
        return timm.create_model(name, dynamic_img_size=True, dynamic_img_pad=True, **arguments)
    except TypeError:  # most models accept any size anyway and do not know the argument
        return timm.create_model(name, **arguments)


@torch.no_grad()
def check_sizes(
    name: str, model: nn.Module, sizes: Sequence[int], spec: ImageSpec = RGB, alone: Sequence[int] = ()
) -> None:
    """Raises UserError if `model` does not take images of one of `sizes`, by trying one of each; or if it cannot learn
    from one picture at a time, which is done at the sizes `alone`: BatchNorm has no variance of a single value."""
    device, mode = next(model.parameters()).device, model.training
    model.eval()
    for size in dict.fromkeys(sizes):
        try:
            model(example_input(spec, 1, size, device))
        except (RuntimeError, AssertionError, ValueError) as error:
            why = " ".join(str(error).split())[:160]
            raise UserError(
                f"model={name}: does not take images of {size} px ({why}); set size= or stages=[{{}}]"
            ) from None
    for size in dict.fromkeys(alone):
        trial = copy.deepcopy(model).train()
        try:
            trial(example_input(spec, 1, size, device))
        except ValueError:  # "Expected more than 1 value per channel when training"
            raise UserError(
                f"batch_size=1: BatchNorm of {name} learns nothing from a single picture of {size} px; set "
                "batch_size=2 or more (and batch_size of the stages, if they have one)"
            ) from None
    model.train(mode)
