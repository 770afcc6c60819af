"""A run is what it started from: its weights may move from session to session, but not change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from src.cli import main
from src.errors import UserError
from src.files import held, read_config, write_json
from src.model.weights import WeightsSource
from src.runs.start import claim_start

pytestmark = pytest.mark.fold
SCRATCH = WeightsSource("scratch", why="training from scratch: the hub does not answer")


def weights_file(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(timm.create_model("test_resnet", num_classes=5).state_dict(), path)
    return path


def test_weights_may_move_but_not_change(command: Callable[..., list[str]], tmp_path: Path, capsys) -> None:
    words = command("competition=digits", "epochs=1", "eval.every=9", "model.pretrained=auto")
    first = weights_file(tmp_path / "input" / "mine" / "w.safetensors", 1)
    other = weights_file(tmp_path / "other" / "w.safetensors", 2)
    moved = tmp_path / "input" / "datasets" / "me" / "mine" / "w.safetensors"
    moved.parent.mkdir(parents=True)
    shutil.copy(first, moved)

    assert main([*words, "fold=0", f"model.weights={first}"]) == 0
    assert main([*words, "fold=1", f"model.weights={other}"]) == 2
    says = capsys.readouterr().err
    assert f"model.weights: {first} -> {other}, with other contents" in says and "run=NAME" in says
    assert main([*words, "fold=1"]) == 2  # nor is it the same run from scratch
    assert f"model.weights: {first} -> None" in capsys.readouterr().err

    first.unlink()
    assert main([*words, "fold=1", f"model.weights={moved}", "loss.smoothing=0.3"]) == 2
    assert "loss.smoothing: " in (says := capsys.readouterr().err) and "model.weights" not in says
    assert main([*words, "fold=1", f"model.weights={moved}"]) == 0
    assert (tmp_path / "runs" / "r" / "fold1" / "manifest.json").is_file()
    assert "sha256" in json.loads((tmp_path / "runs" / "r" / "started_from.json").read_text())["contents"]


def test_what_is_attached_is_part_of_a_run(command: Callable[..., list[str]], tmp_path: Path, capsys) -> None:
    """Nobody names a file: the second session has no longer attached it, or attached another one."""
    words = command("competition=digits", "epochs=1", "eval.every=9", "model.pretrained=auto")
    file = weights_file(tmp_path / "input" / "a" / "test_resnet.safetensors", 1)
    assert main([*words, "fold=0", "seed=1"]) == 0
    assert f"test_resnet: weights from {file}" in capsys.readouterr().out
    from src.model.attached_weights import attached_file

    weights_file(file, 2)
    attached_file.cache_clear()
    assert main([*words, "fold=1", "seed=1"]) == 2
    says = capsys.readouterr().err
    assert f"run=r: was started with weights from {file} (" in says and says.count("sha256") == 2
    assert "give the former with model.weights=FILE" in says


def test_a_preset_that_was_chosen_says_why(
    command: Callable[..., list[str]], tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    words = command("competition=folder", "epochs=0.1", "stages=[{}]", "average.swa=false")
    assert main([word for word in words if not word.startswith("model.pretrained=")]) == 0
    out = capsys.readouterr().out
    why = "training from scratch: no weights file for test_resnet is attached under"
    assert f"preset=scratch: {why}" in out and f"test_resnet: {why}" in out
    assert "HF_HUB_OFFLINE=1 forbids asking the hub" in out and "model.pretrained=never" not in out
    assert read_config(tmp_path / "runs" / "r" / "config.yaml")["model"]["pretrained"] == "auto"


def test_claims(tmp_path: Path) -> None:
    run, file = tmp_path / "r", weights_file(tmp_path / "w.safetensors", 1)
    given = WeightsSource("file", file, f"weights from {file}")
    record = run / "started_from.json"
    with held(run / ".fold0.lock", 0, ""):
        claim_start(run, 0, SCRATCH, "test_resnet")
        claim_start(run, 0, given, "test_resnet")  # nothing had been trained from the other yet
        assert json.loads(record.read_text())["source"] == given.why
        with pytest.raises(UserError, match="r: was started with weights from"):
            claim_start(run, 1, SCRATCH, "test_resnet")  # fold 0 is being trained
    checkpoint = run / "fold0" / "checkpoints" / "1.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    with pytest.raises(UserError, match="would go on with training from scratch: the hub does not answer"):
        claim_start(run, 0, SCRATCH, "test_resnet")
    claim_start(run, 0, given, "test_resnet")
    record.unlink()  # a run from before this was noted
    claim_start(run, 0, SCRATCH, "test_resnet")
    write_json(record, {"source": "x", "contents": "nothing (from scratch)"})
    claim_start(run, 1, SCRATCH, "test_resnet")
