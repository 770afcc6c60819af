"""What is to be learnt: the target column or columns, the kind of target, and how it is submitted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from src.competition.kinds.multi import split
from src.competition.metrics import multi, numbers, single
from src.competition.metrics.metric import Metric, Metrics
from src.errors import UserError
from src.guess.columns import Look, holds_words, look_at_column
from src.guess.finding import Finding

# Columns by what they are called, from the likeliest; a target is seldom called otherwise.
TARGETS = (
    "target",
    "label",
    "labels",
    "class",
    "category",
    "y",
    "diagnosis",
    "species",
    "breed",
    "level",
    "grade",
    "tags",
)
CLASS_LIKE = re.compile(
    r"(^|[_ ])(ids?|class|category|label|species|breed|individual|code|kind|type|digit|character)s?($|[_ ])|Id$", re.I
)
NEW = re.compile(r"(^|[_ ])(new|unknown|unseen|novel)($|[_ ])", re.I)
YES = ("1", "true", "yes", "positive", "malignant", "abnormal", "present", "sick", "defect", "fake", "real", "dog")
MOST_GRADES, MOST_CLASSES = 10, 0.5


@dataclass(frozen=True)
class Seen:
    """What the rules look at. train: columns of the training table, each (N,) str; test: names of the test table's
    columns, None without one; sample: the sample's value columns, each (M,) str; names: of targets with a row each;
    spent: columns that name rows or pictures; metric: as the user calls it, or None."""

    train: Mapping[str, np.ndarray]
    test: Sequence[str] | None
    sample: Mapping[str, np.ndarray]
    names: tuple[str, ...]
    spent: tuple[str, ...]
    metric: str | None


def called(metric: str | None, among: Metrics) -> Metric | None:
    """The metric of that name, if it is one of a kind of target; the user's own is none."""
    try:
        return among.find(metric) if metric is not None else None
    except UserError:
        return None


def regression(metric: str | None) -> bool:
    """Whether only numbers are scored by it."""
    return called(metric, numbers.METRICS) is not None and called(metric, single.METRICS) is None


def graded(metric: str | None) -> bool:
    """Whether the order of classes counts."""
    found = called(metric, single.METRICS)
    return found is not None and found.name in ("qwk", "kappa_linear")


def ranks(metric: str | None) -> bool:
    """Whether the metric takes probabilities or an order, not labels."""
    found = called(metric, single.METRICS) or called(metric, multi.METRICS)
    return found is not None and found.of != "labels"


def best_few(metric: str | None) -> int:
    """How many of the best classes the metric looks at; 1 for most."""
    found = called(metric, single.METRICS)
    return found.top or 1 if found is not None else 1


def is_gap(metric: str | None) -> bool:
    found = called(metric, single.METRICS)
    return found is not None and found.name == "gap"


def of_sets(metric: str | None) -> bool:
    """Whether only sets of labels are scored by it."""
    return called(metric, multi.METRICS) is not None and called(metric, single.METRICS) is None


def find_target(seen: Seen) -> list[Finding]:
    """The findings on target columns, kind and submission."""
    looks = {name: look_at_column(name, cells) for name, cells in seen.train.items() if name not in seen.spent}
    values = list(seen.names or seen.sample)
    if len(values) > 1:
        if set(values) <= set(looks):
            return _several_columns(values, looks, seen)
        if (found := _class_columns(values, looks, seen)) is not None:
            return found
    return _one_column(looks, seen)


# ---- several columns ------------------------------------------------------------------------------------------------


def _several_columns(values: list[str], looks: Mapping[str, Look], seen: Seen) -> list[Finding]:
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


def _class_columns(values: list[str], looks: Mapping[str, Look], seen: Seen) -> list[Finding] | None:
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


# ---- one column -----------------------------------------------------------------------------------------------------


