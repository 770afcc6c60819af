"""Meaningless labels where networks learn, are averaged and taught, through the command line: scores are at chance.

Of each choice there is a figure that is better than chance because it was chosen by its own rows.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from src.competition.folds import halves_of
from src.files import read_json, save_weights
from src.predictions import load_predictions
from tests.conftest import write
from tests.fold.meaningless import FAR, METRICS, NAMES, ROWS, Place, make_place, printed_scores

pytestmark = pytest.mark.fold


def test_the_choice_of_the_weights(tmp_path: Path) -> None:
    """Raw, EMA or SWA: the score of a fold is that of one of them on average, and not of the best on its own rows."""
    count = 5
    place = make_place(tmp_path, "single", rows=20 * count)
    place.start("train", "fold=all", f"folds.n={count}", "optimizer.lr=0.2", "epochs=4", "run=r")
    place.check("r")
    manifests = [read_json(place.runs / "r" / f"fold{k}" / "manifest.json") for k in range(count)]
    kinds = np.array([[m["weights"][kind] for kind in ("raw", "ema", "swa")] for m in manifests])
    gain, best = np.array([m["score"] for m in manifests]) - kinds.mean(axis=1), kinds.max(axis=1) - kinds.mean(axis=1)
    assert abs(gain.mean()) < FAR * gain.std(ddof=1) / count**0.5
    assert best.mean() > gain.mean() + 0.01


def test_copies_of_a_picture_are_in_one_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what is best on one half would be best on the other's copies, too."""
    from src.fold import train_fold

    place, found = make_place(tmp_path, "single", rows=80, copies=2), []

    def spy(strata: np.ndarray, groups: np.ndarray | None, seed: int) -> np.ndarray:
        found.append(halves_of(strata, groups, seed))
        return found[0]

    monkeypatch.setattr(train_fold, "halves_of", spy)
    place.start("train", "fold=0", "folds.n=2", "folds.group_duplicates=true", "run=r")
    pictures = np.array([name[:-1] for name in load_predictions(place.runs / "r" / "fold0" / "oof.npz").ids])
    assert len(pictures) == 40 and len(set(pictures)) == 20 and 0 < found[0].sum() < 40
    assert len(set(zip(pictures.tolist(), found[0].tolist(), strict=True))) == 20


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Place]:
    """A competition of a kind with two runs, a and b, that were trained on it."""

    @cache
    def place_of(kind: str) -> Place:
        place = make_place(tmp_path_factory.mktemp(f"trained-{kind}"), kind)
        for run in "ab":
            place.start("train", "fold=all", "folds.n=2", f"run={run}", f"seed={ord(run)}")
        return place

    return place_of


@pytest.mark.parametrize("kind", METRICS)
def test_runs_students_and_soups(trained: Callable[[str], Place], kind: str) -> None:
    place = trained(kind)
    place.check("a")
    place.combine("ensemble", "runs=[a,b]", "method=climb", "run=e")
    place.check("e")
    place.combine("distill", "teacher=e", "fold=all", "run=student")
    place.check("student")
    place.combine("soup", "runs=[a,b]", "run=soup")
    place.check("soup")
    place.combine("features", "run=a")
    place.combine(
        "stack", "runs=[a,b]", "features=[a]", "learner=ridge" if kind == "grades" else "learner=logistic", "run=s"
    )
    place.check("s")


def test_a_teacher_that_knows_the_fold_is_refused(trained: Callable[[str], Place], tmp_path: Path, capsys) -> None:
    """Weights that were fitted on the only fold, and networks that were trained on other folds."""
    place = trained("single")
    place.combine("ensemble", "runs=[a,b]", "method=climb", "fold=0", "run=fitted")
    capsys.readouterr()
    place.combine("distill", "teacher=fitted", "fold=0", "run=s0", say=2)
    assert "weights were fitted on the rows that fold 0 holds out" in capsys.readouterr().err
    other = f"folds.file={tmp_path / 'other.csv'}"
    place.start("train", other, "folds.n=2", "folds.seed=1", "fold=0", "run=elsewhere")
    place.start("train", "teacher=elsewhere", "folds.n=2", "fold=0", "run=s1", say=2)
    assert "rows that fold 0 holds out" in capsys.readouterr().err


