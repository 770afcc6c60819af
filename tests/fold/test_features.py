"""Features of a backbone from a file, against timm's own network on images that were cropped by hand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from src.cli import main
from src.predictions import load_features

pytestmark = pytest.mark.fold


def test_features_are_timms_pooled_ones(command: Callable[..., list[str]], mini_digits: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = timm.create_model("test_resnet", num_classes=5).eval()
    for parameter in model.parameters():
        parameter.data.uniform_(-0.2, 0.3)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    words = [f"model.weights={tmp_path / 'w.safetensors'}", "model.pretrained=auto", "eval.crop=1.0", "run=plain"]
    assert main(["features", *command("competition=digits", *words)]) == 0
    found = load_features(tmp_path / "runs" / "plain" / "features.npz")
    assert len(found.ids) == 150 and found.fold == -1

    mean, std = (np.array(model.pretrained_cfg[key]) for key in ("mean", "std"))
    for row in (0, 57, 119, 120, 149):  # of train and of test
        name = f"{found.ids[row]}.png"
        path = mini_digits / ("train" if row < 120 else "test") / name
        pixels = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)  # 28 x 28 already
        x = torch.from_numpy((pixels / 255 - mean) / std).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            expected = model.forward_head(model.forward_features(x), pre_logits=True)[0]
        np.testing.assert_allclose(found.x[row], expected.numpy(), rtol=1e-3, atol=1e-3)
    assert found.x.std(0).max() > 0.01, "features that tell images apart"


def test_using_features_again_does_not_wait_for_torch() -> None:
    code = "import sys, src.cli, src.recipes.features; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[2]).returncode == 0
