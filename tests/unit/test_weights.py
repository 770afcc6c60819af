"""First weights: where they come from, that they fit, and that no file can run code."""

from __future__ import annotations

import argparse
import datetime
import enum
import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from src.errors import UserError
from src.model.backbone import build_model, check_sizes
from src.model.weights import WeightsSource, check_model_name
from src.model.weights_file import load_weights, read_state

torch.set_num_threads(1)  # the networks are so small that threads only cost

SCRATCH = WeightsSource("scratch")


def state_of(name: str = "test_resnet", classes: int = 7, seed: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    state = timm.create_model(name, num_classes=classes).state_dict()
    return {key: torch.randn_like(value) if value.is_floating_point() else value for key, value in state.items()}


def model_of(classes: int = 7, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return timm.create_model("test_resnet", num_classes=classes)


# ---- loading --------------------------------------------------------------------------------------------------------


WRAPPINGS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state},
    "ema first": lambda state: {"state_dict_ema": state, "state_dict": {k: v * 0 for k, v in state.items()}},
    "module.": lambda state: {f"module.{key}": value for key, value in state.items()},
    "_orig_mod.": lambda state: {"state_dict": {f"module._orig_mod.{key}": value for key, value in state.items()}},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}}, "epoch": 3},
    "a container in another": lambda state: {"model": {"state_dict": state}, "epoch": 3},
    "entries that are no tensors": lambda state: {**state, "epoch": 3, "classes": ["a", "b"]},
    "Lightning": lambda state: {
        "state_dict": {f"model.{key}": value for key, value in state.items()} | {"criterion.weight": torch.ones(7)},
        "hyper_parameters": Settings(lr=0.1, classes=Settings(n=7)),
        "pytorch-lightning_version": "2.4.0",
    },
    "deep in somebody's module": lambda state: {f"net.backbone.body.{key}": value for key, value in state.items()},
    "timm's trainer": lambda state: {
        "state_dict": state,
        "args": argparse.Namespace(lr=0.1, out=Path("x")),
        "metric": np.float64(0.9),
        "epoch": np.int64(3),
    },
    "what a script keeps": lambda state: {
        "model_state_dict": state,
        "best": np.float32(0.5),
        "history": np.arange(3.0),
        "counts": defaultdict(int, a=1),
        "when": datetime.datetime(2026, 1, 1),
        "phase": Phase.TRAIN,
        "config": Thing(3),
        "set": {1, 2},
        "classes": (Settings(a=1), [Thing(1)]),
    },
}


class Settings(dict):
    """As Lightning's AttributeDict, yacs' CfgNode: a dict, by a class that another machine does not have."""


class Phase(enum.Enum):
    TRAIN = "train"


class Thing:
    def __init__(self, x: int) -> None:
        self.x = x

    def __setstate__(self, state: dict) -> None:
        raise AssertionError("code of the file's classes must not run")


@pytest.mark.parametrize(("suffix", "new"), [(".pth", True), (".pth.tar", False), (".bin", True), (".ckpt", True)])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_torch_files(tmp_path: Path, suffix: str, new: bool, wrapping: str) -> None:
    state, model = state_of(), model_of()
    torch.save(WRAPPINGS[wrapping](state), tmp_path / f"w{suffix}", _use_new_zipfile_serialization=new)
    assert "new classifier" not in load_weights(model, tmp_path / f"w{suffix}", ("fc",))
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_safetensors(tmp_path: Path) -> None:
    state, model = state_of(), model_of()
    save_file(state, tmp_path / "w.safetensors")
    load_weights(model, tmp_path / "w.safetensors", ("fc",))
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_another_class_count_keeps_the_fresh_head(tmp_path: Path, suffix: str) -> None:
    state, model = state_of(classes=1000), model_of(classes=7)
    head = {key: value.clone() for key, value in model.fc.state_dict().items()}
    path = tmp_path / f"w{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    line = load_weights(model, path, ("fc",))
    assert "new classifier (fc.weight, fc.bias)" in line and f"loaded {len(state) - 2} tensors" in line
    for key, value in model.state_dict().items():
        expected = head[key.removeprefix("fc.")] if key.startswith("fc.") else state[key]
        assert torch.equal(value, expected), key


