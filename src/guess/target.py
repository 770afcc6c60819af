"""What is to be learnt: the target column or columns, the kind of target, and how it is submitted."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from src.competition.kinds.multi import split
from src.guess.columns import Look, holds_words, look_at_column
from src.guess.finding import Finding
from src.guess.form import labels_or_probability, ranked
from src.guess.seen import Seen, best_few, graded, is_gap, regression
from src.guess.several import class_columns, several_columns

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
MOST_GRADES = 10


def find_target(seen: Seen) -> list[Finding]:
    """The findings on target columns, kind and submission."""
    looks = {name: look_at_column(name, cells) for name, cells in seen.train.items() if name not in seen.spent}
    values = list(seen.names or seen.sample)
    if len(values) > 1:
        if set(values) <= set(looks):
            return several_columns(values, looks, seen)
        if (found := class_columns(values, looks, seen)) is not None:
            return found
    return _one_column(looks, seen)


def _one_column(looks: Mapping[str, Look], seen: Seen) -> list[Finding]:
    value = next(iter(seen.sample), None)
    name, rule, why, others = choose_column(looks, value, seen)
    if name is None:
        return []
    findings = [Finding("target_column", name, rule, why, others)]
    cells, look = seen.train[name], looks[name]
    asked = seen.sample[value] if value is not None else np.array([], np.str_)
    there = np.unique(asked[asked != ""])
    labels = [label for label in np.unique(cells).tolist() if label]
    # a cell of the sample that is a label, "hot dog", is one and not two of them
    words = max((len(split(cell)) for cell in there.tolist() if cell not in labels), default=1)
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
    if look.kind == "text" and (holds_words(cells) or _sets_beside(cells, look, there, words)):
        return [*findings, Finding("kind", "multi", "words in a cell", _of_words(cells))]
    if look.kind == "number" and not _few(look):
        why = f"numbers with decimals from {look.low:g} to {look.high:g}, {look.values} different ones"
        return [*findings, Finding("kind", "number", "a column of numbers", why)]
    if look.kind == "whole" and _measured(name, look, there, seen):
        why = f"whole numbers from {look.low:g} to {look.high:g}, {look.values} different ones in {look.rows} rows"
        return [*findings, Finding("kind", "number", "a column of numbers", why, ("single",))]

    if any(len(split(label)) > 1 for label in labels):  # the best few of such names could not be told apart
        words = 1
    kind = Finding("kind", "single", "a label per row", f"{look.values} classes in {look.rows} rows")
    if words > 1 or best_few(seen.metric) > 1:
        return [*findings, kind, *ranked(labels, there, words, seen)]
    if graded(seen.metric) and look.kind in ("whole", "flag"):
        return [
            *findings,
            Finding("kind", "single", "ordered grades", f"{look.values} grades, and {seen.metric} knows their order"),
            Finding("submission", "labels", "grades", "the metric takes whole grades"),
        ]
    return [*findings, kind, *labels_or_probability(labels, value, asked, look, seen)]


def _sets_beside(cells: np.ndarray, look: Look, asked: np.ndarray, words: int) -> bool:
    """Whether cells are sets because the sample's cells `asked` are, or because some are empty: some hold several
    words. words: of the longest of `asked` that is no cell itself; where all are, sets are combinations of no more
    words than there are cells, and others are names that hold spaces."""
    sets = [set(split(cell)) for cell in np.unique(cells[cells != ""]).tolist()]
    counts = {len(each) for each in sets}
    if max(counts, default=0) < 2 or len(counts) < 2:
        return False
    combined = len(set().union(*sets)) <= len(sets)
    return look.empty > 0 or words > 1 or (combined and any(len(split(cell)) > 1 for cell in asked.tolist()))


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
