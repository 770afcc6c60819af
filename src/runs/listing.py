"""All finished runs as a table that can be sorted, filtered and compared."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.config import defaults, difference, keys
from src.errors import UserError, nearest
from src.files import read_config, read_json
from src.runs.folder import Runs

COLUMNS = ("run", "competition", "metric", "oof", "mean", "std", "test", "folds", "seconds")
ALIASES = {"model": "model.name", "score": "oof", "time": "seconds"}
CONDITION = re.compile(r"\s*([\w.]+)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*", re.DOTALL)


@dataclass(frozen=True)
class Run:
    """cv: what cv.json says. config: config.yaml, with the defaults of keys that it lacks."""

    name: str
    cv: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def sign(self) -> int:
        return 1 if self.cv["greater_is_better"] else -1

    def value(self, key: str) -> Any:
        """Of a column or a setting; None where there is none."""
        key = ALIASES.get(key, key)
        if key == "folds":
            return len(self.cv["folds"])
        if key in COLUMNS:
            return self.name if key == "run" else self.cv.get(key)
        found: Any = self.config
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found

    def settings(self) -> list[str]:
        """What differs from the defaults, key=value, short ones."""
        changed = difference(defaults(), self.config)
        shown = [text.split(": ", 1)[0] + "=" + text.rsplit(" -> ", 1)[-1] for text in changed if len(text) < 80]
        return [text for text in shown if not text.startswith("competition.")]


def find_runs(runs: Runs) -> list[Run]:
    """Those with a cv.json; by competition, then the best first."""
    found = []
    for name in runs.names():
        if (runs / name / "cv.json").is_file():
            config = merged(defaults(), read_config(runs / name / "config.yaml"))
            found.append(Run(name, read_json(runs / name / "cv.json"), config))
    return sorted(found, key=lambda run: (str(run.cv["competition"]), -run.sign * run.cv["oof"]))


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, section by section."""
    both = dict(base)
    for key, value in over.items():
        own = both.get(key)
        both[key] = merged(own, value) if isinstance(own, Mapping) and isinstance(value, Mapping) else value
    return both


def filtered(runs: Sequence[Run], conditions: Sequence[str]) -> list[Run]:
    """Runs that fit all conditions: `model=resnet*`, `size>=128`, `test!=null`. Raises UserError for another form
    and for what is neither a column nor a key."""
    tests = [parsed(condition) for condition in conditions]
    return [run for run in runs if all(_fits(run.value(key), sign, wanted) for key, sign, wanted in tests)]


def parsed(condition: str) -> tuple[str, str, str]:
    found = CONDITION.fullmatch(condition)
    if found is None:
        raise UserError(
            f"filter={condition}: expected KEY=VALUE, with * for anything, or KEY>NUMBER; "
            "filter=model=resnet18, filter=[size>=128,competition=digits]"
        )
    check_key("filter", found[1])
    return found[1], found[2], found[3]


def check_key(of: str, key: str) -> None:
    """UserError if `key` is neither a column nor a key, sections not included."""
    valid = [*COLUMNS, *ALIASES, *keys()]
    if key not in valid:
        leaves = [other for other in keys() if other.rsplit(".", 1)[-1] == key]
        hint = f"; did you mean {leaves[0]!r}?" if leaves else nearest(key, valid)
        raise UserError(f"{of}={key}: neither a column ({', '.join(COLUMNS)}) nor a key{hint}")


def _fits(value: Any, sign: str, wanted: str) -> bool:
    if sign in ("=", "!="):
        return any(_equal(value, each) for each in wanted.split("|")) == (sign == "=")
    try:
        one, other = float(value), float(wanted)
    except (TypeError, ValueError):
        return False
    return {"<": one < other, ">": one > other, "<=": one <= other, ">=": one >= other}[sign]


def _equal(value: Any, wanted: str) -> bool:
    if value is None or isinstance(value, bool):
        return wanted.lower() == {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        try:
            return math.isclose(float(value), float(wanted), rel_tol=1e-9)
        except ValueError:
            return False
    if isinstance(value, list):
        return wanted in map(str, value) or str(value) == wanted
    return fnmatch.fnmatchcase(str(value), wanted)


def ordered(runs: Sequence[Run], key: str) -> list[Run]:
    """By a column or key: scores the best first, other numbers and names ascending; -KEY turns it round. Runs without a
    value stand last."""
    back, key = key.startswith("-"), key.removeprefix("-")
    check_key("sort", key)
    score = ALIASES.get(key, key) in ("oof", "mean", "test")
    there = [run for run in runs if run.value(key) is not None]

    def rank(run: Run) -> tuple[int, float, str]:
        value = run.value(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return 0, -run.sign * float(value) if score else float(value), ""
        return 1, 0.0, str(value)

    return [*sorted(there, key=rank, reverse=back), *(run for run in runs if run.value(key) is None)]


def table(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells, one row per run."""
    head = ["run", "metric", "oof", "mean", "std", "test", "folds", "time", "settings"]
    rows = []
    for run in runs:
        cv = run.cv
        numbers = [f"{cv[key]:.4f}" for key in ("oof", "mean", "std")]
        test = f"{cv['test']:.4f}" if "test" in cv else "-"
        rows.append([
            run.name, str(cv["metric"]), *numbers, test, str(len(cv["folds"])), f"{cv['seconds']:.0f}s",
            " ".join(run.settings()),
        ])  # fmt: skip
    return head, rows


def compared(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of what differs between runs: scores, folds and their differences to the first, then settings."""
    first, told = runs[0], ("competition", "metric", "oof", "mean", "std", "test", "seconds")
    folds = sorted({k for run in runs for k in run.cv["folds"]}, key=int)
    rows = [[key, *(_cell(run.value(key)) for run in runs)] for key in told]
    rows += [[f"fold {k}", *(_cell(run.cv["folds"].get(k)) for run in runs)] for k in folds]
    if len({run.cv["metric"] for run in runs}) == 1:
        gains = [paired(first, run) for run in runs[1:]]
        rows.append(["gains by fold", "-", *gains])
    changed = dict.fromkeys(line.split(": ", 1)[0] for run in runs[1:] for line in difference(first.config, run.config))
    rows += [[key, *(_cell(run.value(key)) for run in runs)] for key in changed]
    return ["", *(run.name for run in runs)], rows


def paired(first: Run, other: Run) -> str:
    """Mean and standard deviation over the folds that both have of how much better `other` is."""
    common = sorted(set(first.cv["folds"]) & set(other.cv["folds"]))
    if not common:
        return "no fold in common"
    gains = [first.sign * (other.cv["folds"][k] - first.cv["folds"][k]) for k in common]
    spread = f" ± {np.std(gains, ddof=1):.4f}" if len(gains) > 1 else ""
    return f"{np.mean(gains):+.4f}{spread}, better in {sum(gain > 0 for gain in gains)} of {len(gains)}"


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) and abs(value) < 1000 else str(value)
