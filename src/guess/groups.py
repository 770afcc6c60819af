"""Which rows belong together: a column whose values the test rows do not share, as patients and places do."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from src.guess.columns import look_at_column
from src.guess.finding import Finding

NAMED = re.compile(
    r"patient|subject|person|people|driver|owner|donor|user|author|location|locality|place|camera|scene|session|study"
    r"|series"
    r"|(^|[_ ])group|cluster|sequence|(^|[_ ])seq|video|clip|slide|specimen|animal|individual|farm|field"
    r"|plot|station|trap|hospital|clinic",
    re.IGNORECASE,
)
FEWEST = 5  # groups, as many as folds


def find_groups(
    train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray] | None, spent: set[str]
) -> list[Finding]:
    """The finding on `group_column`, or none. spent: columns that are ids, pictures or targets."""
    candidates: list[tuple[tuple[bool, bool, float], str, str]] = []
    for name, cells in train.items():
        if name in spent:
            continue
        look = look_at_column(name, cells)
        if look.empty or look.values < FEWEST or look.per_value < 1.2 or look.kind == "number":
            continue
        called = NAMED.search(name) is not None
        if test is not None and name in test:
            theirs = set(np.unique(test[name]).tolist())
            shared = theirs & set(np.unique(cells).tolist())
            if shared:
                continue
            candidates.append(
                (
                    (True, called, -look.per_value),
                    name,
                    f"none of its {look.values} values is in the test rows; {look.per_value:.1f} rows each",
                )
            )
        elif called:
            why = f"its name; {look.values} values, {look.per_value:.1f} rows each" + (
                ", and the test table lacks it" if test is not None else ""
            )
            candidates.append(((False, called, -look.per_value), name, why))
    if not candidates:
        return []
    candidates.sort(key=lambda item: item[0], reverse=True)
    (apart, _, _), name, why = candidates[0]
    rule = "values that the test rows lack" if apart else "named like a group"
    return [Finding("group_column", name, rule, why, tuple(other for _, other, _ in candidates[1:4]))]
