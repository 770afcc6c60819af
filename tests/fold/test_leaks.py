"""Targets of other rows end at chance: numbers and several targets per row, through training, an ensemble, features and
a stack. One label, grades and several labels per row do so in test_at_chance_trained.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fold.shades import KINDS, Place, make

pytestmark = pytest.mark.fold
# what is reached without knowledge, by the metric of the kind, give or take four standard deviations of 150 rows
CHANCE = {"targets": (0.417, 0.12)}


@pytest.mark.parametrize("name", ["number", "targets"])
def test_shuffled_targets_end_at_chance(name: str, tmp_path: Path) -> None:
    place = Place(tmp_path, KINDS[name])
    make(tmp_path / "data", place.kind, shuffled=True, train=150)
    for run, seed in (("a", 0), ("b", 1)):
        assert place.start("train", "fold=all", "epochs=6", f"run={run}", f"seed={seed}") == 0
    assert place.start("ensemble", "runs=[a,b]", "method=climb", "run=e") == 0
    assert place.start("features", "run=a") == 0
    learner = "ridge" if name == "number" else "logistic"
    assert place.start("stack", "runs=[a,b]", "features=[a]", f"learner={learner}", "run=s") == 0
    for run in "abes":
        if name == "number":
            assert place.scores(run)["r2"] < 0.05, (run, place.scores(run))
        else:
            expected, tolerance = CHANCE[name]
            assert place.score(run) == pytest.approx(expected, abs=tolerance), (run, place.scores(run))


def test_the_probe_sees_what_can_be_known(tmp_path: Path) -> None:
    """The same, with the rows' own targets."""
    place = Place(tmp_path, KINDS["number"])
    make(tmp_path / "data", place.kind, train=150)
    assert place.start("train", "fold=0", "run=a") == 0
    assert place.scores("a")["r2"] > 0.5
