"""A run whose network has exchanged parts is saved, predicts, teaches, is souped and makes features like any other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from src.cli import main
from src.predictions import load_features, load_predictions

pytestmark = pytest.mark.fold
Command = Callable[..., list[str]]
PARTS = [
    "model.acnet=true", "model.activation=prelu", "model.pool=gem", "model.head=arcface", "model.subcentres=2",
    "model.scale=10",
]  # fmt: skip


def test_a_network_with_exchanged_parts_in_every_verb(command: Command, tmp_path: Path, capsys) -> None:
    runs = tmp_path / "runs"

    def verb(name: str, *words: str) -> int:
        return main([name, f"paths.runs={runs}", *words])

    assert main(command("competition=digits", "fold=0", "run=a", *PARTS)) == 0
    printed = capsys.readouterr().out
    assert "28 px: receptive field" in printed and "multiply-adds per image" in printed
    saved = load_file(runs / "a" / "fold0" / "weights.safetensors")
    plain = timm.create_model("test_resnet", num_classes=5).state_dict()
    extra = {key for key in saved if key not in plain}
    assert plain.keys() - saved.keys() == {"fc.bias"}, "fused: the keys of the plain network"
    assert "global_pool.pool.p" in extra and all(saved[key].shape == (1,) for key in extra), "else slopes alone"
    assert saved["fc.weight"].shape == (2 * 5, plain["fc.weight"].shape[1])

    # ---- predict -----------------------------------------------------------------------------------------------------
    test = load_predictions(runs / "a" / "fold0" / "test.npz")
    submission = tmp_path / "submissions" / "a.csv"
    before = submission.read_text()
    submission.unlink()
    assert verb("predict", "run=a") == 0
    assert submission.read_text() == before

    # ---- features: the head on top of them gives the network's own predictions ---------------------------------------
    assert verb("features", "run=a", "tta=none") == 0
    features = load_features(runs / "a" / "fold0" / "features.npz")
    assert verb("predict", "run=a", "tta=none") == 0
    x = torch.from_numpy(features.x[[features.ids.tolist().index(name) for name in test.ids.tolist()]])
    cosines = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(saved["fc.weight"]).T
    own = cosines.unflatten(1, (5, 2)).amax(2).argmax(1).numpy()
    lines = dict(line.split(",") for line in submission.read_text().splitlines()[1:])
    assert [lines[name] for name in test.ids.tolist()] == [str(test.classes[k]) for k in own]

    # ---- the margin is in the loss -----------------------------------------------------------------------------------
    assert main(command("competition=digits", "fold=0", "run=slack", *PARTS, "model.margin=0")) == 0
    slack = load_file(runs / "slack" / "fold0" / "weights.safetensors")
    assert not torch.equal(slack["fc.weight"], saved["fc.weight"])

    # ---- soup and student --------------------------------------------------------------------------------------------
    assert main(command("competition=digits", "fold=0", "run=b", "mix.mixup=0.2", *PARTS)) == 0
    assert main(command("competition=digits", "fold=0", "run=c", *[word for word in PARTS if "pool" not in word])) == 0
    assert verb("soup", "runs=[a,b]", "method=uniform", "run=soup", "fold=0") == 0
    capsys.readouterr()
    assert verb("soup", "runs=[a,c]", "run=other", "fold=0") == 2
    assert "'pool': 'gem'" in capsys.readouterr().err
    assert verb("distill", "teacher=a", "fold=0", "model.acnet=false") == 0
    student = json.loads((runs / "a-student" / "fold0" / "manifest.json").read_text())
    assert np.isfinite(student["score"])


def test_a_compiled_network_learns_the_same_and_is_saved_as_if_it_were_not(
    command: Command, tmp_path: Path, monkeypatch
) -> None:
    from torch._dynamo.utils import counters

    # its graphs run by torch itself: C++ for a CPU takes minutes to compile
    compiled = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net, **options: compiled(net, backend="eager", **options))
    assert main(command("competition=digits", "fold=0", "run=plain")) == 0
    assert not counters["frames"]["ok"]
    assert main(command("competition=digits", "fold=0", "run=compiled", "model.compile=true")) == 0
    assert counters["frames"]["ok"], "nothing was compiled"
    weights = [load_file(tmp_path / "runs" / run / "fold0" / "weights.safetensors") for run in ("plain", "compiled")]
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-3, atol=1e-4)
