"""Weights in an attached folder: what names of files and folders say of a timm model, and which file is its best."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from src.attached import LOOK_AT, walk
from src.model.weights_file import SUFFIXES, suffix_of

HASH = re.compile(r"-[0-9a-f]{8,}$")  # resnet18-5c106cde (torchvision), resnet18_a1_0-d63eafa0 (timm)
FILLERS = {"timm", "models", "model", "weights", "pretrained", "pytorch", "torch", "checkpoint", "imagenet"}
NO_MODEL = {"model", "pytorchmodel", "openclippytorchmodel", "checkpoint", "checkpoints", "modelfinalcheckpointphase0"}
NO_WEIGHTS = {"optimizer", "scheduler", "scaler", "trainingargs", "rngstate"}  # what trainers save beside them
FRAMEWORKS = {"pytorch", "transformers", "other"}  # Kaggle's models: <model>/<framework>/<variation>/<version>
DEPTH = 8  # models/<owner>/<model>/<framework>/<variation>/<version> and two more


@dataclass(frozen=True)
class Attached:
    """The best file for a model, and the tag that its name says ("" for none); path None: there is none.

    refused: the files of the same architecture that were left, as they are of another tag."""

    path: Path | None
    tag: str = ""
    refused: tuple[Path, ...] = ()


@lru_cache
def attached_file(name: str, folder: Path) -> Attached:
    """The weights file under `folder` whose name, or else whose folder's name, is that of the timm model `name`.

    With a tag in `name`: a file of that tag, then one that says no tag, never one of another tag. Without: one that
    says no tag, then timm's default for the model, then any. Among those a file's own name goes before its folder's,
    safetensors before others, near before deep. Asked once per process: images may lie there as well.
    """
    architecture, _, wanted = name.partition(".")
    order = [wanted, ""] if wanted else ["", _default_tag(architecture)]
    candidates, refused = [], []
    for path in _weights_files(folder):
        parts = path.relative_to(folder).parts
        stem = path.name[: -len(suffix_of(path))]
        said = what_it_says((*parts[:-1], stem), architecture, wanted)
        if said is None:
            continue
        tag, above = said
        if wanted and tag not in order:
            refused.append(path)
            continue
        rank = order.index(tag) if tag in order else len(order) + (tag not in _tags(architecture))
        says_nothing = _plain(stem) in NO_MODEL | FILLERS
        kind = SUFFIXES.index(suffix_of(path))
        candidates.append((rank, above > 0, above > 0 and not says_nothing, kind, len(parts), str(path), path, tag))
    if not candidates:
        return Attached(None, refused=tuple(refused))
    best = min(candidates)
    return Attached(best[-2], best[-1], tuple(refused))


def what_it_says(names: tuple[str, ...], architecture: str, wanted: str = "") -> tuple[str, int] | None:
    """The tag that a path says of the architecture ("" for none), and how far above its last name it stands.

    names: folders from the outermost, then the file's name without its suffix. None if no name is that of a model, or
    the innermost is another's. `wanted` decides where a name can be read as more than one tag.
    """
    level, tag = None, ""
    for above, text in enumerate(reversed(names)):
        meanings = meanings_of(text)
        outside = names[: len(names) - 1 - above]
        if not meanings and len(outside) > 1 and outside[-1].lower() in FRAMEWORKS:
            meanings = meanings_of(f"{outside[-2]}-{text}")
        tags = {t for model, t in meanings if model == architecture}
        if level is None and meanings:
            if not tags:
                return None
            level = above
        if not tag:
            tags |= {t for t in _tags(architecture) if _plain(t) == _plain(text)}
            tag = wanted if wanted in tags else min(tags, default="")
    return None if level is None else (tag, level)


def meanings_of(text: str) -> set[tuple[str, str]]:
    """(architecture, tag) that the name of a file or folder can stand for; a tag is "" where there is none."""
    known = _vocabulary()
    words = [word for word in re.split(r"[^a-z0-9]+", text.lower()) if word not in FILLERS]
    for reading in (text, HASH.sub("", text), "".join(words), HASH.sub("", "-".join(words))):
        if _plain(reading) in known:
            return known[_plain(reading)]
    before, dot, own_tag = text.partition(".")  # a tag that timm does not know: somebody's own
    return {(model, own_tag) for model, tag in known.get(_plain(before), ()) if dot and not tag}


@lru_cache
def _vocabulary() -> dict[str, set[tuple[str, str]]]:
    """What timm calls its models, with and without tag, and the files of their releases (torchvision's among them)."""
    import timm

    known: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for model in timm.list_models():
        known[_plain(model)].add((model, ""))
    models = set(known)
    for name in timm.list_pretrained():
        model, _, tag = name.partition(".")
        known[_plain(name)].add((model, tag))
        config: Any = timm.get_pretrained_cfg(name)
        release = Path(urlsplit(config.url or "").path)
        stem = release.name.removesuffix(suffix_of(release))
        for reading in (stem, HASH.sub("", stem)):  # without its hash a name may be a model's own: it has no tag then
            if reading and _plain(reading) not in models | NO_MODEL:
                known[_plain(reading)].add((model, tag))
    return dict(known)


def _tags(architecture: str) -> set[str]:
    import timm

    return {name.partition(".")[2] for name in timm.list_pretrained(architecture)} - {""}


def _default_tag(architecture: str) -> str:
    import timm

    config = timm.get_pretrained_cfg(architecture)
    return (config.tag if config is not None else None) or ""


def _weights_files(folder: Path) -> Iterator[Path]:
    for _, _, files in walk(folder, DEPTH, LOOK_AT):
        for path in files:
            if suffix_of(path) and _plain(path.name[: -len(suffix_of(path))]) not in NO_WEIGHTS:
                yield path


def _plain(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())
