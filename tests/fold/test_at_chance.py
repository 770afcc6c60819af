"""Meaningless labels at the second level, through the command line: every score that is quoted is at chance.

Members are runs whose predictions are drawn. Each probe also looks at a figure that is above chance because it was
fitted on its own rows, so that it is known to see what it is about.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.ensembling.blend import Blend, blend
from src.files import read_json
from src.predictions import Features, load_predictions, save_features
from tests.fold.meaningless import FAR, FOLDS, METRICS, NAMES, ROWS, Place, make_members, make_place, printed_scores

pytestmark = pytest.mark.fold
MEMBERS = {"single": 10, "grades": 10, "multi": 24}  # the mean area of four columns is chosen less easily
FITTED = ("climb", "convex")
BLENDS = {
    "single": ("vote", "soft", "geometric", "rank", *FITTED),
    "grades": FITTED,
    "multi": ("soft", "rank", *FITTED),
}
LEARNERS = ("logistic", "ridge", "lightgbm", "mlp")


@pytest.fixture(autouse=True)
def _members_are_not_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an ensemble loses without each member takes as many fits again as there are members, and is no score;
    tests/unit/test_blend.py looks at it."""

    def quicker(method: str, oof: np.ndarray, *rest: Any, **more: Any) -> Blend:
        found = blend(method, oof, *rest, **more, leave_out=False)
        return replace(found, without=(found.pred,) * len(oof))

    monkeypatch.setattr("src.recipes.ensemble.blend", quicker)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Place]:
    """A competition of a kind, with so many runs m0, m1 … whose predictions are drawn."""

    @cache
    def place_of(kind: str) -> Place:
        place = make_place(tmp_path_factory.mktemp(kind), kind)
        make_members(place, [f"m{number}" for number in range(MEMBERS[kind])])
        return place

    return place_of


def runs_of(count: int) -> str:
    return f"runs=[{','.join(f'm{number}' for number in range(count))}]"


@pytest.mark.parametrize(("kind", "method"), [(kind, method) for kind in METRICS for method in BLENDS[kind]])
def test_ensembles(drawn: Callable[[str], Place], kind: str, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = drawn(kind)
    capsys.readouterr()
    place.combine("ensemble", runs_of(MEMBERS[kind]), f"method={method}", f"run=e-{method}")
    nested, plain = printed_scores(capsys.readouterr().out)
    place.check(f"e-{method}")
    assert place.is_at_chance(nested, ROWS)
    if method in FITTED:
        place.check_optimism(nested, plain, ROWS)


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("kind", METRICS)
def test_stacks(drawn: Callable[[str], Place], kind: str, learner: str, capsys: pytest.CaptureFixture[str]) -> None:
    if learner == "lightgbm":
        pytest.importorskip("lightgbm")
    place, members = drawn(kind), 3 if kind == "multi" else MEMBERS[kind]
    capsys.readouterr()
    place.combine("stack", runs_of(members), f"learner={learner}", f"run=s-{learner}")
    nested, plain = printed_scores(capsys.readouterr().out)
    place.check(f"s-{learner}")
    assert place.is_at_chance(nested, ROWS)
    place.check_optimism(nested, plain, ROWS)


@pytest.mark.parametrize("kind", METRICS)
def test_one_fold_alone(drawn: Callable[[str], Place], kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its rows are split into parts."""
    place = drawn(kind)
    for verb, how in (("ensemble", "method=climb"), ("stack", "learner=ridge"))[1 if kind == "multi" else 0 :]:
        run = f"one-{how.partition('=')[2]}"
        capsys.readouterr()
        place.combine(verb, runs_of(MEMBERS[kind]), how, "fold=1", f"run={run}")
        nested, plain = printed_scores(capsys.readouterr().out)
        place.check(run)
        assert place.is_at_chance(nested, ROWS // FOLDS)
        place.check_optimism(nested, plain, ROWS // FOLDS)


def features_of_networks(place: Place, name: str, shift: int = 0) -> None:
    """Features of networks that know the label of every row that they were trained on, and nothing of the others;
    fold k's was trained without fold k + shift."""
    parts = [load_predictions(place.runs / "m0" / f"fold{k}" / "oof.npz") for k in range(FOLDS)]
    test = load_predictions(place.runs / "m0" / "fold0" / "test.npz").ids
    ids, fold = (np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "fold"))
    known = np.concatenate([part.target for part in parts])
    columns = np.stack([[word in cell.split() for cell in known] for word in NAMES], 1).astype(float)
    for k in range(FOLDS):
        rng = np.random.default_rng(k)
        own = (k + shift) % FOLDS
        x = np.concatenate([columns, np.zeros((len(test), 4))]) * 2
        x[: len(ids)][fold == own] = 0
        x += 0.5 * rng.normal(size=x.shape)
        features = Features(np.concatenate([ids, test]), x.astype(np.float32), k, parts[own].ids)
        save_features(place.runs / name / f"fold{k}" / "features.npz", features)


@pytest.mark.parametrize("kind", METRICS)
def test_stacks_on_features(drawn: Callable[[str], Place], kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Features of each fold's own network are honest; those of a network that has seen the fold are refused."""
    place = drawn(kind)
    features_of_networks(place, "own")
    place.combine("stack", runs_of(2), "features=[own]", "learner=ridge", "run=f")
    place.check("f")
    features_of_networks(place, "others", shift=1)
    capsys.readouterr()
    place.combine("stack", runs_of(2), "features=[others]", "learner=ridge", "run=g", say=2)
    assert "trained on 80 rows that fold 0 holds out here" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "fold"), [("single", "0"), ("single", "all"), ("multi", "all")])
def test_copies(tmp_path: Path, kind: str, fold: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every picture twice, with features that recognise it: across folds, and within one fold alone."""
    place = make_place(tmp_path, kind, copies=2)
    make_members(place, ["m0"], group_duplicates=True)
    place.start("prepare", "folds.group_duplicates=true")
    assert re.search(r"ACROSS FOLDS +0 +0\n", capsys.readouterr().out)
    oof = [load_predictions(place.runs / "m0" / f"fold{k}" / "oof.npz").ids for k in range(FOLDS)]
    ids = np.concatenate([*oof, load_predictions(place.runs / "m0" / "fold0" / "test.npz").ids])
    pictures = np.unique([name[:-1] for name in ids], return_inverse=True)[1]
    seen = np.random.default_rng(0).normal(size=(pictures.max() + 1, 150)).astype(np.float32)
    save_features(tmp_path / "x.npz", Features(ids, seen[pictures]))
    words = ["runs=[m0]", f"features=[{tmp_path / 'x.npz'}]", "learner=ridge", f"fold={fold}"]
    place.combine("stack", *words, "run=together")
    place.check("together")
    if fold == "0":
        place.combine("stack", *words, "run=apart", "folds.group_duplicates=false")
        assert place.errors(read_json(place.runs / "apart" / "cv.json")["oof"], ROWS // FOLDS) > FAR, "copies tell"
