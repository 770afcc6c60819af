"""A run pruned, trained on, and used like any other; each fold from its own weights only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.cli import main

pytestmark = pytest.mark.fold
Command = Callable[..., list[str]]


def test_a_pruned_run_is_a_run_like_any_other(command: Command, tmp_path: Path, capsys) -> None:
    runs = tmp_path / "runs"

    def verb(name: str, *words: str) -> int:
        return main([name, f"paths.runs={runs}", *words])

    assert main(command("competition=digits", "fold=all", "epochs=3", "run=a")) == 0
    capsys.readouterr()
    assert verb("prune", "run=a", "prune.ratio=0.5") == 0
    printed = capsys.readouterr().out
    table = printed.split("before → after")[1].splitlines()
    assert len(table) == 3 and "fold 0" in table[1] and "fold 1" in table[2]
    for k in range(2):
        old, new = (load_file(runs / name / f"fold{k}" / "weights.safetensors") for name in ("a", "a-pruned"))
        assert old.keys() == new.keys()
        manifest = json.loads((runs / "a-pruned" / f"fold{k}" / "manifest.json").read_text())
        before, after = manifest["pruned"]["before"], manifest["pruned"]["after"]
        assert after["parameters"] < 0.35 * before["parameters"] and after["macs"] < 0.5 * before["macs"]
        assert before["images_per_second"] > 0 < after["images_per_second"]
        assert after["score"] == manifest["score"]
        assert before["score"] == json.loads((runs / "a" / f"fold{k}" / "manifest.json").read_text())["score"]
        assert f"pruned weights of fold {k} of a" in manifest["source"]
    assert "epochs: 1.0\n" in (runs / "a-pruned" / "config.yaml").read_text(), "a third of the run's"

    # ---- its weights are built again wherever a run's are ------------------------------------------------------------
    submission = tmp_path / "submissions" / "a-pruned.csv"
    first = submission.read_text()
    submission.unlink()
    assert verb("predict", "run=a-pruned") == 0
    assert submission.read_text() == first
    assert verb("features", "run=a-pruned") == 0
    assert verb("ensemble", "runs=[a,a-pruned]", "method=soft", "run=both") == 0
    assert verb("prune", "prune.run=a-pruned", "prune.ratio=0.3", "run=twice", "fold=0", "teacher=both") == 0
    assert "taught by fold 0 of both" in capsys.readouterr().out
    assert verb("distill", "teacher=twice", "run=s") == 0
    student = load_file(runs / "s" / "fold0" / "weights.safetensors")
    original = load_file(runs / "a" / "fold0" / "weights.safetensors")
    assert all(student[key].shape == original[key].shape for key in original), "a student is not pruned"

    # ---- what is refused ---------------------------------------------------------------------------------------------
    capsys.readouterr()
    for words, says in (
        (["run=none"], "no such run"),
        (["run=both"], "has no weights of its own"),
        (["prune.run=a", "run=a"], "is the run that is to be pruned"),
        (["run=a", "prune.ratio=1"], "prune.ratio=1"),
        (["run=a", "prune.ratio=0.3"], "prune.ratio: 0.5 -> 0.3"),
        (["prune.run=twice", "run=x", "fold=1"], "fold1 is not finished"),
        (["prune.run=a", "run=x", "model.acnet=true"], "set model.acnet=false"),
        (["prune.run=a", "run=x", "folds.seed=1", f"paths.folds={tmp_path / 'other'}"], "rows that fold 0 holds out"),
    ):
        assert verb("prune", *words) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1, error
    assert verb("soup", "runs=[a,a-pruned]", "run=x") == 2
    assert "a soup takes runs of one network" in capsys.readouterr().err


def test_fold_k_starts_from_fold_k_alone(command: Command, tmp_path: Path) -> None:
    """Another fold's weights have no say in fold 0, its own have."""
    runs = tmp_path / "runs"
    assert main(command("competition=digits", "fold=all", "epochs=1", "run=a")) == 0

    def pruned(name: str) -> dict[str, torch.Tensor]:
        words = [f"paths.runs={runs}", "prune.run=a", f"run={name}", "fold=0", "epochs=1"]
        assert main(["prune", *words]) == 0
        return load_file(runs / name / "fold0" / "weights.safetensors")

    def spoil(k: int) -> None:
        file = runs / "a" / f"fold{k}" / "weights.safetensors"
        state = load_file(file)
        save_file({key: value * 1.5 if value.ndim == 4 else value for key, value in state.items()}, file)

    first = pruned("x")
    spoil(1)
    second = pruned("y")
    spoil(0)
    third = pruned("z")
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], third[key]) for key in first)
