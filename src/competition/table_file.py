"""A table file of any format as columns of strings: csv and its relatives, JSON, Parquet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.archives import stamp
from src.competition import csv_file
from src.competition.csv_file import column_position
from src.competition.json_table import JsonTable, read_json_table
from src.errors import UserError

JSON, PARQUET = (".json", ".jsonl", ".ndjson"), (".parquet", ".pq")
TABLES = (".csv", ".tsv", *JSON, *PARQUET)  # ends of file names


def is_there(root: Path, file: str | None) -> bool:
    """Whether there is such a table below `root`, in an archive too; None is no table."""
    return file is not None and stamp(root, os.fsencode(file)) != "missing;"


def read_header(path: Path, key: str) -> tuple[str, ...]:
    """The names of the columns, without those that hold arrays; see `csv_file.read_header`."""
    if path.suffix.lower() in (*JSON, *PARQUET):
        return tuple(_columns(path, key).columns)
    return csv_file.read_header(path, key)


def read_columns(path: Path, columns: Sequence[str], key: str, required: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The named columns, each (N,) str; see `csv_file.read_columns`."""
    if path.suffix.lower() not in (*JSON, *PARQUET):
        return csv_file.read_columns(path, columns, key, required)
    table = _columns(path, key)
    for name in columns:
        column_position(name, list(table.columns), path, key)
    for name in required:
        empty = np.flatnonzero(table.columns[name] == "")
        if len(empty):
            raise UserError(f"{path}: empty {name!r} in record {empty[0] + 1}; fill it in or remove the record")
    return {name: table.columns[name] for name in columns}


def read_arrays(path: Path, key: str) -> dict[str, list[list[float]]]:
    """The columns that hold a list of numbers per row; only JSON has such."""
    return _columns(path, key).arrays if path.suffix.lower() in JSON else {}


def _columns(path: Path, key: str) -> JsonTable:
    if path.suffix.lower() in JSON:
        return read_json_table(path, key)
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except ImportError:
        raise UserError(f"{path}: Parquet needs a package that is not there; pip install pyarrow") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())[:100]}); see {key}=") from None
    return JsonTable({str(name): frame[name].fillna("").astype(str).to_numpy().astype(np.str_) for name in frame})
