"""Targets of several columns: labels, classes or numbers in columns of their own, or a column per class."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from src.competition.kinds.multi import split
from src.competition.metrics import multi, single
from src.guess.columns import Look
from src.guess.finding import Finding
from src.guess.seen import Seen, called, regression

MOST_CLASSES = 0.5  # of the rows


def several_columns(values: list[str], looks: Mapping[str, Look], seen: Seen) -> list[Finding]:
    """Targets that are columns of the training table as well."""
    columns = Finding(
        "target_columns",
        values,
        "columns of the sample",
        f"the sample's {len(values)} value columns are columns of the training table",
    )
    kinds = {looks[name].kind for name in values}
    if kinds == {"flag"} and not regression(seen.metric):
        hot = np.stack([seen.train[name].astype(np.float64) for name in values], axis=1)
        if (hot.sum(axis=1) == 1).all() and len(values) > 1:
            why = "exactly one of these 0/1 columns is 1 in every row"
            return [columns, Finding("kind", "single", "one-hot columns", why, ("multi",)), *_as_probabilities(seen)]
        why = f"0/1 columns, {hot.sum(axis=1).mean():.1f} of them 1 on average, 0 to {int(hot.sum(axis=1).max())}"
        return [columns, Finding("kind", "multi", "label columns", why), *_as_probabilities(seen)]
    few = all(
        looks[name].values <= max(2, MOST_CLASSES * looks[name].rows) and looks[name].kind != "number"
        for name in values
    )
    if few and not regression(seen.metric) and (kinds - {"number"}) and not _like_numbers(values, looks):
        why = ", ".join(f"{name}: {looks[name].values} values" for name in values[:4])
        return [columns, Finding("kind", "targets", "several columns of classes", why, ("number",))]
    why = ", ".join(
        f"{name}: {looks[name].low:g} to {looks[name].high:g}" for name in values[:4] if looks[name].kind != "text"
    )
    return [columns, Finding("kind", "number", "several columns of numbers", why, ("targets",))]


def _like_numbers(values: list[str], looks: Mapping[str, Look]) -> bool:
    """Whether whole numbers are measurements: many values, or classes that would not start at 0 or 1."""
    return all(
        looks[name].kind == "whole" and (looks[name].values > 50 and looks[name].per_value < 20) for name in values
    )


def class_columns(values: list[str], looks: Mapping[str, Look], seen: Seen) -> list[Finding] | None:
    """A column per class: the training column whose labels are the sample's columns, up to a common beginning."""
    for name in looks:
        cells = seen.train[name]
        labels = {cell for cell in np.unique(cells).tolist() if cell}
        words = {word for cell in labels for word in split(cell)}
        for found, kind in ((labels, "single"), (words, "multi")):
            if not found or len(found) > len(values):
                continue
            beginning = _beginning(values, found)
            if beginning is None:
                continue
            why = f"the labels of column {name} are the sample's columns" + (
                f" behind {beginning!r}" if beginning else ""
            )
            findings = [Finding("target_column", name, "labels are the sample's columns", why)]
            findings.append(
                Finding("kind", kind, "words" if kind == "multi" else "a column per class", f"{len(values)} classes")
            )
            if len(found) < len(values) and kind == "single":
                lacking = sorted(set(values) - {beginning + label for label in found})
                findings.append(
                    Finding(
                        "classes",
                        [value[len(beginning) :] for value in values],
                        "classes of the sample",
                        f"{lacking[0]} is in no training row",
                    )
                )
            return [*findings, *_as_probabilities(seen)]
    return None


def _beginning(columns: list[str], labels: set[str]) -> str | None:
    """What stands before the labels in the columns, "" or a common beginning; None if some label has no column."""
    some = max(labels, key=len)
    for column in columns:
        if column.endswith(some):
            beginning = column[: len(column) - len(some)]
            if {beginning + label for label in labels} <= set(columns) and all(
                c.startswith(beginning) for c in columns
            ):
                return beginning
    return None


def _as_probabilities(seen: Seen) -> list[Finding]:
    """Of a column per class: whether 0 and 1 are submitted, as a metric of labels takes them."""
    found = called(seen.metric, multi.METRICS) or called(seen.metric, single.METRICS)
    if found is not None and found.of == "labels":
        return [
            Finding("submission", "labels", "a metric of labels", f"{seen.metric} takes 0 and 1", ("probabilities",))
        ]
    return []
