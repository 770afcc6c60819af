"""Tiny folds without what takes longest in them and what others test: drawing the same pictures again and again.

Of a fold that trains for a third of a second, the pictures took half. What they show is tested in tests/unit.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

FOLDER = tempfile.TemporaryDirectory(prefix="drawn-")  # of this process; those that it starts share it


@contextlib.contextmanager
def drawn_once(folder: Path) -> Iterator[None]:
    """Within, a picture is drawn if none of its name and size is in `folder` yet; else it has the former's pixels.

    Files are written as ever. Ensembles, stacks and soups have no report. Nor does Hydra compose each configuration
    once more to see that it has no `hydra.mode`.
    """
    from hydra._internal.hydra import Hydra

    from src.files import replacing
    from src.fold import explain
    from src.reporting import figures

    def once(draw: Callable[[], Path], path: Path, kind: str) -> Path:
        known = folder / f"{kind}-{path.name}"
        if not known.exists():
            draw()
            with replacing(known) as temporary:
                temporary.write_bytes(path.read_bytes())
            return path
        with replacing(path) as temporary:
            temporary.write_bytes(known.read_bytes())
        return path

    def save(path: Path, figure: Any) -> Path:
        width, height = (round(100 * inches) for inches in figure.get_size_inches())
        return once(lambda: plot(path, figure), path, f"{width}x{height}")

    def show(path: Path, lines: Any, title: str) -> Path:
        return once(lambda: gallery(path, lines, title), path, "x".join(str(len(exhibits)) for _, exhibits in lines))

    plot, gallery = figures._save, explain.gallery
    with (
        mock.patch.object(figures, "_save", save),
        mock.patch.object(explain, "gallery", show),
        mock.patch.object(Hydra, "get_mode", return_value=None),
        mock.patch("src.recipes.ensemble.report_at_end"),
        mock.patch("src.recipes.stack.report_at_end"),
        mock.patch("src.recipes.soup.report_at_end"),
    ):
        yield
