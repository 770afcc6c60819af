"""What the cells of a column look like: numbers, words, labels, a name per row."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from src.competition.kinds.multi import split

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
WHOLE = re.compile(r"[+-]?\d+(\.0+)?")


@dataclass(frozen=True)
class Look:
    """rows: with a cell. values: distinct cells. kind: number (with decimals), whole, flag (only 0 and 1), text."""

    name: str
    rows: int
    empty: int
    values: int
    kind: str
    low: float = 0.0
    high: float = 0.0

    @property
    def per_value(self) -> float:
        return self.rows / max(1, self.values)

    @property
    def unique(self) -> bool:
        """Whether hardly a cell occurs twice."""
        return self.values > 0.98 * self.rows


def look_at_column(name: str, cells: np.ndarray) -> Look:
    """cells: (N,) str."""
    there = cells[cells != ""]
    unique = np.unique(there).tolist()
    if not unique:
        return Look(name, 0, len(cells), 0, "text")
    empty = len(cells) - len(there)
    if not all(NUMBER.fullmatch(cell) for cell in unique):
        return Look(name, len(there), empty, len(unique), "text")
    numbers = [float(cell) for cell in unique]
    low, high = min(numbers), max(numbers)
    if {0.0, 1.0} >= set(numbers) and all(WHOLE.fullmatch(cell) for cell in unique):
        kind = "flag"
    else:
        kind = "whole" if all(WHOLE.fullmatch(cell) for cell in unique) else "number"
    return Look(name, len(there), empty, len(unique), kind, low, high)


def holds_words(cells: np.ndarray) -> bool:
    """Whether cells (N,) str are sets of words rather than names that hold spaces or commas.

    Sets have another number of words from row to row, or hardly occur twice, and are combinations of fewer words than
    there are cells.
    """
    there = cells[cells != ""]
    unique = np.unique(there).tolist()
    sets = [split(cell) for cell in unique]
    counts = {len(words) for words in sets}
    if max(counts, default=1) < 2:
        return False
    vocabulary = {word for words in sets for word in words}
    if any(len(set(words)) < len(words) for words in sets):  # a word twice is a sentence
        return False
    marked = any(mark in cell for cell in unique for mark in "|;,")
    rare = len(unique) > 0.5 * len(there) and 2 * len(vocabulary) < 3 * len(unique)
    return (len(counts) > 1 or marked or rare) and len(vocabulary) < len(unique) + (1 if marked else 0)


def spells(cells: np.ndarray, names: set[str]) -> bool:
    """Whether most cells are of `names`."""
    there = cells[cells != ""]
    return len(there) > 0 and float(np.isin(there, list(names)).mean()) > 0.9