def _one_column(looks: Mapping[str, Look], seen: Seen) -> list[Finding]:
    value = next(iter(seen.sample), None)
    name, rule, why, others = choose_column(looks, value, seen)
    if name is None:
        return []
    findings = [Finding("target_column", name, rule, why, others)]
    cells, look = seen.train[name], looks[name]
    asked = seen.sample[value] if value is not None else np.array([], np.str_)
    there = np.unique(asked[asked != ""])
    words = max((len(split(cell)) for cell in there.tolist()), default=1)
    sure = words == 2 and all(re.fullmatch(r"\S+ (0?\.\d+|1\.0*|1|0)", cell) for cell in there.tolist())
    if sure or is_gap(seen.metric):
        why = (
            "the sample's cells hold a label and a number from 0 to 1"
            if sure
            else f"{seen.metric} asks how sure a label is"
        )
        return [
            *findings,
            Finding("kind", "single", "a label per row", f"{look.values} classes in {look.rows} rows"),
            Finding("submission", "confident", "a label and how sure it is", why),
        ]

    if regression(seen.metric) and look.kind != "text":
        return [
            *findings,
            Finding("kind", "number", "the metric", f"{seen.metric} compares numbers; {look.low:g} to {look.high:g}"),
        ]
    if look.kind == "text" and (holds_words(cells) or _sets_beside(cells, look, words)):
        return [*findings, Finding("kind", "multi", "words in a cell", _of_words(cells))]
    if look.kind == "number" and not _few(look):
        why = f"numbers with decimals from {look.low:g} to {look.high:g}, {look.values} different ones"
        return [*findings, Finding("kind", "number", "a column of numbers", why)]
    if look.kind == "whole" and _measured(name, look, there, seen):
        why = f"whole numbers from {look.low:g} to {look.high:g}, {look.values} different ones in {look.rows} rows"
        return [*findings, Finding("kind", "number", "a column of numbers", why, ("single",))]

    labels = [label for label in np.unique(cells).tolist() if label]
    kind = Finding("kind", "single", "a label per row", f"{look.values} classes in {look.rows} rows")
    if words > 1 or best_few(seen.metric) > 1:
        return [*findings, kind, *_ranked(labels, there, words, seen)]
    if graded(seen.metric) and look.kind in ("whole", "flag"):
        return [
            *findings,
            Finding("kind", "single", "ordered grades", f"{look.values} grades, and {seen.metric} knows their order"),
            Finding("submission", "labels", "grades", "the metric takes whole grades"),
        ]
    return [*findings, kind, *_labels_or_probability(labels, value, asked, look, seen)]


def _sets_beside(cells: np.ndarray, look: Look, words: int) -> bool:
    """Whether cells are sets because the sample's cells are, or because some are empty: some hold several words."""
    counts = {len(split(cell)) for cell in np.unique(cells[cells != ""]).tolist()}
    return max(counts, default=0) > 1 and len(counts) > 1 and (words > 1 or look.empty > 0)


def choose_column(
    looks: Mapping[str, Look], value: str | None, seen: Seen
) -> tuple[str | None, str, str, tuple[str, ...]]:
    """(column, rule, why, others): the target among the training table's columns."""
    if value is not None and value in looks:
        return value, "column of the sample", f"{value} is the sample's value column", ()
    beside = [name for name in looks if seen.test is None or name not in seen.test]
    left = [
        name for name in beside if looks[name].values >= 2 and not (looks[name].unique and looks[name].kind == "text")
    ]
    if not left:
        return None, "", "", ()
    asked = seen.sample[value] if value is not None else np.array([], np.str_)
    there = {word for cell in np.unique(asked).tolist() for word in split(cell)}

    def rank(name: str) -> tuple[bool, bool, int, int]:
        unique = set(np.unique(seen.train[name]).tolist())
        words = {word for cell in unique for word in split(cell)} if looks[name].kind == "text" else unique
        asks_labels = len(there) > 0 and not all(re.fullmatch(r"-?[\d.]+", word) for word in there)
        spelt = asks_labels and len(there & (unique | words)) > 0
        whole = bool(there) and not asks_labels and there <= unique and len(there) > 1
        alike = value is not None and value.lower() in (
            name.lower(),
            name.lower().removesuffix("s"),
            name.lower() + "s",
        )
        close = value is not None and (name.lower() in value.lower() or value.lower() in name.lower())
        position = next(
            (at for at, word in enumerate(TARGETS) if word in re.split(r"[_ .-]", name.lower())), len(TARGETS)
        )
        return (not spelt, not alike, not (close or whole), position)

    ranked = sorted(left, key=lambda name: (rank(name), list(looks).index(name)))
    best = ranked[0]
    if len(left) == 1:
        rule, why = "the only column left", "the other columns name rows or are in the test table too"
    elif not rank(best)[0]:
        rule, why = "labels of the sample", f"the sample's cells are labels of {best}"
    else:
        rule, why = "its name", f"of the columns that the test rows lack ({', '.join(left[:6])})"
    return best, rule, why, tuple(ranked[1:4])


