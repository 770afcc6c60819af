"""Structured pruning: channels are taken out of a trained network, and what is left is built again from its shapes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.data.spec import RGB, ImageSpec, example_input
from src.errors import MissingPackage, UserError

WIDTHS = 8  # widths become multiples of this, rounded down, which vector units and tensor cores like


def prune(model: nn.Module, ratio: float, size: int, spec: ImageSpec = RGB) -> None:
    """Take the share `ratio` of channels out of every layer of `model`, in place, those of the smallest L2 norm.

    Channels that have to stay or go together (a residual sum, a depthwise convolution, a gate) are judged by their norm
    in all of these layers; the classifier keeps its outputs. Half of the channels is about a quarter of the weights and
    of the work. size: pixels of an image that it takes. Raises UserError for a network that cannot be pruned, such as a
    vision transformer, whose heads are no channels; it is spoilt then.

    By Torch-Pruning (2301.12900), pure Python, which finds the groups in the autograd graph.
    """
    try:
        import torch_pruning as tp
    except ImportError:
        raise MissingPackage("prune: needs the package torch-pruning; pip install torch-pruning") from None

    classifier = model.get_classifier()  # type: ignore[operator]
    mode, shapes = model.training, [tensor.shape for tensor in model.state_dict().values()]
    images = example_input(spec, 2, size, next(model.parameters()).device)
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")  # of parameters outside of layers: it guesses, and the trial below decides
            tp.pruner.BasePruner(
                model.eval(),
                images,
                importance=tp.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=ratio,
                ignored_layers=[classifier],
                round_to=WIDTHS,
                in_channel_groups={},  # its defaults are dictionaries that it fills, for all networks to come
                out_channel_groups={},
            ).step()
        with torch.no_grad():
            model(images)
    except Exception as error:  # whatever a graph that it does not understand makes of it
        why = " ".join(str(error).split())[:120]
        raise UserError(
            f"prune: the channels of this network cannot be pruned ({why}); take a convolutional one"
        ) from None
    finally:
        model.train(mode)
    if shapes == [tensor.shape for tensor in model.state_dict().values()]:
        raise UserError(f"prune.ratio={ratio}: takes no channel out of any layer, they are too narrow already")


def shrink_to(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give every tensor of `model` the shape that it has in `state`, the state dict of the same network after `prune`,
    in place, and tell the layers their widths.

    Afterwards `state` can be loaded; until then the changed values mean nothing. Tensors that `state` lacks, or has
    with other or longer dimensions, stay as they are: loading will say that they do not fit.
    """
    for name, module in model.named_modules():
        for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            wanted = state.get(f"{name}.{key}" if name else key, tensor).shape
            shorter = len(wanted) == tensor.ndim and all(
                new <= old for new, old in zip(wanted, tensor.shape, strict=True)
            )
            if wanted == tensor.shape or not shorter:
                continue
            if key == "weight":
                _set_widths(module, wanted)
            fresh = tensor.new_empty(wanted)
            setattr(module, key, nn.Parameter(fresh) if isinstance(tensor, nn.Parameter) else fresh)


def _set_widths(module: Any, weight: torch.Size) -> None:
    """What a layer knows of its own widths, from the new shape of its weight."""
    if isinstance(module, nn.Conv2d):
        if module.groups == module.in_channels > 1:  # depthwise: as many groups as channels
            module.groups = weight[0] * module.in_channels // module.out_channels
        module.in_channels, module.out_channels = weight[1] * module.groups, weight[0]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight
    elif isinstance(module, _BatchNorm):
        module.num_features = weight[0]
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(weight)
