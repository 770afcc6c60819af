"""What a row of the sample submission stands for: a picture, several of them, or one target of a picture."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from src.competition.long_table import names_in, pivot
from src.errors import UserError

VALUES = ("target", "label", "value", "score", "prediction", "class")  # columns of a long table
SPLITTERS = ("__", "_", "-", "/", ":", ".", " ")


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
    if not wanted <= known and (long := _long(ids, known)) is not None:
        return long
    if test is None:
        return Rows("{id}", None, "names of the test pictures") if wanted <= known else None
    for name, cells in test.items():
        if set(cells.tolist()) != wanted:
            continue
        if len(cells) == len(wanted):
            return Rows("{id}", name, f"column {name} of the test table")
        parts = _of_parts(wanted, {c: v for c, v in test.items() if c in train}) if name not in train else None
        several = f"column {name} of the test table, {len(cells) / len(wanted):.1f} pictures a row"
        return parts or Rows(f"{{{name}}}", None, several)
    return (
        _long(ids, set().union(*map(np.ndarray.tolist, test.values())))
        or _of_parts(wanted, test)
        or _with_extension(wanted, test)
    )


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
            for separator in (*SPLITTERS, ""):
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


def _long(ids: np.ndarray, pictures: set[str]) -> Rows | None:
    """A row per picture and target: "{id}_{target}", or with the target before."""
    for separator in SPLITTERS:
        for template in (f"{{id}}{separator}{{target}}", f"{{target}}{separator}{{id}}"):
            try:
                found, names = names_in(ids, template)
            except UserError:
                continue
            if set(found.tolist()) <= pictures:
                targets = tuple(dict.fromkeys(names.tolist()))
                return Rows(template, None, f"a row per picture and one of {len(targets)} targets", targets)
    return None


def unfolded(
    columns: Mapping[str, np.ndarray], place: str, names: Sequence[str]
) -> tuple[dict[str, np.ndarray], str, str, str] | None:
    """A table with a row per picture and one of the targets `names`, as one with a row per picture.

    (columns, id column, what `competition.long` is, column of the values); None for a table of another kind.
    """
    for key, long in _ways_to_fold(columns, names):
        rest = [name for name in columns if name not in (key, long) and name.lower() in VALUES]
        value = next(iter(rest), list(columns)[-1])
        if value in (key, long):
            continue
        try:
            wide, _ = pivot(columns, place, key, long, value)
        except UserError:
            continue
        if set(names) <= set(wide):
            return wide, key, long, value
    return None


def _ways_to_fold(columns: Mapping[str, np.ndarray], names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(id column, `competition.long`): ids that hold the target's name, then a column of these names."""
    for name, cells in columns.items():
        for separator in SPLITTERS:
            if separator in cells[0] and any(target in cells[0] for target in names):
                yield name, f"{{id}}{separator}{{target}}"
                yield name, f"{{target}}{separator}{{id}}"
    for name, cells in columns.items():
        if set(np.unique(cells).tolist()) == set(names):
            yield from ((key, name) for key in columns if key != name)
