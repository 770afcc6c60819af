"""A table of all runs, to review what was tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from src.config import Config, defaults, difference
from src.files import read_config, read_json
from src.runs.folder import open_runs


def list_runs(config: Config) -> None:
    """One line per run, also of those that are attached: scores, folds, time and the settings that differ from the
    defaults."""
    rows, runs = [], open_runs(config.paths)
    for path in [path for name in runs.names() if (path := runs / name / "cv.json").is_file()]:
        cv = read_json(path)
        rows.append((cv, _settings(path.parent)))
    if not rows:
        print(f"no finished run in {runs} yet")
        return
    rows.sort(key=lambda row: (row[0]["competition"], row[0]["oof"] * (-1 if row[0]["greater_is_better"] else 1)))
    width = max(len("run"), *(len(cv["run"]) for cv, _ in rows))
    print(f"{'run':<{width}}  {'metric':<12} {'oof':>7} {'mean':>7} {'std':>6} {'test':>7} folds {'time':>7}  settings")
    for cv, settings in rows:
        test = f"{cv['test']:7.4f}" if "test" in cv else "      -"
        print(
            f"{cv['run']:<{width}}  {cv['metric']:<12} {cv['oof']:7.4f} {cv['mean']:7.4f} {cv['std']:6.4f} {test} "
            f"{len(cv['folds']):>5} {cv['seconds']:6.0f}s  {settings}"
        )


def _settings(folder: Path) -> str:
    file = folder / "config.yaml"
    if not file.is_file():
        return ""
    changed: list[Any] = difference(defaults(), read_config(file))
    shown = [text.split(": ", 1)[0] + "=" + text.rsplit(" -> ", 1)[-1] for text in changed if len(text) < 80]
    return " ".join(text for text in shown if not text.startswith("competition."))
