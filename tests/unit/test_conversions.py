"""What `convert` makes of a network: nothing by default, and all of it in its order."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from src.model.conversions import convert
from src.model.layers import CosineHead, GeM


def network(name: str = "resnet50") -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=3)


def kinds(model: nn.Module) -> list[str]:
    return [f"{name} {type(module).__name__} {module.extra_repr()}" for name, module in model.named_modules()]


@pytest.mark.parametrize("pool", ["default", "avg", "catavgmax"])  # which timm has built
def test_by_default_nothing_is_exchanged(pool: str) -> None:
    model = network("test_resnet")
    before = kinds(model), {key: value.clone() for key, value in model.state_dict().items()}
    assert convert(model, 3, pool=pool) == []
    assert kinds(model) == before[0]
    assert all(torch.equal(value, before[1][key]) for key, value in model.state_dict().items())


def test_everything_at_once() -> None:
    model, plain = network(), network()
    keys = {"stride_first": True, "activation": "prelu", "pool": "gem", "head": "arcface", "scale": 9.0}
    fresh = convert(model, 3, **keys, subcentres=2, separable=True)
    modules, before = dict(model.named_modules()), dict(plain.named_modules())
    # what a file of the plain network need not have: slopes and the power of GeM; the classifier is never taken from it
    activations = [name for name, module in before.items() if isinstance(module, nn.ReLU)]
    assert fresh == [*activations, "global_pool.pool"]
    assert all(type(modules[name]) is not nn.ReLU for name in activations)
    assert isinstance(modules["global_pool.pool"], GeM)
    assert isinstance(model.get_classifier(), CosineHead) and model.get_classifier().weight.shape == (6, 2048)
    # the stride has gone to the 1x1 before the 3x3 was exchanged: the separable one has none to take over
    assert modules["layer2.0.conv1"].stride == (2, 2)
    assert modules["layer2.0.conv2"].conv_dw.stride == (1, 1)
    with torch.no_grad():
        assert model.eval()(torch.zeros(1, 3, 64, 64)).abs().max() <= 9


def test_a_key_that_does_not_exist() -> None:
    with pytest.raises(TypeError, match="wings"):
        convert(network("test_resnet"), 3, wings=2)