def _few(look: Look) -> bool:
    """Whether numbers with decimals are a handful of classes all the same (0.0, 1.0, 2.5)."""
    return look.values <= MOST_GRADES and look.per_value >= 20


def _measured(name: str, look: Look, asked: np.ndarray, seen: Seen) -> bool:
    """Whether whole numbers are measurements, not classes."""
    if CLASS_LIKE.search(name) or look.values <= 12 or best_few(seen.metric) > 1:
        return False
    if any(re.fullmatch(r"-?\d*\.\d*[1-9]\d*", cell) for cell in asked.tolist()):
        return True  # the sample holds numbers with decimals
    dense = look.values > 0.5 * (look.high - look.low + 1)
    return (
        seen.metric is None
        and dense
        and look.values > 40
        and look.per_value < 20
        and not (look.low in (0, 1) and look.values == look.high - look.low + 1)
    )


def _of_words(cells: np.ndarray) -> str:
    sets = [split(cell) for cell in cells.tolist()]
    return (
        f"{len({word for words in sets for word in words})} words, {np.mean([len(words) for words in sets]):.1f} a row"
    )


def _ranked(labels: list[str], asked: np.ndarray, words: int, seen: Seen) -> list[Finding]:
    """The best few of many classes."""
    count = best_few(seen.metric) if best_few(seen.metric) > 1 else words
    why = (
        f"the sample's cells hold {words} labels each, the training table's one"
        if words > 1
        else f"the metric {seen.metric}"
    )
    findings = [
        Finding("submission", "ranked", "the best few as words", why),
        Finding("guesses", count, "the best few as words", why),
    ]
    known = {word for cell in asked.tolist() for word in split(cell)} | set(labels)
    new = sorted(name for name in known if NEW.search(name) or name.lower().startswith("new_"))
    if new:
        findings.append(
            Finding(
                "new",
                new[0],
                "a class of its own for the unknown",
                f"{new[0]} is no name but says that nobody is known",
            )
        )
    return findings


def _labels_or_probability(
    labels: list[str], value: str | None, asked: np.ndarray, look: Look, seen: Seen
) -> list[Finding]:
    """Of one column: labels, or the probability of one class."""
    there = np.unique(asked[asked != ""]).tolist()
    all_numbers = bool(there) and all(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e-?\d+)?", cell, re.I) for cell in there)
    parts = all_numbers and any(float(cell) != int(float(cell)) and 0 < float(cell) < 1 for cell in there)
    if len(labels) != 2:
        why = f"one column for {len(labels)} classes"
        return [Finding("submission", "labels", "one column, several classes", why)]
    if ranks(seen.metric):
        rule, why = "a metric of probabilities", f"{seen.metric} takes probabilities"
    elif parts and not seen.metric:
        rule, why = "the sample holds parts of 1", f"the sample holds {there[0]}"
    elif parts and not (set(labels) >= set(there)):
        rule, why = "the sample holds parts of 1", f"the sample holds {there[0]}; a metric of labels would take labels"
        if seen.metric:  # the metric counts labels whatever the sample shows
            return [Finding("submission", "labels", "a metric of labels", f"{seen.metric} takes labels", ("positive",))]
    else:
        return [
            Finding(
                "submission",
                "labels",
                "a metric of labels" if seen.metric else "the sample holds labels",
                f"the sample holds {', '.join(there[:3])}",
                ("positive",),
            )
        ]
    positive, how = which_is_positive(labels, value)
    return [
        Finding("submission", "positive", rule, why, ("labels",)),
        Finding(
            "positive",
            positive,
            "which class the column means",
            how,
            tuple(label for label in labels if label != positive),
        ),
    ]


def which_is_positive(labels: list[str], column: str | None) -> tuple[str, str]:
    """Which of two classes a single column of probabilities means, and why."""
    if column is not None:
        words = re.split(r"[^a-z0-9]+", column.lower())
        named = [label for label in labels if label.lower() in words or label.lower() == column.lower()]
        if len(named) == 1:
            return named[0], f"column {column} has its name"
    by_name = [
        label
        for label in labels
        if label.lower() in YES and not any(other != label and other.lower() in YES for other in labels)
    ]
    if by_name:
        return by_name[0], f"{by_name[0]!r} is the one that is said yes to"
    return labels[-1], f"nothing names it: the last of {' and '.join(labels)}; give competition.positive= for the other"
