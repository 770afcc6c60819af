"""A training table with a row per picture and target, turned into one with a row per picture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from src.competition.images import template_fields
from src.errors import UserError, first_few

KEY = "competition.long"


def names_in(cells: np.ndarray, template: str) -> tuple[np.ndarray, np.ndarray]:
    """(pictures, names of targets), each (N,) str, from cells such as "ID_7_epidural" by a template "{id}_{target}".

    Where the separator occurs several times, it is the one at which every picture has every target. Raises UserError
    for cells that do not fit.
    """
    if sorted(template_fields(template, KEY)) != ["id", "target"]:
        raise UserError(f"{KEY}={template!r}: give the name of a column, or a template with {{id}} and {{target}}")
    target_last = template.index("{target}") > template.index("{id}")
    separator = template.replace("{id}", "").replace("{target}", "")
    strange = [cell for cell in cells.tolist() if not separator or separator not in cell.strip(separator)]
    if strange:
        raise UserError(f"{KEY}={template!r}: {len(strange)} ids are not made so ({first_few(strange)})")
    parts = [cell.split(separator) for cell in cells.tolist()]
    for at in [n * sign for n in range(1, max(map(len, parts))) for sign in (1, -1)]:  # from the left, from the right
        left = [separator.join(words[:at]) for words in parts]
        right = [separator.join(words[at:]) for words in parts]
        pictures, names = (left, right) if target_last else (right, left)
        counts = len(set(pictures)), len(set(names))
        if all(left) and all(right) and counts[0] * counts[1] == len(cells) and min(counts) > 1:
            return np.array(pictures, dtype=np.str_), np.array(names, dtype=np.str_)
    raise UserError(f"{KEY}={template!r}: there is no {separator!r} in the ids at which every picture has every target")


def pivot(
    columns: Mapping[str, np.ndarray], place: str, id_column: str, long: str, value: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """A row per picture from a table with one per picture and target, and the names of its new columns.

    long: the column with the targets' names, or a template of the id column (`names_in`). value: the column with their
    values. The other columns are kept from each picture's first row. Raises UserError that names the file `place` where
    a picture lacks a target or has it twice.
    """
    if "{" in long:
        pictures, names = names_in(columns[id_column], long)
    else:
        pictures, names = columns[id_column], columns[long]
    ids, first, of_id = np.unique(pictures, return_index=True, return_inverse=True)
    targets, of_name = np.unique(names, return_inverse=True)
    order = np.argsort(first)  # as the table has them
    rank = np.empty(len(ids), np.int64)
    rank[order] = np.arange(len(ids))
    at = rank[of_id.reshape(-1)], of_name.reshape(-1)
    count = np.zeros((len(ids), len(targets)), np.int64)
    np.add.at(count, at, 1)
    wrong = np.argwhere(count != 1)
    if len(wrong):
        picture, name = ids[order][wrong[0][0]], targets[wrong[0][1]]
        times = count[tuple(wrong[0])]
        raise UserError(
            f"{place}: id {str(picture)!r} has {times} rows of {str(name)!r}; each picture needs one of each target"
        )
    wide = np.empty((len(ids), len(targets)), dtype=columns[value].dtype)
    wide[at] = columns[value]
    rest = {name: cells[first[order]] for name, cells in columns.items() if name not in (id_column, long, value)}
    found = {name: wide[:, position] for position, name in enumerate(targets.tolist())}
    return {id_column: ids[order], **rest, **found}, list(found)
