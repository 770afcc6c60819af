"""What a row of the sample submission stands for: a picture, several of them, or one target of a picture."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

SEPARATORS = ("_", "-", "/", ".", ":", " ", "__", "")
SPLITTERS = re.compile(r"__|[_\-/:. ]")


@dataclass(frozen=True)
class Rows:
    """template: for `competition.rows`; id_column: of the test table; names: of targets, where each has a row of its
    own; why: in words."""

    template: str
    id_column: str | None
    why: str
    names: tuple[str, ...] = ()


def what_rows_are(
    ids: np.ndarray, test: Mapping[str, np.ndarray] | None, train: Collection[str], known: set[str]
) -> Rows | None:
    """ids (M,) str of the sample. test: columns of the test table; without one `known` are names of test pictures.
    train: names of the training table's columns: what both tables have can be scored out-of-fold as it is submitted.

    None if nothing fits.
    """
    wanted = set(ids.tolist())
    if test is not None:
        for name, cells in test.items():
            if set(cells.tolist()) == wanted:
                if len(cells) == len(wanted):
                    return Rows("{id}", name, f"column {name} of the test table")
                parts = _of_parts(wanted, {c: v for c, v in test.items() if c in train}) if name not in train else None
                several = f"column {name} of the test table, {len(cells) / len(wanted):.1f} pictures a row"
                return parts or Rows(f"{{{name}}}", None, several)
        return (
            _long(ids, {name: set(cells.tolist()) for name, cells in test.items()})
            or _of_parts(wanted, test)
            or _with_extension(wanted, test)
        )
    if wanted <= known:
        return Rows("{id}", None, "names of the test pictures")
    return _long(ids, {None: known})


def _with_extension(wanted: set[str], test: Mapping[str, np.ndarray]) -> Rows | None:
    first = next(iter(wanted))
    for name, cells in test.items():
        values = set(cells.tolist())
        if {os.path.splitext(value)[0] for value in values} == wanted:
            return None  # a table's "a.jpg" is the sample's "a": see the caller
        extension = os.path.splitext(first)[1]
        if extension and {value + extension for value in values} == wanted:
            return Rows(f"{{id}}{extension}", name, f"column {name} with {extension}")
    return None


def _of_parts(wanted: set[str], test: Mapping[str, np.ndarray]) -> Rows | None:
    """Two or three columns of the test table, joined."""
    useful = [name for name, cells in test.items() if all(cells.tolist())]
    for count in (2, 3):
        for names in itertools.permutations(useful, count):
            for separator in SEPARATORS:
                some = separator.join(test[name][0] for name in names)
                if some not in wanted:
                    continue
                made = test[names[0]]
                for name in names[1:]:
                    made = np.char.add(np.char.add(made, separator), test[name])
                if set(made.tolist()) == wanted:
                    template = separator.join(f"{{{name}}}" for name in names)
                    several = f", {len(made) / len(wanted):.1f} pictures a row" if len(made) > len(wanted) else ""
                    return Rows(template, None, f"columns {' and '.join(names)} joined{several}")
    return None


def _long(ids: np.ndarray, known: Mapping[str | None, set[str]]) -> Rows | None:
    """A row per picture and target: "{id}_{target}", or with the target before."""
    cells = ids.tolist()
    for separator in ("__", "_", "-", "/", ":", ".", " "):
        for column, values in known.items():
            for order in ("after", "before"):
                split = [_split(cell, separator, order, values) for cell in cells[:200]]
                if not all(split):
                    continue
                pairs = [_split(cell, separator, order, values) for cell in cells]
                if not all(pairs):
                    continue
                names = tuple(dict.fromkeys(name for _, name in pairs))  # type: ignore[misc]
                pictures = {picture for picture, _ in pairs}  # type: ignore[misc]
                if len(names) > 1 and len(names) * len(pictures) == len(cells):
                    template = f"{{id}}{separator}{{target}}" if order == "after" else f"{{target}}{separator}{{id}}"
                    why = f"a row per picture and one of {len(names)} targets"
                    return Rows(template, column, why, names)
    return None


def _split(cell: str, separator: str, order: str, values: set[str]) -> tuple[str, str] | None:
    """(picture, target) at the first separator that leaves a known picture."""
    at = cell.find(separator)
    while at >= 0:
        left, right = cell[:at], cell[at + len(separator) :]
        picture, name = (left, right) if order == "after" else (right, left)
        if picture in values and name:
            return picture, name
        at = cell.find(separator, at + 1)
    return None
