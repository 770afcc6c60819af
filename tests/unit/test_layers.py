"""Exchanged activation, pooling, classifier and initialisation against formulas, torch and timm."""

from __future__ import annotations

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from src.errors import UserError
from src.model.backbone import build_model
from src.model.layers import ACTIVATIONS, CosineHead, GeM, initialise, swap_activation, without_classifier
from src.model.weights import WeightsSource
from src.training.losses import add_margin, cross_entropy, soft_targets

SCRATCH = WeightsSource("scratch")


def test_defaults_are_timms_network() -> None:
    model, _ = build_model("test_resnet", 3, SCRATCH, seed=4)
    torch.manual_seed(4)
    expected = timm.create_model("test_resnet", num_classes=3).state_dict()
    own = model.state_dict()
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("prelu", lambda x: torch.where(x > 0, x, 0.25 * x)),
        ("leaky_relu", lambda x: torch.where(x > 0, x, 0.01 * x)),
        ("silu", lambda x: x * x.sigmoid()),
        ("swish", lambda x: x * x.sigmoid()),
        ("gelu", lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5))),
        ("mish", lambda x: x * (1 + x.exp()).log().tanh()),
        ("hardswish", lambda x: x * ((x + 3).clamp(0, 6) / 6)),
        ("relu6", lambda x: x.clamp(0, 6)),
    ],
)
def test_activations_by_their_formulas(name: str, function) -> None:
    x = torch.linspace(-8, 8, 101)
    torch_own = nn.Sequential(nn.GELU(), nn.Sigmoid(), nn.Sequential(nn.ReLU(inplace=True)))
    assert swap_activation(torch_own, name) == ["0", "2.0"]
    torch.testing.assert_close(torch_own[0](x), function(x), atol=1e-6, rtol=1e-5)
    assert isinstance(torch_own[1], nn.Sigmoid), "a gate stays"


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_efficientnet", "convnext_atto"])
def test_every_activation_goes_into_any_backbone(backbone: str) -> None:
    for name in ACTIVATIONS if backbone == "test_resnet" else ("prelu", "mish"):
        model, _ = build_model(backbone, 2, SCRATCH, activation=name)
        kind = type(timm.layers.get_act_layer(name)())
        assert sum(type(module) is kind for module in model.modules()) >= 2
        assert not any(
            type(module) in (nn.ReLU, nn.GELU, nn.SiLU) and type(module) is not kind for module in model.modules()
        )
    model.train()(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))).sum().backward()


def test_swapped_relu_is_the_network_itself() -> None:
    """ReLU for ReLU changes nothing, and PReLU with slope 0 is ReLU."""
    plain, same, prelu = (
        build_model("test_resnet", 2, SCRATCH, activation=name)[0] for name in (None, "relu", "prelu")
    )
    for module in prelu.modules():
        if isinstance(module, nn.PReLU):
            module.weight.data.zero_()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for other in (same, prelu):
        torch.testing.assert_close(other.eval()(x), plain.eval()(x))


def test_prelu_takes_the_pretrained_weights_and_its_own(tmp_path) -> None:
    plain = timm.create_model("test_resnet", num_classes=2)
    torch.save(plain.state_dict(), tmp_path / "w.pth")
    first, _ = build_model("test_resnet", 2, WeightsSource("file", tmp_path / "w.pth"), activation="prelu", pool="gem")
    assert all(torch.equal(first.state_dict()[key], value) for key, value in plain.state_dict().items())
    slopes = [name for name, module in first.named_modules() if isinstance(module, nn.PReLU)]
    first.get_submodule(slopes[0]).weight.data.fill_(0.7)
    first.get_submodule("global_pool.pool").p.data.fill_(2.5)
    torch.save(first.state_dict(), tmp_path / "trained.pth")
    source = WeightsSource("file", tmp_path / "trained.pth")
    again = build_model("test_resnet", 2, source, activation="prelu", pool="gem", seed=9)[0].state_dict()
    assert all(torch.equal(again[key], value) for key, value in first.state_dict().items())


def test_unknown_activation() -> None:
    with pytest.raises(UserError, match=r"model.activation=mesh: .*did you mean 'mish'"):
        build_model("test_resnet", 2, SCRATCH, activation="mesh")
    with pytest.raises(UserError, match="no activation modules"):
        swap_activation(nn.Sequential(nn.Linear(2, 2)), "relu")


