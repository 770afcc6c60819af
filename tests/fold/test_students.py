"""Features, soups and students of real runs, end to end on a few digits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from src.cli import main
from src.files import read_config, write_config
from src.predictions import load_features, load_predictions

pytestmark = pytest.mark.fold
Command = Callable[..., list[str]]
SHORT = ["competition=digits", "fold=all", "epochs=2", "average.ema=0"]


@pytest.fixture
def trained(command: Command, tmp_path: Path) -> Callable[..., int]:
    """Two runs of one start and an ensemble of them; returns a function that calls a verb on them."""
    assert main(command(*SHORT, "run=a")) == 0
    assert main(command(*SHORT, "run=b", "mix.mixup=0.2")) == 0

    def verb(name: str, *words: str) -> int:
        return main([name, f"paths.runs={tmp_path / 'runs'}", *words])

    assert verb("ensemble", "runs=[a,b]", "method=soft", "run=both") == 0
    return verb


def test_students_soups_and_features_are_runs_like_any_other(trained, command, tmp_path: Path, capsys) -> None:
    runs = tmp_path / "runs"

    # ---- a student of the ensemble, whose config.yaml is of an older version -----------------------------------------
    made_with = read_config(runs / "both" / "config.yaml")
    older = {key: value for key, value in made_with.items() if key not in ("combined", "soup", "stack")}
    older |= {"ensemble": {"rounds": 50, "bags": 1}, "method": "soft", "learner": None, "features": []}
    write_config(runs / "both" / "config.yaml", older)
    assert trained("distill", "teacher=both", "fold=all") == 0
    printed = capsys.readouterr().out
    assert "taught by fold 0 of both" in printed and "taught by fold 1 of both" in printed
    student = json.loads((runs / "both-student" / "cv.json").read_text())
    assert set(student["folds"]) == {"0", "1"}
    alone = load_file(runs / "a" / "fold0" / "weights.safetensors")
    taught = load_file(runs / "both-student" / "fold0" / "weights.safetensors")
    assert alone.keys() == taught.keys()
    assert any(not torch.equal(alone[key], taught[key]) for key in alone), "the teacher has a say"

    # ---- a soup ------------------------------------------------------------------------------------------------------
    assert trained("soup", "runs=[a,b]", "method=uniform", "run=soup") == 0
    soup = load_file(runs / "soup" / "fold1" / "weights.safetensors")
    a, b = (load_file(runs / name / "fold1" / "weights.safetensors") for name in "ab")
    for key in soup:
        if key.endswith("weight"):
            torch.testing.assert_close(soup[key], (a[key] + b[key]) / 2)
    # its weights are those that were scored: they predict the submission again
    submission = tmp_path / "submissions" / "soup.csv"
    before = submission.read_text()
    submission.unlink()
    assert trained("predict", "run=soup") == 0
    assert submission.read_text() == before
    assert trained("soup", "runs=[a,both]", "run=x") == 2
    assert "'both' has no weights of its own" in capsys.readouterr().err

    # ---- greedy: chosen on the other fold ----------------------------------------------------------------------------
    assert trained("soup", "runs=[a,b]", "run=greedy") == 0
    greedy = json.loads((runs / "greedy" / "fold0" / "manifest.json").read_text())
    assert sum(greedy["weights"].values()) == pytest.approx(1)

    # ---- features ----------------------------------------------------------------------------------------------------
    assert trained("features", "run=a") == 0
    for k in range(2):
        features = load_features(runs / "a" / f"fold{k}" / "features.npz")
        assert features.fold == k and features.x.shape == (150, 96)
        # the classifier on top of the features gives the run's own out-of-fold logits
        head = load_file(runs / "a" / f"fold{k}" / "weights.safetensors")
        oof = load_predictions(runs / "a" / f"fold{k}" / "oof.npz")
        place = {name: row for row, name in enumerate(features.ids.tolist())}
        x = torch.from_numpy(features.x[[place[name] for name in oof.ids.tolist()]])
        name = next(key for key in head if key.endswith("fc.weight")).removesuffix("weight")
        logits = x @ head[f"{name}weight"].T + head[f"{name}bias"]
        assert (torch.softmax(logits, 1).argmax(1).numpy() == oof.pred.argmax(1)).mean() > 0.8  # its views differ
    stamp = (runs / "a" / "fold0" / "features.npz").stat().st_mtime_ns
    capsys.readouterr()
    assert trained("features", "run=a") == 0
    assert "made before, used again" in capsys.readouterr().out
    assert (runs / "a" / "fold0" / "features.npz").stat().st_mtime_ns == stamp
    assert trained("features", "run=a", "size=32") == 2
    assert "size: 28 -> 32" in capsys.readouterr().err
    assert main(["features", *command("competition=digits", "run=plain")]) == 0
    assert load_features(runs / "plain" / "features.npz").fold == -1
    assert trained("stack", "runs=[a,b]", "features=[a,plain]", "run=stacked") == 0

    # ---- what cannot teach -------------------------------------------------------------------------------------------
    assert trained("ensemble", "runs=[a,b]", "method=vote", "run=voted") == 0
    for words, says in (
        (["teacher=stacked"], "a stack cannot teach"),
        (["teacher=voted"], "ensemble.method=vote cannot teach"),
        (["teacher=none"], "no such run"),
        (["teacher=a", "run=a"], "its own teacher"),
        (["teacher=a", "folds.seed=1", f"paths.folds={tmp_path / 'other'}", "run=c"], "rows that fold 0 holds out"),
    ):
        assert trained("distill", *words) == 2
        assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["distill.targets=precomputed", "mix.mixup=0.2", "distill.temperature=2"],
        ["distill.unlabelled=true", "distill.confidence=0"],
        ["distill.unlabelled=true", "distill.confidence=0.3", "distill.targets=precomputed", "distill.weight=0.5"],
    ],
)
def test_every_way_to_learn_from_a_teacher(command: Command, tmp_path: Path, capsys, words: list[str]) -> None:
    assert main(command("competition=digits", "epochs=2", "run=t")) == 0
    capsys.readouterr()
    assert main(["distill", f"paths.runs={tmp_path / 'runs'}", "teacher=t", *words]) == 0
    printed = capsys.readouterr().out
    if "distill.confidence=0" in words:
        assert "30 of 30 test images join" in printed
        assert "90 rows, 28 px" in printed  # 60 of the fold and 30 of the test
    history = pd.read_csv(tmp_path / "runs" / "t-student" / "fold0" / "history.csv")
    assert np.isfinite(history["loss"]).all()
