"""First weights: where they come from, that they fit, and that no file can run code."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import save_file

from src.errors import UserError
from src.model.backbone import build_model, check_sizes
from src.model.weights import WeightsSource, check_model_name, find_weights, load_weights, read_state

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
}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_torch_files(tmp_path: Path, suffix: str, wrapping: str) -> None:
    state, model = state_of(), model_of()
    torch.save(WRAPPINGS[wrapping](state), tmp_path / f"w{suffix}")
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
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_pickled_code_is_refused(tmp_path: Path, suffix: str) -> None:
    torch.save({"weight": torch.zeros(1), "bomb": Bomb(tmp_path / "exploded")}, tmp_path / f"w{suffix}")
    with pytest.raises(UserError, match="cannot be read as weights") as caught:
        read_state(tmp_path / f"w{suffix}")
    assert not (tmp_path / "exploded").exists() and "\n" not in str(caught.value)


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


# ---- finding --------------------------------------------------------------------------------------------------------


@pytest.fixture
def attached(tmp_path: Path) -> Path:
    folder = tmp_path / "input"
    (folder / "some-dataset" / "deep").mkdir(parents=True)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    """Whether the hub answers, without a network: `hub(True)`; returns the list of hosts that were asked."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def answers(yes: bool) -> list[str]:
        asked: list[str] = []

        def connect(address: tuple[str, int], timeout: float) -> SimpleNamespace:
            asked.append(address[0])
            if not yes:
                raise TimeoutError("timed out")
            return SimpleNamespace(close=lambda: None)

        monkeypatch.setattr("src.model.weights.socket.create_connection", connect)
        return asked

    return answers


def test_a_given_file_comes_first(tmp_path: Path, attached: Path, hub) -> None:
    hub(True)
    file = tmp_path / "mine.safetensors"
    file.touch()
    (attached / "resnet18.pth").touch()
    for pretrained in ("auto", "never", "always"):
        source = find_weights("resnet18", pretrained, str(file), attached)
        assert (source.kind, source.path, source.pretrained) == ("file", file, True)


@pytest.mark.parametrize(("name", "words"), [("gone.pth", "no such file"), ("w.ckpt", "ending in .safetensors")])
def test_a_given_file_that_does_not_do(tmp_path: Path, attached: Path, name: str, words: str) -> None:
    (tmp_path / "w.ckpt").touch()
    with pytest.raises(UserError, match=f"model.weights=.*{words}"):
        find_weights("resnet18", "auto", str(tmp_path / name), attached)


def test_never_looks_nowhere(attached: Path, hub) -> None:
    asked = hub(True)
    (attached / "resnet18.pth").touch()
    source = find_weights("resnet18", "never", None, attached)
    assert source.kind == "scratch" and not source.pretrained and not asked


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resnet18", "some-dataset/resnet18.pth"),
        ("resnet18", "some-dataset/deep/resnet18.safetensors"),
        ("resnet18.a1_in1k", "some-dataset/resnet18.pth"),  # the tag aside
        ("resnet18.a1_in1k", "some-dataset/resnet18.a1_in1k.bin"),
        ("resnet18.a1_in1k", "some-dataset/resnet18_a1_in1k.bin"),
        ("efficientnet_b0", "efficientnet-b0/pytorch_model.bin"),  # the folder's name, punctuation aside
        ("ResNet18".lower(), "ResNet-18/model.safetensors"),
        pytest.param(
            "resnet18",
            "some-dataset/resnet18.a1_in1k.safetensors",
        ),
        pytest.param(
            "resnet18",
            "some-dataset/resnet18-5c106cde.pth",
        ),
    ],
)
def test_attached_files(attached: Path, hub, name: str, file: str) -> None:
    asked = hub(True)
    (attached / file).parent.mkdir(parents=True, exist_ok=True)
    (attached / file).touch()
    for other in ("resnet18d.pth", "resnet180.pth", "resnet18.txt", "some-dataset/efficientnet_b01.bin"):
        (attached / other).touch()
    for pretrained in ("auto", "always"):
        source = find_weights(name, pretrained, None, attached)
        assert (source.kind, source.path) == ("file", attached / file)
    assert not asked


@pytest.mark.parametrize(
    "files",  # the first is taken
    [
        ("some-dataset/resnet18.pth", "some-dataset/deep/resnet18.pth"),  # the nearest
        ("some-dataset/deep/resnet18.safetensors", "some-dataset/resnet18.pth"),  # the safest
        ("some-dataset/deep/resnet18.pth", "resnet18/optimizer.pt", "resnet18/model.safetensors"),  # its own name first
        ("resnet18/model.safetensors", "resnet18/optimizer.pt", "resnet18/pytorch_model.bin"),
    ],
)
def test_the_best_attached_file_wins(attached: Path, hub, files: tuple[str, ...]) -> None:
    hub(False)
    for file in files:
        (attached / file).parent.mkdir(parents=True, exist_ok=True)
        (attached / file).touch()
    assert find_weights("resnet18", "auto", None, attached).path == attached / files[0]


def test_the_search_does_not_walk_a_million_images(attached: Path, hub) -> None:
    hub(False)
    deep = attached / "a/b/c/d/e/f/g"
    deep.mkdir(parents=True)
    (deep / "resnet18.pth").touch()
    assert find_weights("resnet18", "auto", None, attached).kind == "scratch"


def test_the_hub(tmp_path: Path, hub) -> None:
    asked = hub(True)
    for pretrained in ("auto", "always"):
        source = find_weights("resnet18", pretrained, None, tmp_path / "none")
        assert source.kind == "hub" and source.path is None and source.pretrained
    assert set(asked) == {"huggingface.co"}


def test_a_silent_hub(tmp_path: Path, hub) -> None:
    asked = hub(False)
    source = find_weights("resnet18", "auto", None, tmp_path)
    assert source.kind == "scratch" and "hub does not answer" in source.why and asked
    with pytest.raises(UserError, match=r"always: .*hub does not answer; give model\.weights=FILE"):
        find_weights("resnet18", "always", None, tmp_path)


@pytest.mark.parametrize(
    "value",
    [
        "1",
        *(pytest.param(v) for v in ("true", "YES", "ON")),
    ],
)
def test_offline_by_wish(tmp_path: Path, hub, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    asked = hub(True)
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert find_weights("resnet18", "auto", None, tmp_path).kind == "scratch" and not asked
    with pytest.raises(UserError, match="always"):
        find_weights("resnet18", "always", None, tmp_path)


def test_a_model_without_pretrained_weights(tmp_path: Path, hub) -> None:
    hub(True)
    name = next(name for name in timm.list_models() if not timm.is_model_pretrained(name))
    assert f"no pretrained weights for {name}" in find_weights(name, "auto", None, tmp_path).why


# ---- building -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet81", "did you mean '.*resnet"),
        ("efficientnet_b0x", "did you mean 'efficientnet_b0"),
        ("qqqqq", "no such model$"),
    ],
)
def test_unknown_models(name: str, words: str) -> None:
    for check in (check_model_name, lambda name: build_model(name, 3, SCRATCH)):
        with pytest.raises(UserError, match=f"model={name}: .*{words}"):
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
