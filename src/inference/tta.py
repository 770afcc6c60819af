"""Test-time augmentation: the views of one image whose predictions are averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from src.data.loader import Window
from src.errors import UserError, nearest


class View(NamedTuple):
    """A window of the image (cut by the loader), a symmetry of the square applied to it, and its weight."""

    window: Window = Window()
    flip: bool = False
    vflip: bool = False
    transpose: bool = False
    weight: float = 1.0


CENTRE = Window()
CORNERS = [Window((y, x)) for y in (0.0, 1.0) for x in (0.0, 1.0)]
VIEWS: dict[str, list[View]] = {
    "none": [View()],
    "flip": [View(), View(flip=True)],
    "whole": [View(Window(squash=squash), f) for squash in (False, True) for f in (False, True)],
    "d4": [View(CENTRE, f, v, t) for t in (False, True) for v in (False, True) for f in (False, True)],
    "crops": [View(window, f) for window in [CENTRE, *CORNERS] for f in (False, True)],
    "scales": [View(Window(zoom=z), f) for z in (1.0, 0.875, 1.15) for f in (False, True)],
    "shifts": [View(Window((y, x), zoom=1.15)) for y in (0.2, 0.8) for x in (0.2, 0.8)] + [View(weight=2.0)],
}


def parse_views(tta: str | Sequence[Mapping[str, Any]]) -> list[View]:
    """The views of a preset name, or of a list such as [{flip: true, weight: 0.5}, {position: [0, 1], zoom: 1.2}].

    Raises UserError for an unknown preset or field.
    """
    if isinstance(tta, str):
        if tta not in VIEWS:
            raise UserError(f"tta={tta}: choose one of {', '.join(VIEWS)}, or a list of views{nearest(tta, VIEWS)}")
        return VIEWS[tta]
    views = [_parse_view(f"tta[{number}]", spec) for number, spec in enumerate(tta)]
    if not views or sum(view.weight for view in views) <= 0:
        raise UserError("tta: give at least one view with a weight above 0")
    return views


def _parse_view(key: str, spec: Any) -> View:
    valid = ("position", "zoom", "squash", "flip", "vflip", "transpose", "weight")
    if not isinstance(spec, Mapping):
        raise UserError(f"{key}={spec!r}: a view is a mapping of {', '.join(valid)}")
    for field in spec:
        if field not in valid:
            raise UserError(f"{key}.{field}: a view has {', '.join(valid)}{nearest(str(field), valid)}")
    position, zoom, weight = spec.get("position", (0.5, 0.5)), spec.get("zoom", 1.0), spec.get("weight", 1.0)
    if not (isinstance(position, (list, tuple)) and len(position) == 2 and all(_number(p, 0, 1) for p in position)):
        raise UserError(f"{key}.position={position!r}: expected [y, x], each from 0 to 1")
    if not _number(zoom, 0.1, 10):
        raise UserError(f"{key}.zoom={zoom!r}: expected a factor from 0.1 to 10")
    if not _number(weight, 0, float("inf")):
        raise UserError(f"{key}.weight={weight!r}: expected a number from 0")
    turns = {name: spec.get(name, False) for name in ("flip", "vflip", "transpose", "squash")}
    for name, value in turns.items():
        if not isinstance(value, bool):
            raise UserError(f"{key}.{name}={value!r}: expected true or false")
    window = Window((float(position[0]), float(position[1])), float(zoom), turns.pop("squash"))
    return View(window, weight=float(weight), **turns)


def _number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def windows(views: Sequence[View]) -> tuple[Window, ...]:
    """The different windows among the views: what has to be cut out of an image, once each."""
    return tuple(dict.fromkeys(view.window for view in views))


def apply_symmetry(x: Tensor, view: View) -> Tensor:
    """(B, C, S, S) -> the same, transposed, then flipped."""
    if view.transpose:
        x = x.transpose(2, 3)
    dims = [dim for dim, on in ((2, view.vflip), (3, view.flip)) if on]
    return torch.flip(x, dims) if dims else x


def weights_of(views: Sequence[View], images: np.ndarray) -> np.ndarray:
    """(V, B) float64: each view's weight for each image, 0 where it shows the same picture as an earlier view.

    images (W, B, S, S, C): the batch in `windows(views)`. Which windows are equal depends on the image: in a square one
    without free room (eval.crop=1) all positions are, and no zoom below 1 shows more than the short side.
    """
    place = {window: number for number, window in enumerate(windows(views))}
    weights = np.repeat([[view.weight] for view in views], images.shape[1], axis=1).astype(np.float64)
    found: dict[tuple[int, int], np.ndarray] = {}
    for v, view in enumerate(views):
        for u, earlier in enumerate(views[:v]):
            if earlier._replace(window=view.window, weight=view.weight) != view:
                continue  # turned another way
            pair = place[earlier.window], place[view.window]
            if pair not in found:
                found[pair] = same_picture(*(images[window] for window in pair))
            weights[v, found[pair] & (weights[u] > 0)] = 0
    return weights


def same_picture(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(B,) bool: whether two windows (B, S, S, C) of each image are equal, sample by sample."""
    sparse = one[:, ::8, ::8] == other[:, ::8, ::8]  # a 64th of the work where none are equal, as a rule
    maybe = np.flatnonzero(sparse.all(axis=(1, 2, 3)))
    same = np.zeros(len(one), bool)
    same[maybe] = (one[maybe] == other[maybe]).all(axis=(1, 2, 3))
    return same
