"""Receptive field, stride and counts against hand-computed figures and a gradient."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from torch import nn

from src.model.report import inspect


def test_resnet18_by_hand() -> None:
    """7x7/2: 7, pool 3/2: 11 at stride 4; then 3x3 pairs: layer1 4·(2·4), layer2 2·4 + 3·(2·8), layer3 2·8 + 3·(2·16),
    layer4 2·16 + 3·(2·32) more."""
    report = inspect(timm.create_model("resnet18"), 64)
    field = 7 + 2 * 2 + 4 * 8 + (8 + 3 * 16) + (16 + 3 * 32) + (32 + 3 * 64)
    assert field == 435
    assert (report.receptive_field, report.stride, report.parameters) == (field, 32, 11_689_512)
    assert "64 px: receptive field 435 px, stride 32 px, 11.69 M parameters" in report.line(64)
    assert inspect(timm.create_model("resnet18"), 224).macs == 1_814_073_344  # the usual 1.8 G


@pytest.mark.parametrize("name", ["resnet18d", "resnet10t"])
def test_against_the_gradient_of_one_unit(name: str) -> None:
    """The pixels that the central unit of layer2 sees, in a copy with positive weights and no thresholds."""
    model = timm.create_model(name).eval()
    body = nn.Sequential(model.conv1, model.bn1, model.act1, model.maxpool, model.layer1, model.layer2)
    expected = inspect(nn.Sequential(body, nn.AdaptiveAvgPool2d(1)), 32)
    for module in list(body.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):  # a maximum has a gradient at one pixel only
                setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
            elif isinstance(child, (nn.ReLU, nn.BatchNorm2d)):
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.Conv2d):
                nn.init.constant_(child.weight, 1 / child.weight[0].numel())
    body.double()
    size = 256
    x = torch.ones(1, 3, size, size, dtype=torch.double, requires_grad=True)
    out = body(x)
    assert size // out.shape[-1] == expected.stride
    out[0, 0, out.shape[2] // 2, out.shape[3] // 2].backward()
    seen = torch.nonzero(x.grad[0, 0].abs().sum(0)).flatten()
    assert int(seen.max() - seen.min()) + 1 == expected.receptive_field < size


def test_dilation_gates_and_attention() -> None:
    dilated = inspect(timm.create_model("resnet18", output_stride=8), 64)
    # layer3 and layer4 at stride 8; timm dilates a stage's later convolutions, its first ones by the stage before
    assert dilated.stride == 8
    chain = nn.Sequential(nn.Conv2d(3, 1, 3, dilation=2), nn.MaxPool2d(2), nn.Conv2d(1, 1, 3), nn.AvgPool2d(3, 1))
    assert (inspect(chain, 32).receptive_field, inspect(chain, 32).stride) == (5 + 1 + 2 * 2 + 2 * 2, 2)
    # a gate that convolves over the channels of what it has pooled
    eca = nn.Sequential(nn.Conv2d(3, 8, 3), timm.layers.EcaModule(8, kernel_size=5), nn.Conv2d(8, 8, 3))
    assert inspect(eca, 32).receptive_field == 5
    up = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 3))
    assert (inspect(up, 32).receptive_field, inspect(up, 32).stride) == (3 + 2 * 1, 1)
    gated = inspect(timm.create_model("efficientnet_b0"), 64)
    assert gated.receptive_field == 851 and gated.stride == 32  # Araujo et al., Distill 2019: as of its convolutions
    assert math.isinf(inspect(timm.create_model("test_vit"), 64).receptive_field)
    merging = inspect(timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1)), 224)
    assert math.isinf(merging.receptive_field) and merging.stride == 32
    assert "whole image" in inspect(timm.create_model("test_vit"), 64).line(64)


def test_the_model_is_left_as_it_was() -> None:
    model = timm.create_model("test_resnet").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    inspect(model, 32)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    class Looking(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    assert inspect(Looking(), 8) is None, "what looks at values cannot be inspected without them"
