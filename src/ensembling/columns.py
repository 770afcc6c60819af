"""Columns of a table as numbers: scaled, or one column per value, with what is missing as a value of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RARE = 5  # rows from which a value has a column of its own
GAPS = ("", "na", "nan", "null", "none", "?")


Tree = dict[str, Any]


def encode(train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Columns (N,) and (M,) str as (N, D) and (M, D) float32: `fit_encoding` on the training rows, applied to both."""
    encoding = fit_encoding(train, test)
    return apply_encoding(encoding, train), apply_encoding(encoding, test)


def fit_encoding(train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray]) -> list[Tree]:
    """How columns become numbers, as plain values, a mapping for each: as scikit-learn encodes them, fitted on the
    training rows, without their targets. The test rows only decide whether a column is one of numbers.

    A column whose cells are all numbers is standardised, gaps become its median and a 0/1 column says where they were.
    Any other has a 0/1 column per value of at least RARE rows, one for the rest and one for gaps.
    """
    numbers, names = [], []
    for name, cells in train.items():
        values = as_numbers(cells)
        if values is None or as_numbers(test[name]) is None:
            found, counts = np.unique(cells, return_counts=True)
            names.append({"name": name, "values": found[counts >= RARE].tolist(), "rest": bool((counts < RARE).any())})
            continue
        gaps = np.isnan(values)
        median = None if gaps.all() else float(np.median(values[~gaps]))
        parts = _parts(values, median, bool(gaps.any()))
        std = parts.std(axis=0)
        scale = np.where(std > 1e-12 * (1 + np.abs(parts.mean(axis=0))), std, 1.0)
        numbers.append(
            {
                "name": name,
                "median": median,
                "gaps": bool(gaps.any()),
                "mean": parts.mean(axis=0).tolist(),
                "std": scale.tolist(),
            }
        )
    return [*numbers, *names]


def apply_encoding(encoding: Sequence[Tree], cells: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N, D) float32 of columns (N,) str, numbers first. Values that were not known, and in a column of numbers what is
    none, count as rare and as gaps."""
    blocks = []
    for column in encoding:
        own = cells[column["name"]]
        if "mean" in column:
            parts = _parts(_numbers(own), column["median"], column["gaps"])
            blocks.append((parts - np.array(column["mean"])) / np.array(column["std"]))
        else:
            known = own[:, None] == np.array(column["values"], np.str_)[None]
            rest = [~known.any(axis=1)[:, None]] if column["rest"] else []
            blocks.append(np.concatenate([known, *rest], axis=1).astype(np.float64))
    return np.concatenate(blocks, axis=1).astype(np.float32)


def _parts(values: np.ndarray, median: float | None, gaps: bool) -> np.ndarray:
    """(N, up to 2) float64: the values with their gaps filled, and where these were."""
    there = np.isnan(values)
    filled = [] if median is None else [np.where(there, median, values)]
    return np.stack([*filled, *([there.astype(np.float64)] if gaps else [])], axis=1)


def _numbers(cells: np.ndarray) -> np.ndarray:
    """(N,) str as float64; NaN for gaps and for what is no number."""
    return np.array([_number(cell) for cell in cells.tolist()])


def _number(cell: str) -> float:
    try:
        return np.nan if cell.lower() in GAPS else float(cell)
    except ValueError:
        return np.nan


def as_numbers(cells: np.ndarray) -> np.ndarray | None:
    """Cells (N,) str as float64, gaps as NaN; None where one is no number."""
    try:
        return np.array([np.nan if cell.lower() in GAPS else float(cell) for cell in cells.tolist()])
    except ValueError:
        return None
