"""Read a file of weights, whoever saved it, without running any code in it, and load it into a network."""

from __future__ import annotations

import pickletools
import re
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # names of Python 2, which pickles of protocol 2 still use
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from src.errors import UserError, first_few
from src.model.pruning import shrink_to

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pth.tar", ".ckpt")  # the safest first
# What training scripts keep their weights under; averaged weights are what such a run was scored with.
CONTAINERS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model", "network", "net",
    "params",
)  # fmt: skip
# Modules of the standard library whose objects lie beside weights for good reasons: arguments, paths, dates, versions.
# Anything else of the standard library (os, subprocess, builtins.eval …) is in a pickle only to be run.
DATA_MODULES = {"_codecs", "argparse", "collections", "copyreg", "datetime", "decimal", "enum", "pathlib", "uuid"}
DATA_BUILTINS = {"bytearray", "complex", "dict", "frozenset", "int", "list", "object", "range", "set", "slice", "tuple"}


def suffix_of(path: Path) -> str:
    """The one of SUFFIXES that the file's name ends in, or an empty string."""
    return next((suffix for suffix in reversed(SUFFIXES) if path.name.lower().endswith(suffix)), "")


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file by name, out of the usual containers (`state_dict`, `model` …).

    Torch files are read with weights_only=True; objects of classes that it does not know become empty stand-ins, and
    nothing of theirs is imported or called. Raises UserError if the file cannot be read, holds no tensors by name, or
    calls something that has no business beside weights.
    """
    try:
        if suffix_of(path) == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            with torch.serialization.safe_globals(_stand_ins(path)):
                state = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path}: cannot be read as weights ({why}); download it again, or save model.state_dict() as safetensors"
        ) from None
    while (inner := _contained(state)) is not None:
        state = inner
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, dict) else {}
    if not tensors:
        raise UserError(f"{path}: holds no state dict of tensors; save model.state_dict(), not the model")
    return tensors


def _contained(state: Any) -> dict[str, Any] | None:
    if not isinstance(state, dict):
        return None
    return next((state[key] for key in CONTAINERS if isinstance(state.get(key), dict) and state[key]), None)


def _stand_ins(path: Path) -> list[Any]:
    """For all classes and functions that the file's pickle names and torch does not know; nothing of it is executed.

    Raises UserError if one of them is of the standard library and not plain data.
    """
    try:
        names = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except ValueError:  # saved before torch 1.6: several pickles one after the other
        names = set(_globals_of_pickles(path))
    for name in names:
        module, _, last = name.rpartition(".")
        top = IMPORT_MAPPING.get(module, module).split(".")[0]
        known = last in DATA_BUILTINS if top == "builtins" else top in DATA_MODULES
        if not known and top in sys.stdlib_module_names:
            raise UserError(
                f"{path}: cannot be read as weights: it would call {name}, which weights never need; use another file"
            )
    return [(DictStandIn if name == "collections.defaultdict" else StandIn, name) for name in sorted(names)]


def _globals_of_pickles(path: Path) -> Iterator[str]:
    with open(path, "rb") as file, suppress(ValueError, EOFError):
        for _ in range(5):  # magic number, protocol, system, the object, keys of its storages; then raw numbers
            for operation, argument, _ in pickletools.genops(file):
                if operation.name in ("GLOBAL", "INST"):
                    module, _, last = str(argument).partition(" ")
                    yield ".".join(NAME_MAPPING.get((module, last), (IMPORT_MAPPING.get(module, module), last)))


class StandIn:
    """What becomes of an object of a class that torch does not know: it takes anything and keeps nothing.

    One that is made without arguments may be a kind of dict, whose entries follow.
    """

    def __new__(cls, *arguments: Any) -> Any:
        return super().__new__(cls) if arguments else OrderedDict()

    def __init__(self, *arguments: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class DictStandIn:
    """The same of a dict that is made with arguments."""

    def __new__(cls, *arguments: Any) -> Any:
        return OrderedDict()


def load_weights(model: nn.Module, path: Path, classifier: tuple[str, ...], widths: bool = False) -> str:
    """Load a file into `model`; a classifier of another class count is left as initialised. Returns a line to log.

    classifier: names of the head's modules. widths: the layers become as narrow as the file's. Names under which
    another training script wrapped the network (`module.`, Lightning's `model.`) are taken off; what else that script
    trained is left out. Raises UserError that lists the keys that are missing, unexpected or of another shape.
    """
    return load_state(model, read_state(path), path, classifier, widths)


def load_state(
    model: nn.Module, state: dict[str, Tensor], path: Path, classifier: tuple[str, ...], widths: bool = False
) -> str:
    """`load_weights` of what has been read from `path`."""
    state = _unwrapped(state, model)
    if widths:
        shrink_to(model, state)
    own = model.state_dict()
    state = {**state, **_first_filters(model, state, own)}
    head = tuple(f"{name}." for name in classifier)
    if _misfits(state, own, head):
        state = _converted(state, model)
    skipped = [k for k in own if k.startswith(head) and (k not in state or state[k].shape != own[k].shape)]
    state = {
        key: value for key, value in state.items() if not (key in skipped or (key.startswith(head) and key not in own))
    }
    misfits = _misfits(state, own, head)
    if misfits:
        parts = [f"{len(names)} {label} ({first_few(names)})" for label, names in misfits.items()]
        raise UserError(f"{path}: weights do not fit the model: keys {'; '.join(parts)}; is model= the same network?")
    model.load_state_dict(state, strict=False)
    return f"loaded {len(state)} tensors" + (f", new classifier ({', '.join(skipped)})" if skipped else "")


def _first_filters(model: Any, state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Filters for RGB of the first layer, made into some for the channels of `own` as timm does with its own files."""
    from timm.models import adapt_input_conv

    first = getattr(model, "pretrained_cfg", {}).get("first_conv") or ()
    keys = [f"{name}.weight" for name in ([first] if isinstance(first, str) else first)]
    there = [key for key in keys if key in state and key in own and state[key].shape[1] == 3 != own[key].shape[1]]
    return {key: adapt_input_conv(own[key].shape[1], state[key]) for key in there}


def _misfits(state: dict[str, Tensor], own: dict[str, Tensor], head: tuple[str, ...]) -> dict[str, list[str]]:
    """What is wrong with the file apart from the classifier, by kind; empty if it fits."""
    inner, given = ([key for key in keys if not key.startswith(head)] for keys in (own, state))
    found = {
        "missing": [key for key in inner if key not in state and not key.endswith("num_batches_tracked")],
        "unexpected": [key for key in given if key not in own],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
            for key in given
            if key in own and state[key].shape != own[key].shape
        ],
    }
    return {label: names for label, names in found.items() if names}


def _unwrapped(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The part of `state` below the prefix under which most of the model's own names stand, if that is most of them."""
    own = model.state_dict().keys()
    starts = [[dot.end() for dot in re.finditer(r"\.", key)][:4] for key in state]
    prefixes = {""} | {key[:end] for key, ends in zip(state, starts, strict=True) for end in ends}
    fitting = {prefix: sum(prefix + key in state for key in own) for prefix in prefixes}
    best = max(prefixes, key=lambda prefix: (fitting[prefix], -len(prefix)))
    if not best or fitting[best] <= len(own) / 2:
        return state
    return {key.removeprefix(best): value for key, value in state.items() if key.startswith(best)}


def _converted(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """As timm converts the files of a network's own authors (other names, positions of another size), or as it is."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    with suppress(Exception):  # written for the authors' files: anything may happen with others
        return convert(dict(state), model)
    return state