def test_a_file_without_a_head_or_without_counters(tmp_path: Path) -> None:
    state = {k: v for k, v in state_of().items() if not k.startswith("fc.") and "num_batches" not in k}
    torch.save(state, tmp_path / "w.pth")
    model = model_of()
    load_weights(model, tmp_path / "w.pth", ("fc",))
    assert torch.equal(model.conv1[0].weight if isinstance(model.conv1, torch.nn.Sequential) else model.conv1.weight,
                       state["conv1.0.weight" if "conv1.0.weight" in state else "conv1.weight"])  # fmt: skip


def test_a_mismatch_lists_the_keys(tmp_path: Path) -> None:
    state = state_of()
    names = [key for key in state if key.startswith("layer1") and key.endswith("weight")]
    state["strange.weight"] = torch.zeros(1)
    del state[names[0]]
    state[names[1]] = torch.zeros(2, 3)
    torch.save(state, tmp_path / "w.pth")
    model = model_of()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(model, tmp_path / "w.pth", ("fc",))
    message = str(caught.value)
    assert f"1 missing ({names[0]})" in message
    assert "1 unexpected (strange.weight)" in message
    assert f"1 of another shape ({names[1]} (2, 3) for {tuple(before[names[1]].shape)})" in message
    assert str(tmp_path / "w.pth") in message and "\n" not in message
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])  # nothing is half loaded


