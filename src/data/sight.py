"""What a network is going to see of some pictures: levels, flat pictures, the mean colours of the classes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

import numpy as np

from src.data.cache import ImageStore
from src.data.survey import survey_pixels
from src.errors import MissingPackage, UserError, first_few

MOST = 64  # pictures that are looked at
DARK = 0.1  # of the full range: below it, nearly nothing is to be seen
FEW = 32  # levels, below a quarter of the range
TELLING = 0.95  # share of the pictures whose class the mean colour alone tells


@dataclass(frozen=True)
class Sight:
    """rows (n,) int64: those that could be read. low, top: the smallest and largest sample as shares of the full range.
    levels: how many different samples there are. colours (n, C) float64: the mean of each picture, as shares. flat (n,)
    bool: pictures of a single colour."""

    rows: np.ndarray
    low: float
    top: float
    levels: int
    colours: np.ndarray
    flat: np.ndarray

    def line(self) -> str:
        mean = " ".join(f"{value:.2f}" for value in self.colours.mean(axis=0))
        full = f"{self.levels} levels from {self.low:.2f} to {self.top:.2f} of the range"
        return f"pictures: {len(self.rows)} looked at, {full}, mean {mean}, {int(self.flat.sum())} of one flat colour"


def see(store: ImageStore, rows: np.ndarray) -> Sight | None:
    """Look at up to MOST of `rows` (N,) int64 of the store, evenly spread; None if none of them can be read."""
    some = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST)).astype(int))] if len(rows) else rows
    full = store.spec.full
    seen: set[int] = set()
    read, colours, flat = [], [], []
    for row in some.tolist():
        try:
            pixels = store.pixels(row)
        except MissingPackage:
            raise
        except UserError:  # whoever needs it says so
            continue
        if store.is_blank(row):
            continue
        seen.update(np.unique(pixels).tolist())
        read.append(row)
        colours.append(pixels.reshape(-1, pixels.shape[2]).mean(axis=0) / full)
        flat.append(bool(np.ptp(pixels, axis=(0, 1)).max() <= full / 255))
    if not read:
        return None
    levels = sorted(seen)
    return Sight(
        np.array(read, np.int64), levels[0] / full, levels[-1] / full, len(levels), np.array(colours), np.array(flat)
    )


def doubts(sight: Sight, store: ImageStore, names: np.ndarray) -> list[str]:
    """One line for each thing about `sight` that hardly anybody means, with what to try. names (n,) str: the class of
    each picture, or another name for it."""
    found = []
    flat, count = int(sight.flat.sum()), len(sight.rows)
    if flat > max(1, 0.1 * count):
        few = first_few([store.path(row) for row in sight.rows[sight.flat].tolist()])
        found.append(f"{flat} of {count} pictures are of one flat colour ({few})")
    elif (count > 1 and sight.top <= DARK) or (sight.levels <= FEW and sight.top <= 0.25):
        found.append(f"the pictures have {sight.levels} levels, all below {sight.top:.3g} of the range: nearly black")
    if found:
        found = [f"warning: {found[0]}{better_keys(store, sight.rows)}"]
    classes, which = np.unique(names, return_inverse=True)
    share = told_by_colour(sight.colours, which.reshape(-1))
    chance = float(np.bincount(which.reshape(-1)).max() / count)
    if 1 < len(classes) <= count / 5 and share >= TELLING and chance < 0.8:
        found.append(
            f"note: the mean colour alone tells the class of {share:.0%} of {count} pictures ({chance:.0%} by chance): "
            "is that the object, or where it was taken?"
        )
    return found


def told_by_colour(colours: np.ndarray, classes: np.ndarray) -> float:
    """The share of rows whose own class has the nearest mean colour, each row left out of its class; colours (n, C),
    classes (n,) int."""
    counts = np.bincount(classes).astype(np.float64)
    sums = np.zeros((len(counts), colours.shape[1]))
    np.add.at(sums, classes, colours)
    right = 0
    for colour, own in zip(colours, classes.tolist(), strict=True):
        left, rest = sums.copy(), counts.copy()
        left[own] -= colour
        rest[own] -= 1
        with np.errstate(invalid="ignore", divide="ignore"):
            distance = np.square(left / rest[:, None] - colour).sum(axis=1)
        right += int(np.argmin(np.where(rest > 0, distance, np.inf)) == own)
    return right / len(colours)


def better_keys(store: ImageStore, rows: np.ndarray) -> str:
    """Keys by which the files themselves would be read in another way, as a cure behind a message."""
    try:
        survey = survey_pixels(store.root, [bytes(store.paths[row]) for row in rows.tolist()], MOST)
    except UserError:
        return ""
    spec, words = store.spec, []
    if survey.range != spec.range:
        low_high = "null" if survey.range is None else f"[{survey.range[0]:g},{survey.range[1]:g}]"
        words.append(f"competition.range={low_high}")
    keys = ("channels", "samples", "alpha", "dicom")
    words += [f"competition.{key}={getattr(survey, key)}" for key in keys if getattr(survey, key) != getattr(spec, key)]
    return (
        f"; try {' '.join(map(shlex.quote, words))} ({'; '.join(survey.why)})"
        if words
        else "; look at them with ./run.sh prepare"
    )
