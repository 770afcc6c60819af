"""Exchanged convolutions: counts by hand, ACNet fused against the branches, ResNet's variants against the paper."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from src.errors import UserError
from src.model.backbone import build_model
from src.model.convolutions import AsymmetricConv, fused, move_stride_first, use_acnet, use_separable
from src.model.report import inspect
from src.model.weights import WeightsSource

SCRATCH = WeightsSource("scratch")


def small(norm: bool = True) -> nn.Sequential:
    """Stem 3 -> 4, then a strided 3x3 4 -> 6 and a dilated 3x3 6 -> 8."""
    torch.manual_seed(0)
    convs = [
        nn.Conv2d(3, 4, 3, padding=1, bias=not norm),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=not norm),
        nn.Conv2d(6, 8, 3, padding=2, dilation=2, bias=not norm),
    ]
    layers = [[conv, *([nn.BatchNorm2d(conv.out_channels)] if norm else []), nn.ReLU(inplace=True)] for conv in convs]
    return nn.Sequential(*[layer for group in layers for layer in group], nn.AdaptiveAvgPool2d(1), nn.Flatten())


def learn(model: nn.Module, steps: int = 30) -> tuple[float, float]:
    """First and last loss of a few steps of SGD on 16 random images with labels from a fixed set of their pixels."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 3, 16, 16, generator=generator)
    y = (x[:, :, :8].mean((1, 2, 3)) > x[:, :, 8:].mean((1, 2, 3))).long()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    model.train()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


def stir(model: nn.Module) -> None:
    """Random statistics and affine weights in every BatchNorm, as if it had been trained."""
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.running_mean, -1.0), (module.running_var, 0.3), (module.weight, 0.5)):
                tensor.data.uniform_(low, 2.0, generator=generator)
            module.bias.data.uniform_(-1, 1, generator=generator)


@pytest.mark.parametrize("width", [1, 2])
def test_separable_counts_by_hand(width: int) -> None:
    model = small()
    before = inspect(model, 16)
    use_separable(model, width)
    after = inspect(model, 16)
    # weights i·o·9 -> width·i·(9 + o); multiply-adds: times the pixels of the output, 8 x 8 behind the stride
    assert before.parameters - after.parameters == (4 * 6 * 9 + 6 * 8 * 9) - width * (4 * (9 + 6) + 6 * (9 + 8))
    assert before.macs == 16 * 16 * 3 * 4 * 9 + 8 * 8 * (4 * 6 * 9 + 6 * 8 * 9)
    assert after.macs == 16 * 16 * 3 * 4 * 9 + 8 * 8 * width * (4 * (9 + 6) + 6 * (9 + 8))
    assert (after.receptive_field, after.stride) == (before.receptive_field, before.stride)
    assert type(model[0]) is nn.Conv2d, "the stem stays"
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 8)


def test_separable_resnet_by_hand_and_learns() -> None:
    plain, _ = build_model("resnet18", 2, SCRATCH)
    model, _ = build_model("resnet18", 2, SCRATCH, separable=True)
    # 3x3 convolutions (in, out) of resnet18 behind the 7x7 stem
    shapes = [(64, 64)] * 4
    for c in (64, 128, 256):
        shapes += [(c, 2 * c)] + [(2 * c, 2 * c)] * 3
    saved = sum(9 * i * o - i * (9 + o) for i, o in shapes)
    count = [sum(p.numel() for p in net.parameters()) for net in (plain, model)]
    assert count[0] - count[1] == saved
    small_one, _ = build_model("test_resnet", 2, SCRATCH, separable=True)
    first, last = learn(small_one)
    assert last < 0.5 * first


def test_separable_has_to_find_something() -> None:
    with pytest.raises(UserError, match="no regular 3x3"):
        build_model("test_vit", 2, SCRATCH, separable=True)


@pytest.mark.parametrize("norm", [True, False])
def test_fused_acnet_is_the_network_in_eval_mode(norm: bool) -> None:
    model = small(norm)
    use_acnet(model, torch.zeros(1, 3, 16, 16))
    blocks = [module for module in model.modules() if isinstance(module, AsymmetricConv)]
    assert len(blocks) == 3
    stir(model)
    model.eval()
    x = torch.randn(2, 3, 17, 16, generator=torch.Generator().manual_seed(3))
    plain = fused(model)
    torch.testing.assert_close(plain(x), model(x), rtol=1e-5, atol=1e-5)
    assert set(plain.state_dict()) == set(small(norm).state_dict())
    assert isinstance(model[0], AsymmetricConv), "the network that trains is left as it was"
    assert fused(plain) is plain