@pytest.mark.parametrize("flatten", [True, False])
def test_gem_by_a_loop(flatten: bool) -> None:
    x = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    gem = GeM(3.0, flatten)
    out = gem(x)
    assert out.shape == ((2, 3) if flatten else (2, 3, 1, 1))
    for b in range(2):
        for c in range(3):
            expected = (sum(v**3 for v in x[b, c].flatten().tolist()) / 20) ** (1 / 3)
            assert out[b, c].item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(GeM(1.0)(x), x.mean((2, 3)))
    torch.testing.assert_close(GeM(200.0)(x), x.amax((2, 3)), rtol=0.02, atol=0)
    out.sum().backward()
    assert gem.p.grad.abs() > 0
    half = GeM()(torch.full((1, 1, 2, 2), 60.0, dtype=torch.float16))
    assert half.dtype == torch.float16 and half.item() == pytest.approx(60, rel=1e-2)


@pytest.mark.parametrize(
    ("pool", "reference"),
    [
        ("avg", lambda x: x.mean((2, 3))),
        ("max", lambda x: x.amax((2, 3))),
        ("avgmax", lambda x: (x.mean((2, 3)) + x.amax((2, 3))) / 2),
        ("catavgmax", lambda x: torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)),
        ("gem", lambda x: x.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)),
    ],
)
def test_pooling_reaches_head_and_features(pool: str, reference) -> None:
    model, _ = build_model("test_resnet", 5, SCRATCH, pool=pool)
    model.eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = reference(model.forward_features(x))
        torch.testing.assert_close(model(x), model.fc(features))
        if pool == "gem":
            model.global_pool.pool.p.fill_(2.0)
            features = model.forward_features(x).clamp(min=1e-6).pow(2).mean((2, 3)).sqrt()
        without_classifier(model)
        torch.testing.assert_close(model(x), features)


def test_gem_where_the_norm_comes_after_the_pool_or_there_is_none() -> None:
    model, _ = build_model("convnext_atto", 5, SCRATCH, pool="gem")
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    without_classifier(model)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 320)
    for name, pool in (("test_vit", "gem"), ("swin_tiny_patch4_window7_224", "gem"), ("test_vit", "catavgmax")):
        with pytest.raises(UserError, match=f"model.pool={pool}"):
            build_model(name, 5, SCRATCH, pool=pool)


@pytest.mark.parametrize("subcentres", [1, 3])
def test_cosine_head_by_a_loop(subcentres: int) -> None:
    generator = torch.Generator().manual_seed(0)
    head = CosineHead(6, 4, 20.0, subcentres)
    x = torch.randn(5, 6, generator=generator)
    for b, row in enumerate(head(x).tolist()):
        for k, logit in enumerate(row):
            centres = head.weight[k * subcentres : (k + 1) * subcentres]
            assert logit == pytest.approx(
                20 * max(F.cosine_similarity(x[b], c, dim=0).item() for c in centres), abs=1e-4
            )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(head(x), head(x.float()))
        assert head(x).dtype == torch.float32


def test_margin_head_is_in_the_network() -> None:
    model, _ = build_model("test_resnet", 4, SCRATCH, head="arcface", scale=20.0, subcentres=2)
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert isinstance(model.fc, CosineHead) and model(x).shape == (3, 4)
    assert model(x).abs().max() <= 20 + 1e-4
    without_classifier(model)
    assert model(x).ndim == 2
    with pytest.raises(UserError, match=r"model.head.*one linear layer"):
        build_model("levit_128s", 4, SCRATCH, head="arcface")


@pytest.mark.parametrize("kind", ["cosface", "arcface"])
@pytest.mark.parametrize("margin", [0.0, 0.3, 0.5])
def test_margins_by_the_formulas(kind: str, margin: float) -> None:
    """Of every angle from 0 to π with the target class: past θ + m = π the logit goes on falling."""
    angles = torch.linspace(0, math.pi, 41)
    logits = 30 * torch.stack([angles.cos(), torch.full_like(angles, 0.2)], 1)
    found = add_margin(
        logits, F.one_hot(torch.zeros(41, dtype=torch.long), 2).float(), kind=kind, margin=margin, scale=30
    )
    for theta, logit in zip(angles.tolist(), found[:, 0].tolist(), strict=True):
        if kind == "cosface":
            expected = math.cos(theta) - margin
        elif theta + margin < math.pi:
            expected = math.cos(theta + margin)
        else:
            expected = math.cos(theta) - margin * math.sin(margin)
        assert logit == pytest.approx(30 * expected, abs=0.02)
    torch.testing.assert_close(found[:, 1], logits[:, 1])
    if kind == "arcface" and margin:
        assert (found[:, 0].diff() < 1e-3).all(), "never easier for a larger angle"


