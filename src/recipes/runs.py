"""A table of all runs, to review what was tried, and what differs between some of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from src.config import PathsConfig
from src.errors import UserError, nearest
from src.runs.folder import open_runs
from src.runs.listing import Run, compared, filtered, find_runs, ordered, table


def list_runs(**words: str) -> None:
    """Print one line per run: scores, folds, time and the settings that differ from the defaults.

    filter: conditions, all of which a run has to meet. sort: a column or key, -KEY for the other way. diff: runs whose
    scores and settings stand side by side. paths.runs: where runs are. Raises UserError for a run, column or key that
    is not there.
    """
    paths = PathsConfig()
    place = open_runs(dataclasses.replace(paths, runs=words.get("paths.runs", paths.runs)))
    runs = find_runs(place)
    if not runs:
        print(f"no finished run in {place} yet")
        return
    if "diff" in words:
        show(*compared([named(runs, name) for name in several("diff", words["diff"])]))
        return
    shown = filtered(runs, listed(words.get("filter", "")))
    if "sort" in words:
        shown = ordered(shown, words["sort"])
    if not shown:
        print(f"none of {len(runs)} runs is like filter={words['filter']}")
        return
    show(*table(shown))


def several(key: str, text: str) -> list[str]:
    names = listed(text)
    if len(names) < 2:
        raise UserError(f"{key}={text}: which runs? Give at least two, {key}=[a,b]")
    return names


def listed(text: str) -> list[str]:
    """[a,b] or a,b as a list."""
    return [item.strip(" '\"") for item in text.strip().removeprefix("[").removesuffix("]").split(",") if item.strip()]


def named(runs: Sequence[Run], name: str) -> Run:
    found = [run for run in runs if run.name == name]
    if not found:
        there = [run.name for run in runs]
        raise UserError(f"diff: no finished run {name!r}{nearest(name, there)} ({', '.join(there)})")
    return found[0]


def show(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The table in columns: the first and the last to the left, numbers to the right."""
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    last = len(head) - 1
    for row in [head, *rows]:
        cells = [
            cell if at == last and head[at] == "settings" else cell.ljust(width) if at < 2 and head[0] else
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]  # fmt: skip
        print("  ".join(cells).rstrip())
