"""Ids on two sides: where each one stands, and what to say of those that stand on one side only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from src.errors import first_few


def find_rows(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(M,) int64: where each of `wanted` (M,) str stands in `ids` (N,) str, -1 where it does not. Ids are unique."""
    if np.array_equal(ids, wanted):  # as they nearly always are: no object for each
        return np.arange(len(ids), dtype=np.int64)
    if not len(ids):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(ids, kind="stable")
    place = order[np.searchsorted(ids[order], wanted).clip(max=len(order) - 1)]
    return np.where(ids[place] == wanted, place, -1).astype(np.int64)


def in_parts(column: np.ndarray, most: int = 50_000) -> Iterator[list[Any]]:
    """The elements of a column (N,) as lists of at most so many: all of them at once would be 60 bytes or more each."""
    for start in range(0, len(column), most):
        yield column[start : start + most].tolist()


def are_unique(ids: np.ndarray) -> bool:
    """Whether no id of `ids` (N,) str comes twice: by 64-bit sums of their letters, which those that are equal share;
    where two sums agree, by the ids themselves."""
    if not len(ids):
        return True
    letters = np.ascontiguousarray(ids).view(np.uint32).reshape(len(ids), -1)
    weights = np.random.RandomState(0).bytes(8 * letters.shape[1])
    sums = np.empty(len(ids), np.uint64)
    for start in range(0, len(ids), 4096):
        part = letters[start : start + 4096].astype(np.uint64)
        sums[start : start + len(part)] = (part * np.frombuffer(weights, np.uint64)).sum(axis=1)
    sums.sort()
    return not (sums[1:] == sums[:-1]).any() or len(set(ids.tolist())) == len(ids)


def only_in(ids: np.ndarray, others: np.ndarray) -> list[str]:
    """The elements of `ids` (N,) str that are not in `others` (M,) str, in the order of `ids`."""
    if np.array_equal(ids, others):
        return []
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
