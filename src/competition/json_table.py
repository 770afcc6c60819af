"""Tables that come as JSON: records, columns, COCO's images with annotations, or values by file name.

Cells become the strings that a csv file would hold; lists of numbers, which are pixels, stay beside them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from src.archives import read_bytes, stamp
from src.errors import UserError

PIXELS = 16  # numbers from which a list is an array of values and no longer several labels
NAMES = ("name", "scientificName", "category_name", "label")  # of a category, in COCO files


@dataclass(frozen=True)
class JsonTable:
    """columns: name -> (N,) str; arrays: name -> N lists of numbers, all of one length."""

    columns: dict[str, np.ndarray]
    arrays: dict[str, list[list[float]]] = field(default_factory=dict)


def read_json_table(path: Path, key: str) -> JsonTable:
    """The one table in a JSON file, or in one with an object per line.

    Of COCO's tables, a row per image: the columns of its annotations (several of them as words) beside its own, and
    `category_name` where categories have names. Raises UserError for what is no table.
    """
    state = stamp("", os.fsencode(path))
    if state == "missing;":
        raise UserError(f"{path}: cannot be read (no such file); see competition.root= and {key}=")
    return _read(path, key, state)


@lru_cache(maxsize=4)  # asked for its header, its ids and its targets, one after the other
def _read(path: Path, key: str, state: str) -> JsonTable:
    text = read_bytes("", os.fsencode(path))
    try:
        content = json.loads(text)
    except ValueError as error:
        try:
            content = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            raise UserError(f"{path}: not valid JSON ({error}); download it again, or correct {key}=") from None
    records = _records(content)
    if not records:
        raise UserError(f"{path}: holds no table (records, columns, or images with annotations); correct {key}=")
    return _table(records)


def _records(content: Any) -> list[dict[str, Any]]:
    """Rows as mappings; none for what is no table."""
    if isinstance(content, list):
        return content if content and all(isinstance(row, dict) for row in content) else []
    if not isinstance(content, dict) or not content:
        return []
    if _is_records(content.get("images")):
        return _of_coco(content)
    values = list(content.values())
    columns = all(isinstance(value, list) and not _is_records(value) for value in values)
    if columns and len({len(value) for value in values}) == 1:
        return [dict(zip(content, row, strict=True)) for row in zip(*values, strict=True)]
    tables = [value for value in values if _is_records(value)]
    if tables:
        return max(tables, key=len)
    if all(isinstance(value, dict) for value in values):
        if all(set(value) == set(values[0]) for value in values) and len(values[0]) >= len(values):  # pandas' columns
            return [dict(zip(content, row, strict=True)) for row in zip(*(v.values() for v in values), strict=True)]
        return [{"id": name, **value} for name, value in content.items()]
    if not any(isinstance(value, dict) for value in values) and len(values) > 1:
        return [{"id": name, "label": value} for name, value in content.items()]
    return []


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _of_coco(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per image, with its annotations' columns; those of several annotations as lists, each value once."""
    images: list[dict[str, Any]] = content["images"]
    identity = next((name for name in ("id", "image_id") if name in images[0]), None)
    annotations: list[dict[str, Any]] = content.get("annotations") or []
    if identity is None or not _is_records(annotations):
        return images
    names = {
        row.get("id", row.get("category_id")): next((row[name] for name in NAMES if name in row), None)
        for row in list(content.get("categories") or [])
        if isinstance(row, dict)
    }
    of_image: dict[Any, dict[str, list[Any]]] = {}
    for row in annotations:
        there = of_image.setdefault(row.get("image_id"), {})
        named = {"category_name": names[row.get("category_id")]} if names.get(row.get("category_id")) else {}
        for column, value in {**row, **named}.items():
            if column not in ("id", "image_id") and value not in there.setdefault(column, []):
                there[column].append(value)
    rows = []
    for image in images:
        beside = of_image.get(image[identity], {})
        own = {name: values[0] if len(values) == 1 else values for name, values in beside.items()}
        rows.append({**{name: value for name, value in own.items() if name not in image}, **image})
    return rows


def _table(records: list[dict[str, Any]]) -> JsonTable:
    rows = [_flat(row) for row in records]
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns: dict[str, np.ndarray] = {}
    arrays: dict[str, list[list[float]]] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        lists = [value for value in values if _is_array(value)]
        if len(lists) == len(values) and len({len(value) for value in lists}) == 1:
            arrays[name] = lists
        else:
            columns[name] = np.array([_cell(value) for value in values], dtype=np.str_)
    return JsonTable(columns, arrays)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """One level of mappings in a row, as columns "outer.inner"."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{inner}": cell for inner, cell in value.items()})
        else:
            flat[name] = value
    return flat


def _is_array(value: Any) -> TypeGuard[list[float]]:
    return isinstance(value, list) and len(value) >= PIXELS and all(isinstance(v, (int, float)) for v in value[:PIXELS])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, list):
        words = [_cell(item) for item in value]
        return ("|" if any(" " in word for word in words) else " ").join(words)
    return str(value).strip()
