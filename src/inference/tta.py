"""Test-time augmentation: the views of one image whose predictions are averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from src.data.loader import View
from src.errors import UserError, nearest


class TestView(NamedTuple):
    """A window of the image (`View`, cut by the loader), a symmetry of the square applied to it, and its weight."""

    window: View = View()
    flip: bool = False
    vflip: bool = False
    transpose: bool = False
    weight: float = 1.0


CENTRE = View()
CORNERS = [View((y, x)) for y in (0.0, 1.0) for x in (0.0, 1.0)]
VIEWS: dict[str, list[TestView]] = {
    "none": [TestView()],
    "flip": [TestView(), TestView(flip=True)],
    "d4": [TestView(CENTRE, f, v, t) for t in (False, True) for v in (False, True) for f in (False, True)],
    "crops": [TestView(window, f) for window in [CENTRE, *CORNERS] for f in (False, True)],
    "scales": [TestView(View(zoom=z), f) for z in (1.0, 0.875, 1.15) for f in (False, True)],
    "shifts": [TestView(View((y, x), zoom=1.15)) for y in (0.2, 0.8) for x in (0.2, 0.8)] + [TestView(weight=2.0)],
}


def parse_views(tta: str | Sequence[Mapping[str, Any]]) -> list[TestView]:
    """The views of a preset name, or of a list such as [{flip: true, weight: 0.5}, {position: [0, 1], zoom: 1.2}].

    Raises UserError for an unknown preset or field.
    """
    if isinstance(tta, str):
        if tta not in VIEWS:
            raise UserError(f"tta={tta}: choose one of {', '.join(VIEWS)}, or a list of views{nearest(tta, VIEWS)}")
        return VIEWS[tta]
    views = []
    for number, spec in enumerate(tta):
        valid = ("position", "zoom", "flip", "vflip", "transpose", "weight")
        fields = dict(spec) if isinstance(spec, Mapping) else {"?": spec}
        for field in fields:
            if field not in valid:
                raise UserError(f"tta[{number}].{field}: a view has {', '.join(valid)}{nearest(field, valid)}")
        y, x = fields.pop("position", (0.5, 0.5))
        views.append(TestView(View((float(y), float(x)), float(fields.pop("zoom", 1.0))), **fields))
    if not views or sum(view.weight for view in views) <= 0:
        raise UserError("tta: give at least one view with a weight above 0")
    return views


def windows(views: Sequence[TestView]) -> tuple[View, ...]:
    """The different windows among the views: what has to be cut out of an image, once each."""
    return tuple(dict.fromkeys(view.window for view in views))


def apply_symmetry(x: Tensor, view: TestView) -> Tensor:
    """(B, 3, S, S) -> the same, transposed, then flipped."""
    if view.transpose:
        x = x.transpose(2, 3)
    dims = [dim for dim, on in ((2, view.vflip), (3, view.flip)) if on]
    return torch.flip(x, dims) if dims else x
