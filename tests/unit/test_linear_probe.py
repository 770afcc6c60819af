"""The linear model of a probe against scikit-learn's on the same features, and the strength that inner parts choose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

from src.training.linear_probe import Loss, choose, fit, nothing, scaling_of, unscaled
from src.training.losses import binary_cross_entropy, cross_entropy, of_numbers

N, D = 240, 12


def features(seed: int = 0) -> Tensor:
    """Of other means and scales each, the last one constant."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, generator=generator) * torch.logspace(-2, 1, D) + torch.linspace(-5, 5, D)
    x[:, -1] = 3.0
    return x


def probed(x: Tensor, y: Tensor, loss: Loss, c: float, width: int) -> Tensor:
    """Logits of the model for features as they are."""
    mean, std = scaling_of(x)
    scaled = (x - mean) / std
    return unscaled(fit(scaled, y, loss, c, nothing(scaled, width)), mean, std)(x)


def by_scale(x: Tensor) -> np.ndarray:
    """As the product has it: what varies less than most does is not stretched."""
    spread = x.numpy().std(axis=0)
    return (x.numpy() - x.numpy().mean(axis=0)) / np.maximum(spread, 0.5 * np.sqrt((spread[:-1] ** 2).mean()))


@pytest.mark.parametrize("c", [1e-2, 1.0])
def test_one_label(c: float) -> None:
    x = features()
    labels = (by_scale(x)[:, -4:-1] + np.random.default_rng(0).normal(size=(N, 3))).argmax(axis=1)
    expected = LogisticRegression(C=c, max_iter=1000, tol=1e-8).fit(by_scale(x), labels)
    logits = probed(x, F.one_hot(torch.from_numpy(labels), 3).float(), cross_entropy, c, 3)
    np.testing.assert_allclose(torch.softmax(logits, 1).numpy(), expected.predict_proba(by_scale(x)), rtol=0, atol=2e-3)


def test_several_labels_have_a_model_each() -> None:
    x = features(1)
    y = by_scale(x)[:, -3:-1] + np.random.default_rng(1).normal(size=(N, 2)) > [0.0, 1.5]
    pred = torch.sigmoid(probed(x, torch.from_numpy(y).float(), binary_cross_entropy, 0.1, 2)).numpy()
    for column in range(2):
        expected = LogisticRegression(C=0.1, max_iter=1000, tol=1e-8).fit(by_scale(x), y[:, column])
        np.testing.assert_allclose(pred[:, column], expected.predict_proba(by_scale(x))[:, 1], rtol=0, atol=2e-3)


def test_numbers_are_a_ridge_regression() -> None:
    x = features(2)
    y = by_scale(x)[:, -2:-1] * 2 + np.random.default_rng(2).normal(size=(N, 1))
    # mean squared error + w²/(2Cn) is least where its sum + w²/(2C) is
    expected = Ridge(alpha=1 / (2 * 0.01)).fit(by_scale(x), y)
    found = probed(x, torch.from_numpy(y).float(), lambda out, wanted: of_numbers("mse", out, wanted), 0.01, 1)
    np.testing.assert_allclose(found.numpy(), expected.predict(by_scale(x)).reshape(N, 1), rtol=0, atol=2e-3)


def test_a_class_without_rows_ends_somewhere_and_disturbs_no_other() -> None:
    x = features(3)
    labels = torch.from_numpy((by_scale(x)[:, -2] > 0).astype(np.int64))
    two, three = (probed(x, F.one_hot(labels, k).float(), cross_entropy, 0.1, k) for k in (2, 3))
    shares = torch.softmax(three, 1)
    assert torch.isfinite(three).all() and shares[:, 2].max() < 0.02
    torch.testing.assert_close(shares[:, :2], torch.softmax(two, 1), rtol=0, atol=0.02)


def test_a_unit_that_hardly_speaks_gets_no_large_weight() -> None:
    """By its own deviation it would count a thousand times as much as the others where it does speak."""
    x = features(5).abs() + 1
    x[:, 0] = 0
    x[3, 0] = 1e-3
    labels = torch.from_numpy((np.arange(N) == 3).astype(np.int64))
    mean, std = scaling_of(x)
    scaled = (x - mean) / std
    weight = unscaled(fit(scaled, F.one_hot(labels, 2).float(), cross_entropy, 1.0, nothing(scaled, 2)), mean, std)[0]
    assert weight[:, 0].abs().max() < 0.01 * weight.abs().max()
    assert (scaling_of(torch.full((4, 2), 7.0))[1] == 1).all(), "nothing varies"


@pytest.mark.parametrize("signal", [True, False])
def test_the_strength_is_that_of_the_least_loss_of_rows_that_are_held_out(signal: bool) -> None:
    """Without a signal the strongest penalty is best; with one, a weaker penalty, where scikit-learn's is least too."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(N, 40)).astype(np.float32)
    labels = (x[:, :3] * (2 if signal else 0) + rng.normal(size=(N, 3))).argmax(axis=1)
    parts = [(np.flatnonzero(np.arange(N) % 4 != i), np.flatnonzero(np.arange(N) % 4 == i)) for i in range(4)]
    strengths = (1e-3, 1e-2, 1e-1, 1.0)

    def loss_at(c: float) -> float:
        logs = []
        for rows, scored in parts:
            model = LogisticRegression(C=c, max_iter=1000, tol=1e-8).fit(x[rows], labels[rows])
            logs += np.log(model.predict_proba(x[scored])[np.arange(len(scored)), labels[scored]]).tolist()
        return -float(np.mean(logs))

    y = F.one_hot(torch.from_numpy(labels), 3).float()
    tensors = [(torch.from_numpy(rows), torch.from_numpy(scored)) for rows, scored in parts]
    found = choose(torch.from_numpy(x), y, cross_entropy, tensors, 3, strengths)
    assert found.c == min(strengths, key=loss_at) and (found.c > 1e-3) is signal
    assert found.loss == pytest.approx(loss_at(found.c), abs=2e-3)
    assert found.held_out.shape == (N, 3)
