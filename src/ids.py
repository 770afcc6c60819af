"""Ids on two sides: where each one stands, and what to say of those that stand on one side only."""

from __future__ import annotations

import numpy as np

from src.errors import first_few


def find_rows(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(M,) int64: where each of `wanted` (M,) str stands in `ids` (N,) str, -1 where it does not. Ids are unique."""
    if not len(ids):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(ids, kind="stable")
    place = order[np.searchsorted(ids[order], wanted).clip(max=len(order) - 1)]
    return np.where(ids[place] == wanted, place, -1).astype(np.int64)


def only_in(ids: np.ndarray, others: np.ndarray) -> list[str]:
    """The elements of `ids` (N,) str that are not in `others` (M,) str, in the order of `ids`."""
    known = set(others.tolist())
    return [item for item in ids.tolist() if item not in known]


def differ(wanted: np.ndarray, found: np.ndarray, missing: str = "missing", unknown: str = "unknown") -> str:
    """ "2 missing (a, b), 1 unknown (c)", or "" where both hold the same. The two words say what either side lacks."""
    lacking, strange = only_in(wanted, found), only_in(found, wanted)
    if not lacking and not strange:
        return ""
    return (
        f"{len(lacking)} {missing} ({first_few(lacking) or 'none'}), "
        f"{len(strange)} {unknown} ({first_few(strange) or 'none'})"
    )
