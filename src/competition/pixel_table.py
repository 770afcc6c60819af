"""Pictures that are columns of a table, or lists of numbers in its cells: unpacked once into an archive of arrays."""

from __future__ import annotations

import fnmatch
import hashlib
import io
import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from src.archives import stamp
from src.competition.csv_file import open_rows
from src.competition.table_file import read_arrays
from src.errors import UserError
from src.files import replacing

KEY = "competition.pixels"


def unpacked(
    table: Path,
    patterns: Sequence[str],
    shape: tuple[int, int] | None,
    ids: np.ndarray,
    cache: Path | None,
    split: str,
) -> np.ndarray:
    """The picture of each row of `table`: (N,) bytes, absolute paths into an archive below `cache`.

    patterns: the columns, in order: one that holds lists of numbers is a channel, several of single numbers are the
    pixels of one picture, row by row. shape: rows and columns; None: square. The archive is made again when the table
    changes. Raises UserError for columns that are not there, numbers that make no picture, or rows without one.
    """
    if cache is None:
        raise UserError(
            f"{table}: holds the pictures in its columns; they need a folder to be unpacked to, paths.cache="
        )
    name = f"{table}\n{stamp('', os.fsencode(table))}\n{list(patterns)}\n{shape}"
    archive = cache / "unpacked" / f"{split}-{hashlib.sha256(name.encode()).hexdigest()[:12]}.zip"
    if not archive.is_file():
        count = 0
        with replacing(archive) as temporary, zipfile.ZipFile(temporary, "w") as file:
            for count, picture in enumerate(pictures(table, patterns, shape), start=1):
                content = io.BytesIO()
                np.save(content, picture)
                file.writestr(f"{count - 1}.npy", content.getvalue())
        if count != len(ids):
            archive.unlink()
            raise UserError(f"{table}: {count} rows of pixels, but {len(ids)} ids; each row needs its pixels")
    start = os.fsencode(archive.resolve())
    return np.array([b"%s/%d.npy" % (start, row) for row in range(len(ids))], dtype=np.bytes_)


def pictures(table: Path, patterns: Sequence[str], shape: tuple[int, int] | None) -> Iterator[np.ndarray]:
    """(H, W) or (H, W, C) float32, or uint8 where all is whole numbers up to 255, row by row."""
    arrays = read_arrays(table, KEY)
    if arrays:
        missing = [name for name in patterns if name not in arrays]
        if missing:
            raise UserError(f"{table}: no column of numbers {missing[0]!r} ({', '.join(arrays)}); correct {KEY}=")
        for values in zip(*(arrays[name] for name in patterns), strict=True):
            yield np.stack([shaped(np.array(one, np.float32), shape, table) for one in values], axis=-1)
        return
    with open_rows(table, KEY) as rows:
        header = [name.strip() for name in next(rows)]
        columns = [at for pattern in patterns for at, name in enumerate(header) if fnmatch.fnmatchcase(name, pattern)]
        if not columns:
            raise UserError(f"{table}: no column fits {KEY}={list(patterns)} ({', '.join(header[:6])} …)")
        for row in rows:
            if not any(row):
                continue
            try:
                cells = [row[at] for at in columns]
                if len(columns) < 64:  # channels, each a cell of many numbers
                    channels = [np.array(cell.replace(",", " ").strip("[] ").split(), np.float32) for cell in cells]
                    picture = np.stack([shaped(one, shape, table) for one in channels], axis=-1)
                else:
                    picture = shaped(np.array(cells, np.float32), shape, table)
            except (ValueError, IndexError):
                raise UserError(f"{table} line {rows.line_num}: the pixels are no numbers; correct {KEY}=") from None
            whole = (picture == picture.astype(np.uint8)).all()
            yield picture.astype(np.uint8) if whole else picture


def shaped(values: np.ndarray, shape: tuple[int, int] | None, table: Path) -> np.ndarray:
    """(n,) numbers as (H, W), or as (H, W, 3) where they are three times a square."""
    if shape is not None:
        height, width = shape
        if len(values) % (height * width):
            raise UserError(
                f"{table}: {len(values)} values are no picture of {height} x {width}; correct competition.pixel_shape="
            )
        channels = len(values) // (height * width)
        return values.reshape(height, width) if channels == 1 else of_colours(values, height, width, channels)
    side = math.isqrt(len(values))
    if side * side == len(values):
        return values.reshape(side, side)
    side = math.isqrt(len(values) // 3)
    if 3 * side * side == len(values):
        return of_colours(values, side, side, 3)
    raise UserError(
        f"{table}: {len(values)} values make no square picture; give competition.pixel_shape=[rows,columns]"
    )


def of_colours(values: np.ndarray, height: int, width: int, channels: int) -> np.ndarray:
    """(H, W, C) from values that are pixel by pixel, or channel after channel: the smoother of the two pictures."""
    by_pixel = values.reshape(height, width, channels)
    by_channel = values.reshape(channels, height, width).transpose(1, 2, 0)
    rough = [float(np.abs(np.diff(one, axis=1)).mean()) for one in (by_pixel, by_channel)]
    return by_pixel if rough[0] <= rough[1] else by_channel
