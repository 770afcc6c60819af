"""Which pictures, and which of their values, make a row of the sample submission, where it is not a picture a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from src.competition.images import pieces, template_fields
from src.competition.sample import Sample
from src.competition.task import Task
from src.errors import UserError
from src.ids import differ, find_rows

ONE = "{id}"  # a row of the sample is a picture
TARGET = "target"  # the name in a template that stands for that of a target
KEY = "competition.rows"


@dataclass(frozen=True)
class Links:
    """row (L,) int64: of the sample; image (L,) str: id of a picture that belongs to it; target (L,) str: the name of
    its target, where each has a row of its own, else None. how: mean or max over the pictures of a row."""

    row: np.ndarray
    image: np.ndarray
    target: np.ndarray | None
    how: str = "mean"


def filled(template: str, ids: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N,) str: a template such as "{patient}_{side}" for every row of a table; `{id}` are `ids` (N,) str."""
    made = np.zeros(len(ids), dtype="U1")
    for text, name, _ in pieces(template, KEY):
        made = np.char.add(made, text)
        if name is not None:
            made = np.char.add(made, ids if name == "id" else columns[name])
    return made


def link(
    sample: Sample, ids: np.ndarray, columns: Mapping[str, np.ndarray], template: str, names: np.ndarray, how: str
) -> Links | None:
    """The links of test pictures `ids` (M,) str to the sample's rows; None where each is a row of its own.

    columns: of the test table, by name, as the template needs them. names (T,) str: of targets, for `{target}`. Raises
    UserError for rows of the sample that no picture makes, or pictures that make none.
    """
    if template == ONE:
        return None
    if TARGET in template_fields(template, KEY):
        parts = [
            (name, filled(template.replace("{target}", name.replace("{", "{{").replace("}", "}}")), ids, columns))
            for name in names.tolist()
        ]
        made = np.concatenate([cells for _, cells in parts])
        image = np.tile(ids, len(parts))
        target: np.ndarray | None = np.repeat(np.array([name for name, _ in parts], dtype=np.str_), len(ids))
    else:
        made, image, target = filled(template, ids, columns), ids, None
    row = find_rows(sample.ids, made)
    if text := differ(sample.ids, np.unique(made), "only in the sample", "only made of the test rows"):
        raise UserError(
            f"{KEY}={template!r} does not make the sample's ids: {text}; name the columns as the ids are built"
        )
    return Links(row, image, target, how)


def pool(pred: np.ndarray, unit: np.ndarray, count: int, how: str) -> np.ndarray:
    """(count, C): the mean or the maximum of pred (L, C) over the pictures of each unit (L,) int64 below count."""
    if how == "max":
        out = np.full((count, pred.shape[1]), -np.inf)
        np.maximum.at(out, unit, pred)
        return out
    out = np.zeros((count, pred.shape[1]))
    np.add.at(out, unit, pred)
    return out / np.bincount(unit, minlength=count)[:, None]


def wide_sample(links: Links, sample: Sample) -> Sample:
    """The sample as it would be with a row per picture and a column per target."""
    assert links.target is not None
    names = dict.fromkeys(links.target.tolist())
    return Sample((sample.id_column, *names), np.unique(links.image), sample.kind)


def submitted_values(
    links: Links,
    sample: Sample,
    ids: np.ndarray,
    pred: np.ndarray,
    task: Task,
    decide: Callable[[np.ndarray], np.ndarray],
) -> dict[str, np.ndarray]:
    """The sample's value columns, each (R,), from predictions pred (M, C) of pictures ids (M,) str; `decide` is for
    those of a row of the sample, or where each target has a row, of a picture."""
    at = find_rows(ids, links.image)
    if links.target is None:
        return task.submit(decide(pool(pred[at], links.row, len(sample.ids), links.how)), sample)
    pictures, image = np.unique(links.image, return_inverse=True)
    wide = wide_sample(links, sample)
    names = wide.value_columns
    by_name = task.submit(decide(pred[find_rows(ids, pictures)]), wide)
    out = np.empty(len(sample.ids), dtype=object)
    for name in names:
        own = links.target == name
        out[links.row[own]] = np.asarray(by_name[name])[image.reshape(-1)[own]]
    numbers = all(np.asarray(column).dtype.kind in "fiu" for column in by_name.values())
    return {sample.value_columns[0]: out.astype(np.float64) if numbers else out}
