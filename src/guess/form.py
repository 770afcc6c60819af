"""How one column of labels is submitted: labels, the best few of them, or the probability of one."""

from __future__ import annotations

import re

import numpy as np

from src.competition.kinds.multi import split
from src.guess.columns import Look
from src.guess.finding import Finding
from src.guess.seen import Seen, best_few, ranks

NEW = re.compile(r"(^|[_ ])(new|unknown|unseen|novel)($|[_ ])", re.I)
YES = ("1", "true", "yes", "positive", "malignant", "abnormal", "present", "sick", "defect", "fake", "real", "dog")


def ranked(labels: list[str], asked: np.ndarray, words: int, seen: Seen) -> list[Finding]:
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


def labels_or_probability(
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
        return by_name[0], f"{by_name[0]!r} is the one that means yes"
    return labels[-1], f"nothing names it: the last of {' and '.join(labels)}; give competition.positive= for the other"
