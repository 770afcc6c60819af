"""Channels are taken out where they are worth least, and a pruned network is built again from its shapes."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from src.errors import UserError
from src.model.backbone import build_model
from src.model.pruning import WIDTHS, prune, shrink_to
from src.model.report import inspect
from src.model.weights import WeightsSource


def images(size: int = 64) -> Tensor:
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))


def trained(name: str, **options: object) -> nn.Module:
    """A network with statistics, norms and biases that are not those of a fresh one."""
    torch.manual_seed(1)
    model = timm.create_model(name, num_classes=5, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    model.train()
    model(images())
    return model.eval()


NETWORKS = ["resnet18d", "test_efficientnet", "mobilenetv3_small_050", "regnetx_002", "convnext_atto"]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_pruned_network_is_built_again_from_its_shapes(name: str) -> None:
    model = trained(name)
    before = inspect(model, 64)
    prune(model, 0.5, 64)
    after = inspect(model, 64)
    assert after.parameters < 0.6 * before.parameters and after.macs < 0.6 * before.macs
    again = timm.create_model(name, num_classes=5)
    state = model.state_dict()
    shrink_to(again, state)
    again.load_state_dict(state)
    x = images()
    with torch.no_grad():
        assert torch.equal(again.eval()(x), model(x)) and model(x).shape == (4, 5)
    layers = zip(again.modules(), model.modules(), strict=True)
    assert all(a.extra_repr() == b.extra_repr() for a, b in layers), "layers know their widths"
    again.train()(x).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in again.parameters())


def test_what_counts_nothing_is_what_goes() -> None:
    """With half of the channels dead, pruning half of them changes no output."""
    model = trained("test_resnet")
    generator = torch.Generator().manual_seed(3)
    dead: dict[int, Tensor] = {}
    for name, module in model.named_modules():  # one set per width for all layers, so that sums of branches agree
        if isinstance(module, nn.Conv2d):
            width = module.out_channels
            which = dead.setdefault(width, torch.randperm(width, generator=generator)[: width // 2])
            module.weight.data[which] = 0
            norms = {"conv1.0": "conv1.1", "conv1.3": "conv1.4", "conv1.6": "bn1"}
            behind = name.replace("downsample.1", "downsample.2").replace("conv", "bn")
            norm = model.get_submodule(norms.get(name, behind))
            norm.weight.data[which] = norm.bias.data[which] = norm.running_mean[which] = 0
    with torch.no_grad():
        before = model(images())
        prune(model, 0.5, 64)
        torch.testing.assert_close(model(images()), before, atol=1e-5, rtol=1e-5)
    assert model.get_classifier().out_features == 5
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.out_channels % WIDTHS == 0


def test_the_classifier_keeps_its_classes() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=32)
    prune(model, 0.5, 64)
    assert model.get_classifier().out_features == 32 and model.eval()(images()).shape == (4, 32)


def test_the_same_weights_are_pruned_alike_and_nothing_stays_behind() -> None:
    first, second = trained("test_resnet").train(), trained("test_resnet").eval()
    for model in (first, second):
        prune(model, 0.4, 48)
    assert first.training and not second.training
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert all(parameter.grad is None and parameter.requires_grad for parameter in first.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in first.modules())


@pytest.mark.parametrize("keys", [{"pool": "gem"}, {"activation": "prelu", "separable": True}])
def test_exchanged_layers(keys: dict) -> None:
    model, _ = build_model("test_resnet", 5, WeightsSource("scratch"), **keys)
    prune(model, 0.5, 64)
    again, _ = build_model("test_resnet", 5, WeightsSource("scratch"), **keys, seed=1)
    shrink_to(again, model.state_dict())
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(images()), model.eval()(images()))


def test_a_network_that_is_not_pruned_stays_itself() -> None:
    model = trained("test_efficientnet")
    parameters = list(model.parameters())
    shrink_to(model, model.state_dict())
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))


def test_what_cannot_be_pruned() -> None:
    with pytest.raises(UserError, match="cannot be pruned") as error:
        prune(timm.create_model("test_vit", num_classes=5), 0.5, 160)
    assert "\n" not in str(error.value)
    narrow = nn.Sequential(nn.Conv2d(3, WIDTHS, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS, 5))
    narrow.get_classifier = lambda: narrow[-1]
    with pytest.raises(UserError, match=r"prune.ratio=0.5: takes no channel"):
        prune(narrow, 0.5, 64)