def test_probabilities_are_those_of_the_loss(tmp_path: Path) -> None:
    """Of a network that says what is known of meaningless labels, their shares: its log loss is their entropy, also
    as a member, in a soup and of its student. A softmax of these outputs would say .69, .19, .10 and .03."""
    place = make_place(tmp_path, "single", rows=80)
    shares = np.array([0.55, 0.25, 0.15, 0.05])
    names = np.repeat(NAMES, (80 * shares).round().astype(int))
    lines = (place.root / "data" / "train.csv").read_text().splitlines()
    rows = [[line.partition(",")[0], name] for line, name in zip(lines[1:], names, strict=True)]
    write(place.root / "data" / "train.csv", ["id", "grade"], rows)
    fixed = ["optimizer.lr=0", "average.ema=0", "average.swa=false", "loss.name=bce", "folds.n=2"]
    place.start("train", *fixed, "fold=0", "run=start")
    state = load_file(place.runs / "start" / "fold0" / "weights.safetensors")
    state["fc.weight"].zero_()
    for column, share in enumerate(shares):
        state["fc.bias"][column] = float(np.log(share / (1 - share)))
    save_weights(tmp_path / "known.safetensors", state, {})
    for run in "ab":
        place.start("train", *fixed, "fold=0", f"run={run}", f"model.weights={tmp_path / 'known.safetensors'}")
    place.combine("ensemble", "runs=[a,b]", "method=soft", "run=e")
    place.combine("soup", "runs=[a,b]", "run=soup")
    place.combine("distill", "teacher=e", "fold=0", "run=s", "optimizer.lr=0")
    entropy = -float((shares * np.log(shares)).sum())
    for run in ("a", "e", "soup", "s"):
        found = read_json(place.runs / run / "cv.json")["scores"]["log_loss"]
        assert found == pytest.approx(entropy, abs=1e-3), run


def cloned(place: Place, run: str, name: str, seed: int) -> None:
    """A finished run of another network: the weights of `run` and noise."""
    shutil.copytree(place.runs / run, place.runs / name)
    for file in (place.runs / name).glob("fold*/weights.safetensors"):
        state, draw = load_file(file), torch.Generator().manual_seed(seed)
        for key, value in state.items():
            if key.endswith("weight") and value.ndim > 1:
                state[key] = value + value.std() * torch.randn(value.shape, generator=draw)
        save_weights(file, state, {})


def test_the_choice_of_a_soup(trained: Callable[[str], Place], capsys: pytest.CaptureFixture[str]) -> None:
    place, nested, plain, trials = trained("single"), [], [], 4
    for trial in range(trials):
        names = [f"c{trial}-{number}" for number in range(6)]
        for number, name in enumerate(names):
            cloned(place, "a", name, 10 * trial + number)
        capsys.readouterr()
        place.combine("soup", f"runs=[{','.join(names)}]", "fold=0", f"run=soup{trial}")
        for values, score in zip((nested, plain), printed_scores(capsys.readouterr().out), strict=True):
            values.append(score)
    assert place.is_at_chance(float(np.mean(nested)), trials * ROWS // 2)
    place.check_optimism(float(np.mean(nested)), float(np.mean(plain)), trials * ROWS // 2)


def test_the_choice_of_a_size(trained: Callable[[str], Place], capsys: pytest.CaptureFixture[str]) -> None:
    """Nested: each fold at the size that is best on the other, as the printed table has them."""
    place, nested, best, unlike, trials = trained("single"), [], [], 0, 4
    for trial in range(trials):
        cloned(place, "a", f"z{trial}", 100 + trial)
        capsys.readouterr()
        place.combine("sizes", f"run=z{trial}", "sizes=[8,10,12,14,16,20,24]")
        printed = re.search(r"nested (-?[\d.]+)", capsys.readouterr().out)
        assert printed is not None
        nested.append(float(printed[1]))
        table = np.loadtxt(place.runs / f"z{trial}" / "figures" / "sizes.csv", delimiter=",", skiprows=1)[:, 1:]
        of_fold, of_all = table[:, :2], table[:, 2]
        chosen = [int(of_fold[:, 1 - k].argmax()) for k in (0, 1)]
        assert nested[-1] == pytest.approx(np.mean([of_fold[size, k] for k, size in enumerate(chosen)]), abs=1e-4)
        unlike += chosen[0] != chosen[1]
        best.append(of_all.max())
    assert unlike and np.mean(best) > np.mean(nested)
    assert place.is_at_chance(float(np.mean(nested)), trials * ROWS)
