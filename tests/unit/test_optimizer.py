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


def test_set_rate_sets_the_momentum_of_sgd_and_of_adam() -> None:
    layer = nn.Linear(2, 2)
    for name, key, expected in (("sgd", "momentum", 0.85), ("adamw", "betas", (0.85, 0.999))):
        optimizer = build_optimizer(layer, name, weight_decay=0.1)
        set_rate(optimizer, 0.5)
        assert {group[key] for group in optimizer.param_groups} == {0.9 if key == "momentum" else (0.9, 0.999)}
        set_rate(optimizer, 0.5, 0.85)
        assert {group[key] for group in optimizer.param_groups} == {expected}


def test_layer_decay_lowers_the_rate_with_the_distance_from_the_classifier() -> None:
    """BEiT's rule, written out for a ResNet: classifier 1, the last block d, ... the stem the lowest."""
    model = timm.create_model("resnet18", num_classes=5)
    optimizer = build_optimizer(model, "adamw", weight_decay=0.05, layer_decay=0.5)
    set_rate(optimizer, 0.1)
    names = {parameter: name for name, parameter in model.named_parameters()}
    rates = {names[p]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == set(names.values())
    layers = [("conv1", "bn1"), *((f"layer{stage}.{block}",) for stage in (1, 2, 3, 4) for block in (0, 1)), ("fc",)]
    for name, rate in rates.items():
        place = next(i for i, starts in enumerate(layers) if name.startswith(starts))
        assert rate == pytest.approx(0.1 * 0.5 ** (len(layers) - 1 - place)), name
    assert decay_by_name(model, optimizer)["layer1.0.conv1.weight"] == 0.05
    assert decay_by_name(model, optimizer)["layer1.0.bn1.weight"] == 0


def one_step(name: str, **options: float) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(before, gradient, after) of a layer's weight and bias; the rate is 0.1, weight decay 0.01 on the weight."""
    layer, gradients = linear()
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    optimizer = build_optimizer(layer, name, weight_decay=0.01, **options)
    set_rate(optimizer, 0.1)
    for parameter, gradient in zip(layer.parameters(), gradients[0], strict=True):
        parameter.grad = gradient.clone()
    optimizer.step()
    return list(zip(before, gradients[0], (parameter.detach() for parameter in layer.parameters()), strict=True))


def test_one_step_of_sgd_without_momentum() -> None:
    for i, (before, gradient, after) in enumerate(one_step("sgd", momentum=0.0)):
        torch.testing.assert_close(after, before - 0.1 * (gradient + (0.01 if i == 0 else 0) * before))


def test_one_step_of_lars() -> None:
    """1708.03888: the gradient, decay included, times 0.001·‖w‖ / (‖g‖ + decay·‖w‖); timm leaves what has no decay."""
    for i, (before, gradient, after) in enumerate(one_step("lars")):
        step = gradient
        if i == 0:
            trust = 0.001 * before.norm() / (gradient.norm() + 0.01 * before.norm())
            step = trust * (gradient + 0.01 * before)
        torch.testing.assert_close(after, before - 0.1 * step, rtol=1e-6, atol=1e-9)


def test_one_step_of_lamb() -> None:
    """1904.00962: Adam's direction plus decay, times ‖w‖ / ‖direction‖; gradients of norm above 1 are scaled to 1."""
    steps = one_step("lamb")
    norm = torch.cat([gradient.flatten() for _, gradient, _ in steps]).norm().clamp(min=1)
    for i, (before, gradient, after) in enumerate(steps):
        g = gradient / norm
        direction = g / (g.abs() + 1e-6) + (0.01 if i == 0 else 0) * before  # the first step: m = g, v = g² unbiased
        trust = before.norm() / direction.norm() if i == 0 else 1.0
        torch.testing.assert_close(after, before - 0.1 * trust * direction, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_fused_is_the_same_step(name: str) -> None:
    for (_, _, fused), (_, _, plain) in zip(one_step(name, fused=True), one_step(name), strict=True):
        torch.testing.assert_close(fused, plain)


def test_fused_of_what_has_no_fused_kernels() -> None:
    with pytest.raises(UserError, match=r"optimizer\.fused=true: not for lamb .*leave it off"):
        build_optimizer(nn.Linear(2, 2), "lamb", weight_decay=0.0, fused=True)