def test_the_thin_branches_are_the_rows_and_columns_of_a_3x3() -> None:
    """Against one 3x3 convolution whose other weights are zero, with stride and dilation, and BatchNorm alone."""
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, stride=2, padding=2, dilation=2, bias=False)
    block = AsymmetricConv(conv, None)
    x = torch.randn(2, 2, 9, 8)
    row, column = (nn.functional.conv2d(x, kernel, stride=2, padding=2, dilation=2) for kernel in (
        torch.stack([torch.zeros(3, 2, 3), block.row.weight[:, :, 0].detach(), torch.zeros(3, 2, 3)], dim=2),
        torch.stack([torch.zeros(3, 2, 3), block.column.weight[:, :, :, 0].detach(), torch.zeros(3, 2, 3)], dim=3),
    ))  # fmt: skip
    torch.testing.assert_close(block.row(x), row)
    torch.testing.assert_close(block.column(x), column)
    block.train()

    def normalised(y: torch.Tensor) -> torch.Tensor:
        return (y - y.mean((0, 2, 3), keepdim=True)) / (y.var((0, 2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()

    torch.testing.assert_close(block(x), sum(normalised(each) for each in (conv(x), row, column)))


@pytest.mark.parametrize("name", ["test_resnet", "resnetv2_18", "test_efficientnet"])
def test_acnet_of_timms_networks_saves_into_the_plain_network(name: str) -> None:
    torch.manual_seed(0)
    model, _ = build_model(name, 3, SCRATCH, acnet=True)
    stir(model)
    plain = timm.create_model(name, num_classes=3)
    plain.load_state_dict(fused(model).state_dict())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = model.eval()(x)
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(
            plain.eval()(x) / expected.abs().max(), expected / expected.abs().max(), atol=1e-5, rtol=0
        )


def test_acnet_takes_only_convolutions_whose_bias_has_a_place() -> None:
    class Pre(nn.Module):
        """One output goes to its norm by way of an activation in place, one to a sum, one to its norm."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(3))
            self.norm_a, self.norm_b, self.norm_c = (nn.BatchNorm2d(3) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm_a(self.a(x).relu_())
            x = self.norm_b(self.b(x) + x)
            return self.norm_c(self.c(x)).mean((2, 3))

    model = Pre()
    use_acnet(model, torch.zeros(1, 3, 8, 8))
    assert [name for name, module in model.named_modules() if isinstance(module, AsymmetricConv)] == ["c"]
    with pytest.raises(UserError, match="acnet"):
        build_model("test_vit", 2, SCRATCH, acnet=True)


def test_acnet_starts_as_the_pretrained_network(tmp_path) -> None:
    plain = timm.create_model("test_resnet", num_classes=3)
    stir(plain)
    torch.save(plain.state_dict(), tmp_path / "w.pth")
    model, _ = build_model("test_resnet", 3, WeightsSource("file", tmp_path / "w.pth"), acnet=True)
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    # the branch's own norm divides by sqrt(1 + 1e-5) at first
    torch.testing.assert_close(model.eval()(x), plain.eval()(x), rtol=1e-3, atol=1e-3)
    scratch, _ = build_model("test_resnet", 2, SCRATCH, acnet=True)
    first, last = learn(scratch)
    assert last < 0.5 * first


@pytest.mark.parametrize(
    ("name", "stride_first", "parameters", "gigaflops"),
    [
        # Bag of Tricks, table 5: ResNet-50, -B, -C, -D. Their counts in millions are 25 each, cut off.
        ("resnet50", True, 25, 3.8),
        ("resnet50", False, 25, 4.1),
        ("resnet50c", False, 25, 4.3),
        ("resnet50d", False, 25, 4.3),
    ],
)
def test_resnet_b_c_d_are_those_of_the_paper(name: str, stride_first: bool, parameters: int, gigaflops: float) -> None:
    model, _ = build_model(name, 1000, SCRATCH, stride_first=stride_first)
    report = inspect(model, 224)
    assert report.parameters // 10**6 == parameters
    assert report.macs / 1e9 == pytest.approx(gigaflops, abs=0.07)


def test_stride_first_is_resnet_v1() -> None:
    """The convolutions of the first block of layer2, by hand; the same weights as ResNet-B."""
    plain, _ = build_model("resnet50", 2, SCRATCH)
    model, _ = build_model("resnet50", 2, SCRATCH, stride_first=True)
    assert (plain.layer2[0].conv1.stride, plain.layer2[0].conv2.stride) == ((1, 1), (2, 2))
    assert (model.layer2[0].conv1.stride, model.layer2[0].conv2.stride) == ((2, 2), (1, 1))
    one, other = plain.state_dict(), model.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one) and one.keys() == other.keys()
    saved = inspect(plain, 64).macs - inspect(model, 64).macs
    # at 64 px layer1 is 16 px wide: the 1x1 of layer2's first block runs at 8 instead of 16 px, and so on
    assert saved == sum(3 * (wide // 2) ** 2 * i * o for wide, i, o in ((16, 256, 128), (8, 512, 256), (4, 1024, 512)))
    with pytest.raises(UserError, match="bottlenecks"):
        move_stride_first(timm.create_model("resnet18"))
