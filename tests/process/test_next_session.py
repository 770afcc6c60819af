"""The next session, with the output of the one before attached and not to be written: it goes on, bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.process.image import attach
from tests.process.namespaces import require_mounts
from tests.process.starts import Moment, Start, require_same, result

pytestmark = pytest.mark.process
WORDS = ["competition=digits", "fold=all", "stages=[{length: 8 steps}]", "competition.metric=log_loss"]
WORDS += ["average.swa_every=1 steps", "checkpoint.every=0.001"]


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with its size and when it changed."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


class Session(NamedTuple):
    """A folder in which the pipeline starts, with what is attached below input/."""

    place: Path
    context: Any
    words: Callable[..., list[str]]

    def start(
        self, *more: str, verb: str = "train", at: Moment | None = None, mounted: bool = False
    ) -> tuple[int, str]:
        self.place.mkdir(exist_ok=True)
        words = [verb, *self.words(self.place, *more)]
        if verb == "predict":
            words = [verb, *more, *(word for word in words if word.startswith("paths."))]
        namespace: dict[str, Any] = {"read_only": [self.place / "input"]} if mounted else {}
        return Start(self.context, words, self.place / f"{verb}.log", at, **namespace).end(600)


@pytest.fixture(scope="module")
def session(
    start_server: Any, command_in: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Session]:
    place = tmp_path_factory.mktemp("sessions")
    return lambda name: Session(place / name, start_server, command_in)


@pytest.fixture(scope="module")
def unbroken(session: Callable[[str], Session]) -> Path:
    whole = session("whole")
    assert whole.start(*WORDS)[0] == 0
    return whole.place


@pytest.fixture(scope="module")
def stopped(session: Callable[[str], Session]) -> Path:
    """The output of a session that ended in its second fold."""
    first = session("first")
    code, _ = first.start(*WORDS, at=Moment("os.rename", r"fold1/checkpoints/step\d+\.ckpt$", nth=4))
    assert code == -9 and not (first.place / "submissions/r.csv").exists()
    return first.place


@pytest.mark.parametrize("mounted", [False, True], ids=["without permission", "read-only mount"])
def test_a_run_goes_on_from_an_attached_output(
    session: Callable[[str], Session], unbroken: Path, stopped: Path, mounted: bool
) -> None:
    """And is predicted with in the session after that. Permissions do not hold back root; a mount does."""
    if mounted:
        require_mounts(root=True)
    mount, name = "notebooks/me/training-output", "mounted" if mounted else "copied"

    second, third = session(f"second-{name}"), session(f"third-{name}")
    attached = attach(stopped, second.place / "input", mount)
    before = state_of(attached)
    code, said = second.start(*WORDS, mounted=mounted)
    assert code == 0, said
    assert f"fold0: finished in an earlier session, from {attached}" in said
    assert "fold1: begun in an earlier session" in said and "going on at step" in said
    require_same(result(second.place), result(unbroken))

    attached_whole = attach(second.place / "runs", third.place / "input", f"{mount}/runs")
    whole_before = state_of(attached_whole)
    code, said = third.start("run=r", "tta=none", verb="predict", mounted=mounted)
    assert code == 0, said
    assert (third.place / "submissions/r.csv").is_file() and not list(third.place.glob("runs/r/fold*"))
    assert state_of(attached) == before and state_of(attached_whole) == whole_before