@pytest.mark.parametrize("kind", ["cosface", "arcface"])
def test_margins_of_soft_targets(kind: str) -> None:
    cosine = torch.tensor([[0.5, -0.2, 0.1]])
    targets = torch.tensor([[0.7, 0.3, 0.0]])
    found = add_margin(30 * cosine, targets, kind=kind, margin=0.4, scale=30)[0].tolist()
    for value, c, y in zip(found, cosine[0].tolist(), targets[0].tolist(), strict=True):
        expected = c - 0.4 * y if kind == "cosface" else math.cos(math.acos(c) + 0.4 * y)
        assert value == pytest.approx(30 * expected, abs=1e-3)
    extreme = torch.tensor([[30.0, -30.0], [-30.0, 30.0]], requires_grad=True)
    cross_entropy(add_margin(extreme, torch.eye(2), kind=kind, margin=0.4, scale=30), torch.eye(2)).backward()
    assert torch.isfinite(extreme.grad).all()


def test_arcface_separates_what_it_learns() -> None:
    """Trained with the margin, the angle to the own class is smaller than without, where cross-entropy is content."""
    gaps = []
    for margin in (0.0, 0.5):
        torch.manual_seed(0)
        x, labels = torch.randn(30, 8), torch.arange(3).repeat(10)
        body, head = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)), CosineHead(4, 3, 10.0)
        optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=0.01)
        targets = soft_targets(labels, 3)
        for _ in range(200):
            logits = add_margin(head(body(x)), targets, kind="arcface", margin=margin, scale=10.0)
            optimizer.zero_grad()
            cross_entropy(logits, targets).backward()
            optimizer.step()
        gaps.append(float((head(body(x)) / 10)[torch.arange(30), labels].mean().detach()))
    assert gaps[1] > gaps[0]


@pytest.mark.parametrize("kind", ["he", "xavier"])
def test_initial_weights(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(16, 64, 3, padding=1), nn.BatchNorm2d(64), nn.Conv2d(64, 64, 3, groups=64), nn.Linear(300, 100)
    )
    model[1].weight.data.zero_()
    initialise(model, kind)
    for layer, fan_in, fan_out in ((model[0], 16 * 9, 64 * 9), (model[2], 9, 64 * 9), (model[3], 300, 100)):
        weights = layer.weight.detach()
        std = math.sqrt(2 / fan_in if kind == "he" else 2 / (fan_in + fan_out))
        assert weights.mean().abs() < 4 * std / math.sqrt(weights.numel())
        assert weights.std().item() == pytest.approx(std, rel=0.1)
        if kind == "xavier":  # uniform: nothing beyond the bound
            assert weights.abs().max() <= math.sqrt(6 / (fan_in + fan_out))
        else:
            assert weights.abs().max() > 2.5 * std
        assert not layer.bias.any()
    assert not model[1].weight.any(), "zero-gamma stays"


def test_init_is_for_what_starts_from_scratch(tmp_path) -> None:
    plain, drawn, again = (
        build_model("test_resnet", 3, SCRATCH, init=kind)[0] for kind in ("default", "xavier", "xavier")
    )
    assert not torch.equal(plain.conv1[0].weight, drawn.conv1[0].weight)
    assert torch.equal(again.conv1[0].weight, drawn.conv1[0].weight)
    torch.save(plain.state_dict(), tmp_path / "w.pth")
    loaded, _ = build_model("test_resnet", 3, WeightsSource("file", tmp_path / "w.pth"), init="xavier", seed=5)
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "regnetx_002"])
@pytest.mark.parametrize("stride", [8, 16])
def test_output_stride_is_that_of_the_feature_map(name: str, stride: int) -> None:
    model, _ = build_model(name, 2, SCRATCH, output_stride=stride)
    with torch.no_grad():
        features = model.eval().forward_features(torch.zeros(1, 3, 64, 64))
    assert features.shape[-2:] == (64 // stride, 64 // stride)


def test_output_stride_where_the_model_has_none() -> None:
    for name in ("test_vit", "vgg11", "mobilenetv3_small_100", "swin_tiny_patch4_window7_224", "densenet121"):
        with pytest.raises(UserError, match=f"model.output_stride=16: {name} does not take"):
            build_model(name, 2, SCRATCH, output_stride=16)
