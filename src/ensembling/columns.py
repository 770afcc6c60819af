"""Columns of a table as numbers: scaled, or one column per value, with what is missing as a value of its own."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np

RARE = 5  # rows from which a value has a column of its own


def encode(train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Columns (N,) and (M,) str as (N, D) and (M, D) float32, as scikit-learn encodes them; fitted on the training
    rows, without their targets.

    A column whose cells are all numbers is standardised, gaps become its median and a 0/1 column says where they were.
    Any other has a 0/1 column per value of at least RARE rows, one for the rest and one for gaps.
    """
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = {name: as_numbers(cells, test[name]) for name, cells in train.items()}
    frames = []
    for part, rows in enumerate((train, test)):
        columns = {name: rows[name] if numbers[name] is None else numbers[name][part] for name in rows}  # type: ignore[index]
        frames.append(pd.DataFrame(columns))
    measured = [name for name, values in numbers.items() if values is not None]
    named = [name for name in train if name not in measured]
    transformer = ColumnTransformer(
        [
            (
                "numbers",
                make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler()),
                measured,
            ),
            (
                "names",
                OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=RARE, sparse_output=False),
                named,
            ),
        ]
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(unknown categories|without any observed values).*")
        x = transformer.fit_transform(frames[0])
        other = transformer.transform(frames[1])
    return np.asarray(x, np.float32), np.asarray(other, np.float32)


def as_numbers(*parts: np.ndarray) -> tuple[np.ndarray, ...] | None:
    """Cells (N,) str as float64, gaps as NaN; None where one is no number."""
    gaps = ("", "na", "nan", "null", "none", "?")
    try:
        return tuple(
            np.array([np.nan if cell.lower() in gaps else float(cell) for cell in cells.tolist()]) for cells in parts
        )
    except ValueError:
        return None
