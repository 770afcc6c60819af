"""The distillation loss and the teacher network, against the formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from src.data.spec import Normalisation
from src.model.ensemble import Ensemble
from src.training.losses import cross_entropy, matching, softened

SAME = Normalisation((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def distillation(logits: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    return matching(logits, softened(teacher, temperature), temperature)


def softmax(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in logits]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("temperature", [1.0, 5.0, 20.0])
def test_distillation_is_the_formula(temperature: float) -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 3, (4, 5)), rng.normal(0, 3, (4, 5))
    rows = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        rows.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    expected = temperature**2 * sum(rows) / len(rows)
    found = distillation(torch.tensor(student), torch.tensor(teacher), temperature)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    # log-probabilities say the same as logits
    again = distillation(torch.tensor(student), torch.log_softmax(torch.tensor(teacher), 1), temperature)
    assert float(again) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_T_times_the_difference_of_the_softened_probabilities() -> None:
    student = torch.randn(3, 4, generator=torch.manual_seed(0)).requires_grad_()
    teacher = torch.randn(3, 4, generator=torch.manual_seed(1))
    distillation(student, teacher, 5.0).backward()
    expected = 5.0 * (torch.softmax(student / 5, 1) - torch.softmax(teacher / 5, 1)) / 3
    torch.testing.assert_close(student.grad, expected.detach())


def test_hot_it_is_half_the_squared_distance_of_centred_logits() -> None:
    """T -> infinity: T²·KL -> |z - v|²/(2C) for centred logits (Hinton et al., section 2.1)."""
    student, teacher = torch.randn(2, 6, generator=torch.manual_seed(2)), torch.randn(2, 6)
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    expected = centred.square().sum(1).mean() / (2 * 6)
    torch.testing.assert_close(distillation(student, teacher, 100.0), expected, rtol=2e-2, atol=0)


def test_temperature_1_of_a_hard_teacher_is_the_cross_entropy() -> None:
    student, hard = torch.randn(3, 4), torch.eye(4)[[0, 2, 1]]
    found = distillation(student, hard.clamp(min=1e-12).log(), 1.0)
    torch.testing.assert_close(found, cross_entropy(student, hard), rtol=1e-4, atol=1e-5)


class Means(nn.Module):
    """Logits that are the mean colour and the size of what it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.mean((2, 3)), torch.full((len(x), 1), x.shape[-1] / 100)], dim=1)


@pytest.mark.parametrize("kind", ["mean", "geometric"])
def test_an_ensemble_feeds_each_member_what_it_expects(kind: str) -> None:
    other = Normalisation((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    pixels = torch.rand(2, 3, 16, 16, generator=torch.manual_seed(0))
    x = (pixels - torch.tensor(SAME.mean)[:, None, None]) / torch.tensor(SAME.std)[:, None, None]
    for_other = (pixels - torch.tensor(other.mean)[:, None, None]) / torch.tensor(other.std)[:, None, None]
    found = Ensemble([Means(), Means()], [0, 32], [SAME, other], [1.0, 3.0], SAME, kind)(x)

    one = torch.softmax(Means()(x), 1)
    two = torch.softmax(torch.cat([for_other.mean((2, 3)), torch.full((2, 1), 0.32)], 1), 1)
    expected = 0.25 * one + 0.75 * two if kind == "mean" else one**0.25 * two**0.75
    torch.testing.assert_close(found.exp(), expected / expected.sum(1, keepdim=True), rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(2))


def test_an_ensemble_of_ensembles_is_the_weighted_mean() -> None:
    heads = [nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)) for _ in range(3)]
    x = torch.randn(5, 3, 8, 8)
    single = [Ensemble([head], [8], [SAME], [1.0], SAME) for head in heads]
    pair = Ensemble(single[:2], [0, 0], [SAME, SAME], [1.0, 1.0], SAME)
    whole = Ensemble([pair, single[2]], [0, 0], [SAME, SAME], [2.0, 1.0], SAME)
    expected = sum(torch.softmax(head(x), 1) for head in heads) / 3
    torch.testing.assert_close(whole(x).exp(), expected)


def test_an_ensemble_of_numbers_is_the_weighted_mean_of_the_values() -> None:
    heads = [nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)) for _ in range(3)]
    scale, x = [1.0, 10.0, -3.0], torch.randn(5, 3, 8, 8)
    values = [lambda z, s=s: s * z for s in scale]
    each = [
        Ensemble([head], [8], [SAME], [1.0], SAME, "values", [value]) for head, value in zip(heads, values, strict=True)
    ]
    as_they_are = [lambda said: said] * 2
    pair = Ensemble(each[:2], [0, 0], [SAME, SAME], [1.0, 1.0], SAME, "values", as_they_are)
    whole = Ensemble([pair, each[2]], [0, 0], [SAME, SAME], [2.0, 1.0], SAME, "values", as_they_are)
    expected = sum(s * head(x) for s, head in zip(scale, heads, strict=True)) / 3
    torch.testing.assert_close(whole(x), expected)
