"""Where a backbone's first weights come from: a local file, one attached to the notebook, the hub, or nowhere."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from src.errors import UserError, first_few, nearest
from src.model.pruning import shrink_to

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
TAG = re.compile(r"(\.[a-z0-9_]+|-[0-9a-f]{8})$")  # resnet18.a1_in1k (timm), resnet18-5c106cde (torchvision)
HUB = ("huggingface.co", 443)


@dataclass(frozen=True)
class WeightsSource:
    """kind `scratch` has no file; `file` has a path; `hub` lets timm download its default weights; `run` has the path
    of what a run has saved, and the network takes over its widths, which pruning may have changed."""

    kind: Literal["file", "hub", "scratch", "run"]
    path: Path | None = None
    why: str = ""  # one line for the log

    @property
    def pretrained(self) -> bool:
        return self.kind != "scratch"


def find_weights(
    name: str, pretrained: str, weights: str | None, attached: Path, seconds: float = 3.0
) -> WeightsSource:
    """The source of first weights of the timm model `name`.

    pretrained: `auto` takes the file `weights`, else a file under `attached` whose path names the model, else the hub
    if it answers within `seconds`, else none; `never` skips all of that; `always` fails instead of falling to none.
    Raises UserError if `weights` does not exist, or nothing was found and pretrained is `always`.
    """
    if weights is not None:
        path = Path(weights)
        if not path.is_file():
            raise UserError(f"model.weights={weights}: there is no such file")
        if path.suffix not in SUFFIXES:
            raise UserError(f"model.weights={weights}: expected a file ending in {', '.join(SUFFIXES)}")
        return WeightsSource("file", path, f"weights from {path}")
    if pretrained == "never":
        return WeightsSource("scratch", why="training from scratch (model.pretrained=never)")
    found = _attached_file(name, attached)
    if found is not None:
        return WeightsSource("file", found, f"weights from {found}")
    if not _has_hub_weights(name):
        reason = f"timm has no pretrained weights for {name}"
    elif os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE") or not _answers(*HUB, seconds):
        reason = f"no weights file for {name} is attached and the hub does not answer"
    else:
        return WeightsSource("hub", why=f"weights of {name} from the hub")
    if pretrained == "always":
        raise UserError(f"model.pretrained=always: {reason}; give model.weights=FILE")
    return WeightsSource("scratch", why=f"training from scratch: {reason}")


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors, or from a torch file with weights_only=True: no pickled code is ever run.

    Unwraps the usual containers (`state_dict`, `model`, `state_dict_ema`) and prefixes (`module.`, `_orig_mod.`).
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: cannot be read as weights ({' '.join(str(error).split())[:120]})") from None
    for container in ("state_dict_ema", "state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(container), dict):
            state = state[container]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: holds no state dict of tensors")
    for prefix in ("module.", "_orig_mod."):
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def load_weights(
    model: nn.Module, path: Path, classifier: tuple[str, ...], widths: bool = False, channels: int = 3
) -> str:
    """Load a file into `model`; a classifier of another class count is left as initialised. Returns a line to log.

    classifier: names of the head's modules. widths: the layers become as narrow as the file's. Raises UserError that
    lists the keys that are missing, unexpected or of another shape.
    """
    state = read_state(path)
    if widths:
        shrink_to(model, state)
    own = model.state_dict()
    _adapt_channels(model, state, own, channels)
    head = tuple(f"{name}." for name in classifier)
    skipped = [k for k in own if k.startswith(head) and (k not in state or state[k].shape != own[k].shape)]
    state = {
        key: value for key, value in state.items() if not (key in skipped or (key.startswith(head) and key not in own))
    }
    missing = [
        key for key in own if key not in state and key not in skipped and not key.endswith("num_batches_tracked")
    ]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in state
        if key in own and state[key].shape != own[key].shape
    ]
    if missing or unexpected or shapes:
        parts = [
            f"{len(names)} {label} ({first_few(names)})"
            for label, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
            if names
        ]
        raise UserError(f"{path}: weights do not fit the model: keys {'; '.join(parts)}; is model= the same network?")
    model.load_state_dict(state, strict=False)
    return f"loaded {len(state)} tensors" + (f", new classifier ({', '.join(skipped)})" if skipped else "")


def _adapt_channels(model: Any, state: dict[str, Tensor], own: Mapping[str, Tensor], channels: int) -> None:
    """Filters for RGB in the first layer of `state`, made into some for `channels` as timm does for its own files."""
    from timm.models import adapt_input_conv

    first = getattr(model, "pretrained_cfg", {}).get("first_conv") or ()
    for name in [first] if isinstance(first, str) else first:
        key = f"{name}.weight"
        if key in state and key in own and state[key].shape[1] == 3 and own[key].shape[1] == channels != 3:
            state[key] = adapt_input_conv(channels, state[key])


@lru_cache
def _attached_file(name: str, folder: Path) -> Path | None:
    """The weights file under `folder` whose name, or else whose folder's name, is the model's.

    Tag, hash and punctuation aside; safetensors before others. Asked once per process: images may lie there as well.
    """
    if not folder.is_dir():
        return None
    wanted = {_plain(name), _plain(name.split(".")[0])}
    candidates = []
    for directory, folders, files in os.walk(folder):
        if len(Path(directory).relative_to(folder).parts) >= 6:
            folders.clear()
        for file in files:
            if not file.endswith(SUFFIXES):
                continue
            path = Path(directory, file)
            by_name = any(_plain(each) in wanted for each in (path.stem, TAG.sub("", path.stem)))
            if by_name or _plain(path.parent.name) in wanted:
                candidates.append((not by_name, SUFFIXES.index(path.suffix), len(path.parts), str(path), path))
    return min(candidates)[-1] if candidates else None


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def _has_hub_weights(name: str) -> bool:
    import timm

    return timm.is_model_pretrained(name)


def _answers(host: str, port: int, seconds: float) -> bool:
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError:
        return False
    return True


def check_model_name(name: str) -> None:
    """Raises UserError with the nearest names if timm does not know `name`."""
    import timm

    if not timm.is_model(name):
        raise UserError(f"model={name}: timm has no such model{nearest(name.split('.')[0], timm.list_models())}")
