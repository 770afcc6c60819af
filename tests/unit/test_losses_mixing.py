"""Soft targets, the loss, mixup and CutMix against formulas, torch and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from src.training.losses import balanced_weights, cross_entropy, make_loss, soft_targets
from src.training.mixing import Mix, apply_mix, draw_mix


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_soft_targets_by_the_formulas(classes: int, smoothing: float) -> None:
    labels = torch.arange(classes).repeat(2)
    others, everywhere = (soft_targets(labels, classes, smoothing, kind) for kind in ("others", "all"))
    for row, label in enumerate(labels.tolist()):
        for k in range(classes):
            hit = k == label
            assert others[row, k] == pytest.approx(1 - smoothing if hit else smoothing / (classes - 1))
            assert everywhere[row, k] == pytest.approx((1 - smoothing) * hit + smoothing / classes)
    for targets in (others, everywhere):
        assert targets.dtype == torch.float32 and targets.shape == (2 * classes, classes)
        torch.testing.assert_close(targets.sum(1), torch.ones(2 * classes))


def test_one_class_alone() -> None:
    assert soft_targets(torch.zeros(3, dtype=torch.long), 1).tolist() == [[1.0]] * 3


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothing_over_all_is_torchs(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(16, 7, generator=generator), torch.randint(7, (16,), generator=generator)
    mine = cross_entropy(logits, soft_targets(labels, 7, smoothing, "all"))
    torch.testing.assert_close(mine, F.cross_entropy(logits, labels, label_smoothing=smoothing))


def test_both_kinds_agree_at_the_converted_epsilon() -> None:
    """ε/(K-1) on the others is torch's smoothing with ε·K/(K-1)."""
    labels = torch.tensor([0, 3, 2])
    torch.testing.assert_close(soft_targets(labels, 5, 0.1, "others"), soft_targets(labels, 5, 0.1 * 5 / 4, "all"))