def test_one_key_too_many_is_enough(tmp_path: Path) -> None:
    torch.save(state_of() | {"strange.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"keys 1 unexpected \(strange\.weight\)"):
        load_weights(model_of(), tmp_path / "w.pth", ("fc",))


def test_another_network_is_refused(tmp_path: Path) -> None:
    torch.save(state_of("test_efficientnet"), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"missing.*unexpected.*same network"):
        load_weights(model_of(), tmp_path / "w.pth", ("fc",))


class Bomb:
    """Unpickled, it calls `function` with the path."""

    def __init__(self, function: Callable, path: Path) -> None:
        self.function, self.path = function, path

    def __reduce__(self):
        return self.function, (str(self.path),)


def explode(path: str) -> None:
    Path(path).touch()


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("function", [os.mkdir, shutil.rmtree, open, eval, subprocess.call])
def test_pickled_code_is_refused(tmp_path: Path, function: Callable, new: bool) -> None:
    bomb = Bomb(function, tmp_path / "exploded")
    torch.save({"weight": torch.zeros(1), "bomb": bomb}, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(
        UserError, match=f"w.pth: cannot be read as weights: it would call .*{function.__name__}"
    ) as caught:
        read_state(tmp_path / "w.pth")
    assert not (tmp_path / "exploded").exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize("new", [True, False])
def test_code_beside_the_weights_is_never_run(tmp_path: Path, new: bool) -> None:
    bomb = Bomb(explode, tmp_path / "exploded")
    torch.save({"weight": torch.ones(1), "bomb": bomb}, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    assert list(read_state(tmp_path / "w.pth")) == ["weight"]
    assert not (tmp_path / "exploded").exists()
    torch.load(tmp_path / "w.pth", weights_only=False)
    assert (tmp_path / "exploded").exists(), "it was a real one"


def test_a_whole_model_is_no_state_dict(tmp_path: Path) -> None:
    torch.save(model_of(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"no state dict of tensors; save model.state_dict\(\), not the model"):
        read_state(tmp_path / "w.pth")


def test_positions_of_another_image_size_are_fitted_as_timm_does(tmp_path: Path) -> None:
    state = state_of("test_vit")
    torch.save(state, tmp_path / "w.pth")
    model, _ = build_model("test_vit", 5, WeightsSource("file", tmp_path / "w.pth"), options={"img_size": 96})
    own = model.state_dict()
    assert own["pos_embed"].shape != state["pos_embed"].shape
    assert torch.equal(own["cls_token"], state["cls_token"])
    torch.testing.assert_close(own["pos_embed"][:, 0], state["pos_embed"][:, 0])  # the class token has no place


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 torn"])
def test_garbage_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as weights"):
        read_state(tmp_path / name)


@pytest.mark.parametrize("value", [[1, 2], {"lr": 0.1}, torch.zeros(3)])
def test_a_file_of_something_else_is_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "w.pth")
    with pytest.raises(UserError, match="no state dict of tensors"):
        read_state(tmp_path / "w.pth")


# ---- building -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet81", "did you mean '.*resnet"),
        ("efficientnet_b0x", "did you mean 'efficientnet_b0"),
        ("resnet18.a1_in1K", r"no weights of that tag \(resnet18.a1_in1k, .*leave .a1_in1K out"),
        ("someone/resnet18", "a model on the hub is model=hf-hub:someone/resnet18"),
        ("qqqqq", "no such model$"),
    ],
)
def test_unknown_models(name: str, words: str) -> None:
    for check in (check_model_name, lambda name: build_model(name, 3, SCRATCH)):
        with pytest.raises(UserError, match=f"model={re.escape(name)}: .*{words}"):
            check(name)


def test_zero_gamma_blocks_are_the_identity_at_start() -> None:
    model, _ = build_model("resnet18", 5, SCRATCH)
    model.eval()
    for number in range(1, 5):
        for block in getattr(model, f"layer{number}"):
            channels = block.conv1.in_channels
            x = torch.randn(2, channels, 6, 6, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                shortcut = x if block.downsample is None else block.downsample(x)
                torch.testing.assert_close(block(x), torch.relu(shortcut))
                block.bn2.weight.fill_(1.0)
                assert not torch.allclose(block(x), torch.relu(shortcut))  # the branch itself is not dead


def test_the_same_seed_gives_the_same_weights() -> None:
    one, two, other = (build_model("test_resnet", 5, SCRATCH, seed=seed)[0].state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["fc.weight"], other["fc.weight"])


def test_build_loads_a_file_and_keeps_its_head_fresh(tmp_path: Path) -> None:
    state = state_of(classes=11)
    torch.save(state, tmp_path / "w.pth")
    model, normalisation = build_model("test_resnet", 5, WeightsSource("file", tmp_path / "w.pth"))
    own = model.state_dict()
    assert own["fc.weight"].shape[0] == 5
    assert all(torch.equal(own[key], state[key]) for key in state if not key.startswith("fc."))
    config = timm.data.resolve_model_data_config(model)
    assert (normalisation.mean, normalisation.std) == (config["mean"], config["std"])


def test_normalisation_follows_the_model() -> None:
    vit = build_model("test_vit", 3, SCRATCH)[1]
    resnet = build_model("resnet18", 3, SCRATCH)[1]
    assert resnet.mean == (0.485, 0.456, 0.406) and resnet.std == (0.229, 0.224, 0.225)
    assert vit.mean == timm.create_model("test_vit").pretrained_cfg["mean"]


def test_options() -> None:
    model, _ = build_model("resnet18", 5, SCRATCH, drop_rate=0.3, options={"in_chans": 1})
    assert model.drop_rate == 0.3 and model.conv1.in_channels == 1
    with pytest.raises(UserError, match=r"model.options=.*resnet18 does not take them.*wings"):
        build_model("resnet18", 5, SCRATCH, options={"wings": 2})


def test_a_transformer_takes_other_sizes() -> None:
    model, _ = build_model("test_vit", 3, SCRATCH)
    check_sizes("test_vit", model, [64, 96])
    for size in (64, 96):
        assert model.eval()(torch.zeros(1, 3, size, size)).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "options", "sizes", "refused"),
    [
        ("test_resnet", {}, [28, 64], None),
        ("test_vit", {}, [64, 136], None),  # positions interpolated, the last patches padded
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)}, [96], 96),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)}, [224], None),
    ],
)
def test_check_sizes(name: str, options: dict, sizes: list[int], refused: int | None) -> None:
    model, _ = build_model(name, 3, SCRATCH, options=options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    if refused is None:
        check_sizes(name, model, sizes)
    else:
        with pytest.raises(UserError, match=f"model={name}: does not take images of {refused} px"):
            check_sizes(name, model, sizes)
    if refused is None:
        assert model.training, "as it was"
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_model_that_was_built_for_another_size() -> None:
    model, _ = build_model("levit_128s", 3, SCRATCH, options={"img_size": 128})
    assert model.eval()(torch.zeros(1, 3, 128, 128)).shape == (1, 3)
    check_sizes("levit_128s", model, [128])
