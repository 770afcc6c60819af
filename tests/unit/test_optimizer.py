"""Parameter groups by name, and single steps against hand-written updates."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from src.errors import UserError
from src.training.optimizer import build_optimizer, set_rate


def decay_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {names[p]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found) == len(names)  # each once
    return found


def test_decay_on_conv_and_linear_weights_only() -> None:
    model = timm.create_model("resnet18", num_classes=5)
    found = decay_by_name(model, build_optimizer(model, "sgd", weight_decay=5e-4))
    expected = {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    assert len(expected) == 21  # 20 convolutions and fc
    assert {name for name, decay in found.items() if decay == 5e-4} == expected
    assert {decay for name, decay in found.items() if name not in expected} == {0.0}
    assert {"bn1.weight", "bn1.bias", "layer1.0.bn2.weight", "fc.bias"} <= found.keys() - expected


def test_decay_bias_decays_everything() -> None:
    model = timm.create_model("test_resnet", num_classes=5)
    found = decay_by_name(model, build_optimizer(model, "sgd", weight_decay=5e-4, decay_bias=True))
    assert set(found.values()) == {5e-4}


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb", "rmsprop"])
def test_groups_do_not_depend_on_the_optimiser(name: str) -> None:
    model = timm.create_model("test_resnet", num_classes=5)
    found = decay_by_name(model, build_optimizer(model, name, weight_decay=0.05))
    assert {key: value > 0 for key, value in found.items()} == {
        key: value.ndim > 1 for key, value in model.named_parameters()
    }


def linear() -> tuple[nn.Linear, list[tuple[torch.Tensor, torch.Tensor]]]:
    """A layer and the gradients (of weight and bias) of three steps."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(4, 3).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    gradients = [
        tuple(torch.randn(parameter.shape, generator=generator).double() for parameter in layer.parameters())
        for _ in range(3)
    ]
    return layer, gradients


@pytest.mark.parametrize("decay_bias", [False, True])
def test_sgd_is_nesterovs(decay_bias: bool) -> None:
    layer, gradients = linear()
    rates, momentum, decay = (0.1, 0.05, 0.2), 0.9, 0.01
    expected = [parameter.detach().clone() for parameter in layer.parameters()]
    velocity = [torch.zeros_like(value) for value in expected]
    optimizer = build_optimizer(layer, "sgd", weight_decay=decay, momentum=momentum, decay_bias=decay_bias)
    for rate, step in zip(rates, gradients, strict=True):
        set_rate(optimizer, rate)
        for parameter, gradient in zip(layer.parameters(), step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        for i, gradient in enumerate(step):
            g = gradient + (decay if i == 0 or decay_bias else 0) * expected[i]
            velocity[i] = momentum * velocity[i] + g
            expected[i] = expected[i] - rate * (g + momentum * velocity[i])
        for parameter, value in zip(layer.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.detach(), value)


def test_adamw() -> None:
    layer, gradients = linear()
    rate, decay, beta1, beta2, eps = 0.01, 0.1, 0.9, 0.999, 1e-8
    expected = [parameter.detach().clone() for parameter in layer.parameters()]
    first = [torch.zeros_like(value) for value in expected]
    second = [torch.zeros_like(value) for value in expected]
    optimizer = build_optimizer(layer, "adamw", weight_decay=decay, momentum=0.5)  # momentum is not AdamW's
    set_rate(optimizer, rate)
    for t, step in enumerate(gradients, 1):
        for parameter, gradient in zip(layer.parameters(), step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        for i, gradient in enumerate(step):
            expected[i] = expected[i] * (1 - rate * (decay if i == 0 else 0))
            first[i] = beta1 * first[i] + (1 - beta1) * gradient
            second[i] = beta2 * second[i] + (1 - beta2) * gradient**2
            mean, square = first[i] / (1 - beta1**t), second[i] / (1 - beta2**t)
            expected[i] = expected[i] - rate * mean / (square.sqrt() + eps)
        for parameter, value in zip(layer.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.detach(), value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("name", "words"), [("adamv", "did you mean 'adam"), ("zzz", "no such optimiser$")])
def test_unknown_names(name: str, words: str) -> None:
    with pytest.raises(UserError, match=f"optimizer.name={name}: .*{words}"):
        build_optimizer(nn.Linear(2, 2), name, weight_decay=0.0)


def test_set_rate_honours_lr_scale() -> None:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    groups = [
        {"params": parameters[0], "lr_scale": 0.1},
        {"params": parameters[1]},
        {"params": parameters[2], "lr_scale": 2},
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    for rate in (0.5, 0.25):  # the second call does not scale what the first has set
        set_rate(optimizer, rate)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1 * rate, rate, 2 * rate])
