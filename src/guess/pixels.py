"""What a picture is, by looking into some of the training pictures."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from src.competition.images import pieces
from src.competition.pixel_table import pictures
from src.config import CompetitionConfig
from src.data.survey import survey_pixels
from src.errors import MissingPackage, UserError
from src.guess.finding import Finding
from src.guess.folder import Folder
from src.guess.roles import Roles

LOOKED_INTO = 64  # pictures


def of_pixels(folder: Folder, findings: list[Finding], roles: Roles) -> list[Finding]:
    """The findings on what a picture is, by looking into some of the training pictures; a remark where none can
    be read, which is an error later, for whoever needs them."""
    try:
        return _of_pixels(folder, {finding.key: finding.value for finding in findings}, roles)
    except MissingPackage:
        raise
    except UserError as error:
        return [Finding("", "as 8-bit RGB", "pictures that cannot be read", str(error))]


def _of_pixels(folder: Folder, keys: Mapping[str, Any], roles: Roles) -> list[Finding]:
    if "pixels" in keys and roles.train is not None:
        with tempfile.TemporaryDirectory() as place:
            some = islice(pictures(folder.root / roles.train.file, keys["pixels"], None), LOOKED_INTO)
            for number, values in enumerate(some):
                np.save(Path(place) / f"{number}.npy", values)
            seen = survey_pixels(place, [os.fsencode(path.name) for path in sorted(Path(place).glob("*.npy"))])
    else:
        seen = survey_pixels(folder.root, training_pictures(folder, str(keys["train_images"])), LOOKED_INTO)
    usual = CompetitionConfig()
    found: list[Finding] = []
    for key in ("channels", "samples", "range", "alpha", "dicom", "array"):
        value = getattr(seen, key)
        if value != getattr(usual, key):
            why = "as above" if found else "; ".join(seen.why)
            found.append(
                Finding(key, list(value) if isinstance(value, tuple) else value, "what the pictures hold", why)
            )
    return found


def training_pictures(folder: Folder, template: str) -> list[bytes]:
    """Some pictures as `train_images` names them; the files of one picture are joined by line breaks."""
    fixed = template.split("{")[0].split("*")[0]
    top = fixed.rpartition("/")[0] if fixed != template else template
    inside = [path for path in folder.images if not top or os.fsdecode(path).startswith(f"{top}/")]
    options = next((name for _, name, _ in pieces(template, "competition.train_images") if name and "|" in name), None)
    if options is None:
        return inside
    first, *others = options.split("|")
    after = template.rpartition("{" + options + "}")[2]
    ending = after.rpartition("/")[2] if after else ""
    known, found = set(inside), []
    for path in inside:
        stem, extension = os.path.splitext(os.fsdecode(path))
        name = stem + (extension if os.path.splitext(ending)[1] else "")
        if name.endswith(first + ending):
            start = name[: len(name) - len(first + ending)]
            tail = "" if os.path.splitext(ending)[1] else extension
            files = [os.fsencode(start + option + ending + tail) for option in (first, *others)]
            if set(files) <= known:
                found.append(b"\n".join(files))
    return found or inside
