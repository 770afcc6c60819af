"""The keys model.*: which exclude each other, and which a finished run's network is built with."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest
import torch

from src.config import ModelConfig, build
from src.data.spec import RGB
from src.errors import UserError
from src.fold.network import TRAINING_KEYS, architecture, build_from, trained_model
from src.model.backbone import attends, build_model
from src.model.conversions import convert
from src.model.convolutions import AsymmetricConv, fused
from src.model.weights import WeightsSource

SCRATCH = WeightsSource("scratch", why="training from scratch")
HUB = WeightsSource("hub", why="weights of resnet18 from the hub")


def config(**values: object) -> ModelConfig:
    return build({"model": {"name": "test_resnet", **values}}).model


@pytest.mark.parametrize(
    ("values", "source", "says"),
    [
        ({"separable": True, "acnet": True}, SCRATCH, "model.acnet=true; choose one"),
        ({"separable_width": 2}, SCRATCH, "needs model.separable=true"),
        ({"subcentres": 2}, SCRATCH, "needs model.head"),
        ({"pool": "max", "options": {"global_pool": "avg"}}, SCRATCH, "model.options.global_pool=avg says it as well"),
        ({"output_stride": 8, "options": {"output_stride": 16}}, SCRATCH, "model.options.output_stride=16"),
        ({"init": "he"}, HUB, "model.init=he: is for training from scratch (weights of resnet18 from the hub)"),
        ({"separable": True}, HUB, "set model.pretrained=never"),
        ({"name": "resnet18", "stride_first": True}, SCRATCH, "bottlenecks"),
        ({"activation": "mush"}, SCRATCH, "model.activation=mush"),
    ],
)
def test_what_excludes_each_other(values: dict, source: WeightsSource, says: str) -> None:
    with pytest.raises(UserError) as error:
        build_from(config(**values), 3, source, spec=RGB)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"output_stride": 12}, "choose 8, 16 or 32"),
        ({"margin": 1.5}, "from 0, below 1"),
        ({"scale": 0}, "above 0"),
        ({"subcentres": 0}, "at least 1"),
        ({"head": "arc"}, "did you mean 'arcface'?"),
    ],
)
def test_values_that_make_no_sense(values: dict, says: str) -> None:
    with pytest.raises(UserError) as error:
        config(**values)
    assert str(error.value).startswith(f"model.{next(iter(values))}=") and says in str(error.value)


def test_every_key_is_known() -> None:
    """A key that is added to the section reaches the network, or is named as one of training."""
    builds = {name for function in (build_model, convert) for name in inspect.signature(function).parameters}
    builds -= {"classes", "source", "seed", "spec", "model", "conversions"}
    assert {field.name for field in dataclasses.fields(ModelConfig)} == builds | set(TRAINING_KEYS)


def test_a_finished_run_is_built_again(tmp_path) -> None:
    keys = config(activation="prelu", pool="gem", head="arcface", subcentres=2, acnet=True, scale=12.0, sync_bn=True)
    trained, _ = build_from(keys, 3, SCRATCH, seed=1, spec=RGB)
    assert any(isinstance(module, AsymmetricConv) for module in trained.modules())
    generator = torch.Generator().manual_seed(0)
    for parameter in trained.parameters():
        parameter.data.uniform_(-0.3, 0.5, generator=generator)
    torch.save(fused(trained).state_dict(), tmp_path / "weights.pth")
    source = WeightsSource("file", tmp_path / "weights.pth")
    again, _ = build_from(trained_model({"model": dataclasses.asdict(keys)}), 3, source, spec=RGB, trained=True)
    assert not any(isinstance(module, AsymmetricConv) for module in again.modules())
    x = torch.randn(2, 3, 32, 32, generator=generator)
    torch.testing.assert_close(again.eval()(x), trained.eval()(x), atol=1e-4, rtol=1e-4)


def test_a_run_from_before_the_keys() -> None:
    old = {"name": "test_resnet", "pretrained": "never", "weights": None, "drop_rate": 0.1, "drop_path_rate": 0.0}
    assert trained_model({"model": {**old, "options": {}}}) == config(pretrained="never", drop_rate=0.1)


def test_architecture_is_what_the_weights_belong_to() -> None:
    assert architecture(config(pretrained="never", drop_rate=0.5, acnet=True, margin=0.5, sync_bn=True)) == {}
    assert architecture(config(scale=5.0)) == {}, "the scale belongs to a head that is not there"
    assert architecture(config(head="cosface", scale=5.0, separable=True)) == {
        "head": "cosface", "scale": 5.0, "separable": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_resnet", False),
        ("tf_efficientnet_lite0", False),
        ("vit_tiny_patch16_224", True),
        ("hf-hub:no/where", False),
    ],
)
def test_networks_with_attention_are_told_from_others(
    name: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # whose answer is waited for elsewhere
    assert attends(name) is expected


def test_a_new_classifier_may_start_at_zero_on_weights_that_come_from_somewhere(tmp_path: Path) -> None:
    """The first prediction is then every class alike; from scratch, and for a run's own weights, it stays as it is."""
    from safetensors.torch import save_file

    donor, _ = build_model("test_resnet", 7, WeightsSource("scratch"))
    save_file(donor.state_dict(), tmp_path / "w.safetensors")
    x = torch.randn(2, 3, 32, 32)
    for kind, zero in (("file", True), ("run", False), ("scratch", False)):
        source = WeightsSource(kind, None if kind == "scratch" else tmp_path / "w.safetensors")  # type: ignore[arg-type]
        classes = 7 if kind == "run" else 5
        model, _ = build_model("test_resnet", classes, source, start="zero")
        logits = model.eval()(x)
        assert bool((logits == 0).all()) is zero, kind
        assert logits.shape == (2, classes)


def test_a_learner_has_what_the_configuration_says() -> None:
    from accelerate import Accelerator

    from src.fold.network import make_learner

    model = {"name": "test_resnet", "pretrained": "never"}
    optimizer = {"name": "sgd", "clip": 0.3, "weight_decay": 0.02, "momentum": 0.5, "decay_bias": True}
    values = {"model": model, "optimizer": optimizer, "average": {"ema": 0.9, "ema_every": 2, "swa": True}}
    network, _ = build_from(config(), 3, SCRATCH, spec=RGB)
    learner = make_learner(build(values), network, Accelerator(cpu=True))
    assert learner.network is network and learner.clip == 0.3
    assert learner.ema is not None and (learner.ema.decay, learner.ema.every) == (0.9, 2)
    assert learner.ema.module is not network and learner.swa.module is not network
    assert {group["weight_decay"] for group in learner.optimizer.param_groups} == {0.02}, "biases too"
    assert {group["momentum"] for group in learner.optimizer.param_groups} == {0.5}
    values = {"model": model, "average": {"ema": 0.0, "swa": False}}
    plain = make_learner(build(values), network, Accelerator(cpu=True))
    assert plain.ema is None and plain.swa is None and plain.clip is None
    assert {group["weight_decay"] for group in plain.optimizer.param_groups} == {0.0, 5e-4}
