"""Where a run keeps its folds, and which of them are finished."""

from __future__ import annotations

from pathlib import Path


def run_folder(runs: Path, run: str) -> Path:
    return runs / run


def fold_folder(runs: Path, run: str, fold: int) -> Path:
    return run_folder(runs, run) / f"fold{fold}"


def finished(folder: Path) -> bool:
    """The manifest is written last, so its existence says that the fold is complete."""
    return (folder / "manifest.json").is_file()


def finished_folds(runs: Path, run: str) -> list[int]:
    found = (path.parent.name.removeprefix("fold") for path in (runs / run).glob("fold*/manifest.json"))
    return sorted(int(number) for number in found if number.isdigit())
