"""A table file of any format as columns of strings: csv and its relatives, JSON, Parquet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.archives import stamp
from src.competition import csv_file
from src.competition.csv_file import AT_A_TIME, column_position
from src.competition.json_table import read_json_table
from src.errors import UserError

JSON, PARQUET = (".json", ".jsonl", ".ndjson"), (".parquet", ".pq")
TABLES = (".csv", ".tsv", *JSON, *PARQUET)  # ends of file names


def is_there(root: Path, file: str | None) -> bool:
    """Whether there is such a table below `root`, in an archive too; None is no table."""
    return file is not None and stamp(root, os.fsencode(file)) != "missing;"


def read_header(path: Path, key: str) -> tuple[str, ...]:
    """The names of the columns, without those that hold arrays; see `csv_file.read_header`."""
    if path.suffix.lower() in JSON:
        return tuple(read_json_table(path, key).columns)
    if path.suffix.lower() in PARQUET:
        return tuple(map(str, _parquet(path, key, [])))
    return csv_file.read_header(path, key)


def read_columns(path: Path, columns: Sequence[str], key: str, required: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The named columns, each (N,) str; see `csv_file.read_columns`. No other column of a csv or Parquet file is kept
    in memory."""
    if path.suffix.lower() not in (*JSON, *PARQUET):
        return csv_file.read_columns(path, columns, key, required)
    header = read_header(path, key)
    for name in columns:
        column_position(name, header, path, key)
    if path.suffix.lower() in JSON:
        table = read_json_table(path, key).columns
    else:
        table = _parquet(path, key, columns)
    for name in required:
        empty = np.flatnonzero(table[name] == "")
        if len(empty):
            raise UserError(f"{path}: empty {name!r} in record {empty[0] + 1}; fill it in or remove the record")
    return {name: table[name] for name in columns}


def read_arrays(path: Path, key: str) -> dict[str, list[list[float]]]:
    """The columns that hold a list of numbers per row; only JSON has such."""
    return read_json_table(path, key).arrays if path.suffix.lower() in JSON else {}


def _parquet(path: Path, key: str, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """The named columns of a Parquet file, each (N,) str; with no names, empty ones of all columns that it has."""
    import pandas as pd

    try:
        if not columns:
            import pyarrow.parquet as pq

            schema = pq.read_schema(path)
            index = (schema.pandas_metadata or {}).get("index_columns", ())
            return {str(name): np.zeros(0, np.str_) for name in schema.names if name not in index}
        frame = pd.read_parquet(path, columns=list(columns))
    except ImportError:
        raise UserError(f"{path}: Parquet needs a package that is not there; pip install pyarrow") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())[:100]}); see {key}=") from None
    return {name: _as_text(frame[name]) for name in columns}


def _as_text(column: Any) -> np.ndarray:
    """(N,) str of a column of pandas, empty where there is nothing. Part by part: an object for each row of it would
    take 60 bytes a row."""
    parts = []
    for start in range(0, max(1, len(column)), AT_A_TIME):
        part = column.iloc[start : start + AT_A_TIME]
        parts.append(np.where(part.isna(), "", part.astype(str).to_numpy().astype(np.str_)))
    return np.concatenate(parts)
