"""A gallery of held-out predictions, right and wrong ones, each image above the heat map of what decided it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.files import replacing
from src.reporting.guarded import picture

COLUMNS = 6
CELL, GAP, HEADING, MARGIN = 150, 10, 36, 30  # pixels of the picture


@dataclass(frozen=True)
class Exhibit:
    """image (S, S, 3) uint8 · heat (h, w) float32, not negative · names of the classes, or numbers · share: probability
    of the predicted one; None of a number."""

    image: np.ndarray
    heat: np.ndarray
    true: str
    predicted: str
    share: float | None


def surest(pred: np.ndarray, holds: np.ndarray, count: int = COLUMNS) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of at most `count` right and `count` wrong rows, the surest first, of pred (N, C); holds (N,) bool says
    whether its largest column is true.

    Right ones: first the surest of each class, as most of them look alike. Wrong ones as they come: the surest of all
    are wrong labels, often enough.
    """
    guess, share = pred.argmax(1), pred.max(1)
    order = np.argsort(-share, kind="stable")
    right, wrong = order[holds[order]], order[~holds[order]]
    _, first = np.unique(guess[right], return_index=True)
    ranked = np.concatenate([right[np.sort(first)], np.delete(right, first)])[:count]
    return ranked[np.argsort(-share[ranked], kind="stable")], wrong[:count]


def closest(off: np.ndarray, values: np.ndarray, count: int = COLUMNS) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of at most `count` rows with small errors and `count` with the largest, off (N,) not negative.

    The former are the best of each of `count` equal parts of the rows in the order of `values` (N,), the true numbers,
    as most of them are alike; the latter come as they are, the farthest first.
    """
    parts = np.array_split(np.argsort(values, kind="stable"), min(count, len(values)))
    good = np.array([part[off[part].argmin()] for part in parts], dtype=np.int64)
    others = np.setdiff1d(np.arange(len(off)), good)
    return good, others[np.argsort(-off[others], kind="stable")][:count]


@picture
def gallery(path: Path, lines: Sequence[tuple[str, Sequence[Exhibit]]], title: str) -> Path:
    """A PNG: for each of `lines` (its name, at most COLUMNS exhibits) the images, each above itself with its heat map.

    Heat is relative, the hottest place of each image is red; an image without any stays as it is.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [(name, exhibits) for name, exhibits in lines if len(exhibits)]
    row = HEADING + 2 * CELL + 2 * GAP
    height, width = HEADING + len(lines) * row, MARGIN + COLUMNS * (CELL + GAP)
    canvas = np.full((height, width, 3), 255, np.uint8)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    FigureCanvasAgg(figure)
    # one picture with text on it: two dozen axes with a layout take seconds
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    text: dict[str, Any] = {"fontsize": 8, "parse_math": False}
    for number, (name, exhibits) in enumerate(lines):
        top = HEADING + number * row + HEADING
        axes.text(MARGIN / 2, top + CELL, name, rotation=90, ha="center", va="center", fontsize=11, parse_math=False)
        for column, each in enumerate(exhibits):
            left = MARGIN + column * (CELL + GAP)
            image = _enlarged(each.image)
            canvas[top : top + CELL, left : left + CELL] = image
            canvas[top + CELL + 2 : top + 2 * CELL + 2, left : left + CELL] = heated(image, each.heat)
            axes.text(left, top - 19, f"{_short(each.true)} →", va="bottom", **text)
            share = "" if each.share is None else f", {each.share:.2f}"
            axes.text(left, top - 4, f"{_short(each.predicted)}{share}", va="bottom", **text)
    axes.imshow(canvas, interpolation="none", aspect="auto")
    axes.text(MARGIN, HEADING / 2, title, va="center", fontsize=11, parse_math=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return path


def _enlarged(image: np.ndarray) -> np.ndarray:
    import cv2

    smooth = cv2.INTER_CUBIC if image.shape[0] >= 64 else cv2.INTER_NEAREST
    return cv2.resize(image, (CELL, CELL), interpolation=smooth if image.shape[0] < CELL else cv2.INTER_AREA)


def heated(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """`image` (H, W, 3) uint8 half covered by the colours of `heat` (h, w)."""
    import cv2

    if heat.max() <= 0:
        return image
    full = cv2.resize(heat / heat.max(), (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap((255 * full.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_JET)
    return cv2.addWeighted(image, 0.55, cv2.cvtColor(colours, cv2.COLOR_BGR2RGB), 0.45, 0)


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:21]}…"
