"""Grad-CAM against CAM's closed form, a planted patch, and networks of every layout."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from src.model.backbone import build_model
from src.model.grad_cam import grad_cam
from src.model.weights import WeightsSource


def images(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def network(name: str, seed: int = 0, **options: object) -> nn.Module:
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=5, **options)
    nn.init.normal_(model.get_classifier().weight)  # some begin at 0, and have no gradient then
    return model


def test_behind_average_pooling_and_a_linear_classifier_it_is_cam() -> None:
    """There Grad-CAM is CAM (1512.04150): relu(Σ_k w_ck F_k) / (H·W), the weights being the classifier's."""
    model, x = network("test_resnet").train(), images(3, 160)
    model(x)  # BatchNorm's statistics become other than 0 and 1
    labels = torch.tensor([4, 0, 2])
    found = grad_cam(model, x, labels)
    with torch.no_grad():
        features = model.eval().forward_features(x)
        cam = torch.einsum("bk,bkhw->bhw", model.get_classifier().weight[labels], features).relu() / 25
    assert found.shape == (3, 5, 5) and found.max() > 0
    torch.testing.assert_close(found, cam, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, grad_cam(model, x, (labels + 1) % 5), atol=1e-5), "the class decides"


class Reddish(nn.Module):
    """Logit of class 1: the mean of the red channel; of class 0: minus that."""

    feature_info = ({"module": "look", "reduction": 1},)

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        red = self.look(x)[:, 0].mean((1, 2))
        return torch.stack([-red, red], 1)


def test_a_planted_patch_is_the_brightest() -> None:
    x = 0.1 * images(2, 16).abs()
    x[:, 1:] += 5  # brighter all over, in channels that do not count
    x[0, 0, 2:5, 9:12] += 1
    x[1, 0, 10:13, 1:4] += 1
    heat = grad_cam(Reddish(), x, torch.tensor([1, 1]))
    for i, (rows, columns) in enumerate([(slice(2, 5), slice(9, 12)), (slice(10, 13), slice(1, 4))]):
        outside = heat[i].clone()
        outside[rows, columns] = 0
        assert heat[i, rows, columns].min() > 2 * outside.max()
    assert grad_cam(Reddish(), x, torch.tensor([0, 0])).max() == 0, "what speaks against a class does not shine"


@pytest.mark.parametrize(
    ("name", "size", "cells"),
    [
        ("test_resnet", 96, 6),  # of stride 16: layer4 has 3 x 3
        ("test_efficientnet", 128, 4),
        ("test_vit", 160, 10),  # one class token, which alone is pooled
        ("test_vit", 32, 2),  # coarser than one would like, but all there is
        ("swin_tiny_patch4_window7_224", 224, 7),  # (B, H, W, C)
        ("mixer_s32_224", 224, 7),  # tokens only
        ("densenet121", 64, 4),  # activations in place
        ("vgg11_bn", 64, 4),
    ],
)
def test_layouts_and_layers(name: str, size: int, cells: int) -> None:
    options: dict = {"dynamic_img_size": True} if "vit" in name else {}
    options |= {"depths": (1, 1, 1, 1)} if "swin" in name else {}
    heat = grad_cam(network(name, **options), images(2, size), torch.tensor([1, 3]))
    assert heat.shape == (2, cells, cells) and heat.dtype == torch.float32
    assert heat.isfinite().all() and heat.min() >= 0 and heat.max() > 0


def test_tokens_lie_row_by_row() -> None:
    """Behind tokens (B, N, C) with a class token in front, a patch is found where it is."""

    class Tokens(Reddish):
        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(2).transpose(1, 2)
            tokens = self.look(torch.cat([100 * torch.ones_like(tokens[:, :1]), tokens], 1))
            return torch.stack([-tokens[:, 1:, 0].mean(1), tokens[:, 1:, 0].mean(1)], 1)

    x = torch.zeros(1, 3, 8, 8)
    x[0, 0, 2, 5] = 1
    heat = grad_cam(Tokens(), x, torch.tensor([1]))
    assert heat.shape == (1, 8, 8) and heat.argmax() == 2 * 8 + 5


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(training: bool) -> None:
    model, x = network("test_resnet", drop_rate=0.5).train(training), images(2, 64)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first = grad_cam(model, x, torch.tensor([0, 1]))
    assert model.training is training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert x.grad is None and not x.requires_grad
    with torch.no_grad():  # where it is called from, and with frozen layers
        assert torch.equal(grad_cam(model.requires_grad_(False), x, torch.tensor([0, 1])), first)


def test_exchanged_layers() -> None:
    keys: dict = {"pool": "gem", "head": "arcface", "activation": "prelu"}
    model, _ = build_model("test_resnet", 3, WeightsSource("scratch"), **keys)
    assert grad_cam(model, images(2, 128), torch.tensor([0, 2])).shape == (2, 4, 4)


def test_networks_without_maps_are_refused() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    with pytest.raises(ValueError, match="no feature map"):
        grad_cam(flat, images(1, 8), torch.tensor([0]))
    flat.feature_info = [{"module": "0", "reduction": 1}]
    with pytest.raises(ValueError, match="no feature map"):
        grad_cam(flat, images(1, 8), torch.tensor([0]))
