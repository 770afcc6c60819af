"""What a fold tells of itself elsewhere: five calls, to nobody, or to several trackers of which none may end it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Watched:
    """A fold of a run as trackers see it. config: its keys; folder: where it writes; step: how far it is."""

    project: str
    run: str
    fold: int
    folder: Path
    config: Mapping[str, Any]
    step: int = 0


class NoTracker:
    """`wandb.mode=disabled`, and every process but the first."""

    id: str | None = None

    def log(self, values: Mapping[str, Any]) -> None: ...
    def summary(self, values: Mapping[str, Any]) -> None: ...
    def image(self, name: str, path: Path) -> None: ...
    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None: ...
    def finish(self) -> str | None: ...


class Trackers(NoTracker):
    """Several at once, by name. One that fails is reported and left out: none of them may end a fold."""

    def __init__(self, trackers: Mapping[str, NoTracker]) -> None:
        self.trackers = dict(trackers)
        self.id = self.trackers["wandb"].id if "wandb" in self.trackers else None
        self.ids = {name: tracker.id for name, tracker in self.trackers.items() if tracker.id}

    def log(self, values: Mapping[str, Any]) -> None:
        self._each("log", values)

    def summary(self, values: Mapping[str, Any]) -> None:
        self._each("summary", values)

    def image(self, name: str, path: Path) -> None:
        if path.is_file():  # not one that could not be drawn
            self._each("image", name, path)

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        self._each("table", name, columns, rows)

    def finish(self) -> str | None:
        return next((said for said in self._each("finish") if said), None)

    def _each(self, call: str, *arguments: Any) -> list[Any]:
        said = []
        for name, tracker in list(self.trackers.items()):
            try:
                said.append(getattr(tracker, call)(*arguments))
            except Exception as error:
                del self.trackers[name]
                print(f"{name}: {in_one_line(error)}; training goes on without it", flush=True)
        return said


def in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