def test_cross_entropy_of_soft_targets_is_torchs() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 20 * torch.randn(32, 5, generator=generator)
    targets = torch.rand(32, 5, generator=generator).softmax(1)
    mine, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = cross_entropy(mine, targets)
    reference = F.cross_entropy(theirs, targets)
    torch.testing.assert_close(loss, reference)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def random_batch(classes: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, soft targets and class weights."""
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(16, classes, generator=generator)
    return (
        logits,
        torch.rand(16, classes, generator=generator).softmax(1),
        torch.rand(classes, generator=generator) + 0.5,
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_focal_by_the_formula(gamma: float, weighted: bool) -> None:
    logits, targets, weights = random_batch()
    weights = weights if weighted else torch.ones(5)
    expected = 0.0
    for row in range(16):
        exps = [math.exp(value) for value in logits[row].tolist()]
        for k in range(5):
            p = exps[k] / sum(exps)
            expected -= float(weights[k] * targets[row, k]) * (1 - p) ** gamma * math.log(p) / 16
    loss = make_loss("focal", gamma, weights if weighted else None)
    assert float(loss(logits, targets)) == pytest.approx(expected, rel=1e-5)


def test_focal_of_two_classes_is_torchvisions() -> None:
    """Softmax over (0, z) is the sigmoid of z; torchvision's is the paper's own formula, for sigmoids."""
    from torchvision.ops import sigmoid_focal_loss

    z, labels = torch.linspace(-6, 6, 25), torch.arange(25) % 2
    mine = make_loss("focal", 2.0)(torch.stack([torch.zeros(25), z], 1), soft_targets(labels, 2))
    torch.testing.assert_close(mine, sigmoid_focal_loss(z, labels.float(), alpha=-1, gamma=2.0, reduction="mean"))


def test_focal_has_a_gradient_where_the_network_is_sure() -> None:
    logits = torch.tensor([[60.0, -60.0], [-60.0, 60.0]], requires_grad=True)
    make_loss("focal", 0.5)(logits, soft_targets(torch.tensor([0, 0]), 2)).backward()
    assert torch.isfinite(logits.grad).all() and logits.grad[1].abs().min() > 0.1


def test_weighted_cross_entropy_is_torchs() -> None:
    logits, targets, weights = random_batch()
    mine = make_loss("cross_entropy", weights=weights)(logits, targets)
    torch.testing.assert_close(mine, F.cross_entropy(logits, targets, weight=weights))
    torch.testing.assert_close(make_loss("cross_entropy")(logits, targets), F.cross_entropy(logits, targets))


@pytest.mark.parametrize("weighted", [False, True])
def test_bce_by_the_formula(weighted: bool) -> None:
    logits, targets, weights = random_batch()
    weights = weights if weighted else torch.ones(5)
    p = 1 / (1 + (-logits.double()).exp())
    expected = -(weights * targets * p.log() + (1 - targets) * (1 - p).log()).sum() / 16
    mine = make_loss("bce", weights=weights if weighted else None)(logits, targets)
    assert float(mine) == pytest.approx(float(expected), rel=1e-5)


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.repeat([0, 1, 2, 4], [70, 20, 9, 1])
    found = balanced_weights(labels, 6)
    theirs = compute_class_weight("balanced", classes=np.array([0, 1, 2, 4]), y=labels)
    np.testing.assert_allclose(found[[0, 1, 2, 4]], theirs, rtol=1e-6)
    assert found[[3, 5]].tolist() == [0, 0] and found.dtype == np.float32


def test_cross_entropy_is_computed_in_fp32() -> None:
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(2))
    targets = soft_targets(torch.arange(4), 7)
    for precision in (torch.bfloat16, torch.float16):
        rounded = logits.to(precision)
        loss = cross_entropy(rounded, targets)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, F.cross_entropy(rounded.float(), targets))
    huge = torch.tensor([[30000.0, -30000.0]], dtype=torch.float16)
    assert cross_entropy(huge, torch.tensor([[0.0, 1.0]])) == 60000


# ---- mixing ---------------------------------------------------------------------------------------------------------


def batch(count: int = 6, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, size, size, generator=generator).contiguous(memory_format=torch.channels_last)
    return x, soft_targets(torch.arange(count) % 4, 4, 0.1)


def draws(count: int, size: int = 32, seed: int = 0, **how: float) -> list[Mix | None]:
    return [
        draw_mix(np.random.default_rng((seed, i)), 8, size, **{"mixup": 0.0, "cutmix": 0.0} | how) for i in range(count)
    ]


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_mixup_against_a_loop(lam: float) -> None:
    x, y = batch()
    before = x.clone(), y.clone()
    partner = np.array([3, 0, 2, 5, 4, 1])
    mixed, targets = apply_mix(x, y, Mix("mixup", lam, partner))
    for i in range(6):
        torch.testing.assert_close(mixed[i], lam * x[i] + (1 - lam) * x[partner[i]])
        torch.testing.assert_close(targets[i], lam * y[i] + (1 - lam) * y[partner[i]])
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])
    assert mixed.is_contiguous(memory_format=torch.channels_last)


def test_cutmix_against_a_loop() -> None:
    x, y = batch()
    before = x.clone()
    for seed in range(20):
        mix = draw_mix(np.random.default_rng(seed), 6, 8, 0.0, 1.0)
        mixed, targets = apply_mix(x, y, mix)
        top, left, bottom, right = mix.box
        for i in range(6):
            taken = 0
            for row in range(8):
                for column in range(8):
                    inside = top <= row < bottom and left <= column < right
                    taken += inside
                    source = x[mix.partner[i]] if inside else x[i]
                    assert torch.equal(mixed[i, :, row, column], source[:, row, column])
            own = 1 - taken / 64
            torch.testing.assert_close(targets[i], own * y[i] + (1 - own) * y[mix.partner[i]])
    assert torch.equal(x, before)  # the batch itself is left alone
    assert mixed.is_contiguous(memory_format=torch.channels_last)


def test_nothing_to_mix() -> None:
    x, y = batch()
    same_x, same_y = apply_mix(x, y, None)
    assert same_x is x and same_y is y
    assert draws(5) == [None] * 5
    assert draws(5, mixup=0.2, probability=0.0) == [None] * 5


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_targets_sum_to_1(kind: str) -> None:
    x, y = batch(8, 16)
    for mix in draws(20, 16, **{kind: 0.4}):
        assert mix.kind == kind
        torch.testing.assert_close(apply_mix(x, y, mix)[1].sum(1), torch.ones(8))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_lambda_is_beta(alpha: float) -> None:
    import scipy.stats

    lams = [mix.lam for mix in draws(3000, mixup=alpha)]
    assert scipy.stats.kstest(lams, scipy.stats.beta(alpha, alpha).cdf).pvalue > 0.001


def test_partners_are_a_permutation_and_vary() -> None:
    for mix in (*draws(50, mixup=1.0), *draws(50, cutmix=1.0)):
        assert sorted(mix.partner) == list(range(8))
    assert len({tuple(mix.partner) for mix in draws(50, mixup=1.0)}) > 40


@pytest.mark.parametrize("size", [8, 33, 224])
def test_cutmix_box_is_inside_and_lambda_is_what_is_left(size: int) -> None:
    for mix in draws(500, size, cutmix=1.0):
        top, left, bottom, right = mix.box
        assert 0 <= top <= bottom <= size and 0 <= left <= right <= size
        assert mix.lam == pytest.approx(1 - (bottom - top) * (right - left) / size**2)


def test_cutmix_box_area_follows_beta() -> None:
    """Boxes that the border did not cut are squares of area 1 - λ: with a huge alpha λ is one half."""
    size = 200
    sides = [
        (bottom - top, right - left)
        for mix in draws(600, size, cutmix=1e7)
        for top, left, bottom, right in [mix.box]
        if top > 0 and left > 0 and bottom < size and right < size
    ]
    assert len(sides) > 20
    np.testing.assert_allclose(sides, 0.5**0.5 * size, atol=1.01)
    # and for alpha 1 the area is uniform, which the border can only make smaller
    areas = [1 - mix.lam for mix in draws(2000, size, cutmix=1.0)]
    for share in (0.2, 0.5, 0.8):
        assert np.quantile(areas, share) <= share + 0.03
    assert np.mean(areas) > 0.25


def test_cutmix_centres_are_everywhere() -> None:
    size = 64
    covered = np.zeros((size, size))
    for mix in draws(400, size, cutmix=1.0):
        top, left, bottom, right = mix.box
        covered[top:bottom, left:right] += 1
    assert covered.min() > 0  # corners included
    assert np.abs(covered - covered.T).mean() < 0.15 * covered.mean()


def test_shares_of_batches() -> None:
    kinds = [None if mix is None else mix.kind for mix in draws(3000, mixup=0.2, cutmix=1.0, probability=0.6)]
    shares = {kind: kinds.count(kind) / 3000 for kind in (None, "mixup", "cutmix")}
    assert shares == pytest.approx({None: 0.4, "mixup": 0.3, "cutmix": 0.3}, abs=0.04)


def test_same_seed_same_mix() -> None:
    one, two = draws(10, mixup=0.2, cutmix=1.0), draws(10, mixup=0.2, cutmix=1.0)
    for a, b in zip(one, two, strict=True):
        assert (a.kind, a.lam, a.box, a.partner.tolist()) == (b.kind, b.lam, b.box, b.partner.tolist())
