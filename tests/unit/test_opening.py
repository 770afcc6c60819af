"""What recipes open: every key of the configuration arrives where it is read."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from src.competition.kinds.single import Single
from src.config import Config, build
from src.data.disk_budget import DiskBudget
from src.errors import UserError
from src.runs import opening
from src.runs.opening import open_competition, open_folds, open_images, solution_path
from tests.unit.test_configs import composed


def config(tmp_path: Path, **competition: object) -> Config:
    paths = {name: str(tmp_path / name) for name in ("runs", "cache", "folds", "submissions", "input")}
    return build({"competition": {"name": "it", "root": str(tmp_path), **competition}, "paths": paths})


def calls(monkeypatch: pytest.MonkeyPatch, name: str, result: object) -> list[tuple[tuple, dict[str, Any]]]:
    found: list[tuple[tuple, dict[str, Any]]] = []
    monkeypatch.setattr(opening, name, lambda *args, **keywords: found.append((args, keywords)) or result)
    return found


def labelled() -> SimpleNamespace:
    """A competition of one label per row."""
    return SimpleNamespace(task=Single(np.array(["ant", "bee", "cow"])), sample=None)


def test_the_keys_of_a_competition_and_the_place_for_what_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = calls(monkeypatch, "load_competition", labelled())
    given = config(tmp_path)
    open_competition(given)
    assert found == [((given.competition, tmp_path / "cache" / "it"), {})]


@pytest.mark.parametrize("key", ["metric", "metrics"])
def test_a_metric_that_is_not_there_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    calls(monkeypatch, "load_competition", labelled())
    with pytest.raises(UserError, match="no metric 'acuracy'"):
        open_competition(config(tmp_path, **{key: "acuracy" if key == "metric" else ("acuracy",)}))
    with pytest.raises(UserError, match=r"where is it\? Give its folder"):
        open_competition(config(tmp_path, root=""))


def test_the_digits_are_made_where_they_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls(monkeypatch, "load_competition", labelled())
    made = calls(monkeypatch, "make_digits", None)
    open_competition(config(tmp_path, name="other"))
    assert not made
    open_competition(config(tmp_path, name="digits"))
    assert not made, "a folder of the user's, whatever its name"
    for root in (opening.DIGITS_PLACE, opening.DIGITS_PLACE.resolve()):
        open_competition(config(tmp_path, name="digits", root=str(root)))
    assert made == [((opening.DIGITS_PLACE,), {})] * 2
    assert composed().competition.root == str(opening.DIGITS_PLACE)


def test_a_trial_has_few_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls(monkeypatch, "load_competition", labelled())
    cut = calls(monkeypatch, "few_rows", labelled())
    open_competition(config(tmp_path))
    open_competition(config(tmp_path, few=7))
    assert [args[1:] for args, _ in cut] == [(7, 20)]


def test_folds_are_those_of_the_file_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, copies = calls(monkeypatch, "load_folds", "folds"), SimpleNamespace(groups="groups of copies")
    monkeypatch.setattr(opening, "find_copies", lambda config, competition: copies)
    competition: Any = SimpleNamespace(name="it", root=tmp_path / "data")
    given = dataclasses.replace(config(tmp_path), folds=build({"folds": {"n": 7, "seed": 3, "kind": "group"}}).folds)
    assert open_folds(given, competition) == "folds"
    other = dataclasses.replace(given.folds, file=str(tmp_path / "mine.csv"), group_duplicates=True)
    open_folds(dataclasses.replace(given, folds=other), competition)
    assert found == [
        ((tmp_path / "folds" / "it.csv", competition, 7, 3, "group", None), {}),
        ((tmp_path / "mine.csv", competition, 7, 3, "group", "groups of copies"), {}),
    ]


def test_a_solution_counts_from_the_root_and_may_be_missing(tmp_path: Path) -> None:
    assert solution_path(config(tmp_path)) is None
    assert solution_path(config(tmp_path, solution="solution.csv")) is None
    (tmp_path / "solution.csv").touch()
    assert solution_path(config(tmp_path, solution="solution.csv")) == tmp_path / "solution.csv"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "s.csv").touch()
    assert solution_path(config(tmp_path, solution=str(tmp_path / "elsewhere" / "s.csv"))) is not None


def test_images_are_what_the_competition_says_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    competition: Any = SimpleNamespace(name="it", root=tmp_path, train=range(40), test=range(2))
    given = config(tmp_path, channels=6, samples="uint16", max_megapixels=7.0)
    store = open_images(given, competition, np.array([b"a.npy"]), short_side=12, unreadable="mark")
    assert (store.spec.channels, store.spec.dtype) == (6, np.dtype("uint16"))
    assert (store.short_side, store.max_megapixels, store.unreadable) == (12, 7.0, "mark")
    assert store.file is not None and store.file.parent == tmp_path / "cache" / "it"
    assert store.budget == DiskBudget(tmp_path / "cache", None)
    none = open_images(dataclasses.replace(given, cache=False), competition, np.array([b"a.npy"]), short_side=12)
    assert none.file is None


def test_a_cache_without_room_for_all_is_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    competition: Any = SimpleNamespace(name="it", root=tmp_path, train=range(40), test=range(2))
    given = dataclasses.replace(config(tmp_path), cache_gb=0.001)
    paths = np.array([b"%d.png" % row for row in range(1000)])
    store = open_images(given, competition, paths, short_side=30)
    assert store.budget == DiskBudget(tmp_path / "cache", 1_000_000)
    assert capsys.readouterr().out == (
        f"{tmp_path}/cache/it: room for about 28% of 1000 decoded images; the others are decoded each time\n"
    )
