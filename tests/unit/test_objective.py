"""Objectives against naive loops and closed forms: one label with every loss, grades, several labels, teachers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.competition.kinds.single import Single
from src.config import DistillConfig, LossConfig, ModelConfig
from src.fold.objective import labelled
from src.model.outputs import Outputs, outputs_of
from src.training.losses import matching, softened
from src.training.mixing import Mix, apply_mix
from src.training.objective import (
    Objective,
    one_label,
    several_labels,
    taught_before,
    taught_on_sight,
    with_margin,
)

CLASSES, COUNT = 4, 9
RNG = torch.Generator().manual_seed(0)
LABELS = torch.randint(CLASSES, (30,), generator=RNG)
ROWS = torch.randperm(30, generator=RNG)[:COUNT]
X = torch.zeros(COUNT, 3, 2, 2)
SMOOTH = {"smoothing": 0.1, "smoothing_kind": "all"}


def logits_of(outputs: Outputs, count: int = COUNT) -> Tensor:
    return 2 * torch.randn(count, outputs.width, generator=torch.Generator().manual_seed(1))


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def shares(z: list[float]) -> list[float]:
    return [math.exp(value) / sum(map(math.exp, z)) for value in z]


# ---- one label ------------------------------------------------------------------------------------------------------


def cross_entropy_of(z: list[float], y: list[float], w: list[float]) -> float:
    return -sum(wk * yk * math.log(p) for wk, yk, p in zip(w, y, shares(z), strict=True))


def focal_of(z: list[float], y: list[float], w: list[float]) -> float:
    return -sum(wk * yk * (1 - p) ** 1.5 * math.log(p) for wk, yk, p in zip(w, y, shares(z), strict=True))


def bce_of(z: list[float], y: list[float], w: list[float]) -> float:
    ps = map(sigmoid, z)
    return -sum(wk * yk * math.log(p) + (1 - yk) * math.log(1 - p) for wk, yk, p in zip(w, y, ps, strict=True))


def ordinal_of(z: list[float], y: list[float], w: list[float]) -> float:
    """The binary cross-entropies of "above class c", whose targets are what lies above, times the row's weight."""
    total = 0.0
    for c in range(len(y) - 1):
        above, p = sum(y[c + 1 :]), sigmoid(z[c])
        total -= above * math.log(p) + (1 - above) * math.log(1 - p)
    return total * sum(wk * yk for wk, yk in zip(w, y, strict=True))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("name", "by_hand"),
    [("cross_entropy", cross_entropy_of), ("focal", focal_of), ("bce", bce_of), ("ordinal", ordinal_of)],
)
def test_one_label_for_every_loss(
    name: str, by_hand: Callable[[list[float], list[float], list[float]], float], smoothing: float, weighted: bool
) -> None:
    config = LossConfig(name=name, gamma=1.5, smoothing=smoothing, smoothing_kind="all")  # type: ignore[arg-type]
    outputs = outputs_of("single", name, CLASSES)
    weights = torch.tensor([0.5, 1.0, 2.0, 3.0]) if weighted else torch.ones(CLASSES)
    objective = one_label(LABELS, CLASSES, outputs, config, weights if weighted else None)
    y, logits = objective.targets(ROWS), logits_of(outputs)
    for row, found in zip(ROWS.tolist(), y.tolist(), strict=True):
        hot = [1 - smoothing + smoothing / CLASSES if k == LABELS[row] else smoothing / CLASSES for k in range(CLASSES)]
        assert found == pytest.approx(hot)
    rows = zip(logits.tolist(), y.tolist(), strict=True)
    expected = np.mean([by_hand(z, t, weights.tolist()) for z, t in rows])
    assert float(objective.loss(logits, y, X)) == pytest.approx(float(expected), rel=1e-5)
    assert objective.outputs is outputs
    pred = outputs.predict(logits)
    assert pred.shape == (COUNT, CLASSES)
    torch.testing.assert_close(pred.sum(1), torch.ones(COUNT))
    torch.testing.assert_close(outputs.logs(logits).exp(), pred)


def test_class_weights_come_from_the_rows_that_are_learnt_from() -> None:
    y, rows = np.array([0] * 6 + [1] * 2 + [1] * 50), np.arange(8)
    outputs = outputs_of("single", "cross_entropy", 2)
    config = LossConfig(class_weights="balanced")
    task = Single(np.array(["a", "b"]))
    objective = labelled(task, y, rows, outputs, config, torch.device("cpu"))
    plain = labelled(task, y, rows, outputs, LossConfig(), torch.device("cpu"))
    z = torch.tensor([[0.3, -0.2]])
    for row, weight in ((0, 8 / 2 / 6), (7, 8 / 2 / 2)):
        t = plain.targets(torch.tensor([row]))
        assert float(objective.loss(z, t, X)) == pytest.approx(weight * float(plain.loss(z, t, X)))


def test_bce_is_read_as_the_normalised_sigmoids() -> None:
    """Minimal binary cross-entropy against .6/.3/.1 is at sigmoids .6/.3/.1, and they stay what they are."""
    p = torch.tensor([[0.6, 0.3, 0.1]])
    outputs = outputs_of("single", "bce", 3)
    torch.testing.assert_close(outputs.predict(torch.logit(p)), p)
    torch.testing.assert_close(outputs.logs(torch.logit(p)), p.log())
    objective = one_label(torch.zeros(1, dtype=torch.int64), 3, outputs, LossConfig(name="bce"))
    z = torch.zeros(1, 3, requires_grad=True)
    optimizer = torch.optim.SGD([z], lr=1.0)
    for _ in range(500):
        optimizer.zero_grad()
        objective.loss(z, p, X).backward()
        optimizer.step()
    torch.testing.assert_close(outputs.predict(z.detach()), p, atol=1e-3, rtol=0)
    softmax = torch.softmax(z.detach(), 1)
    assert softmax[0].tolist() == pytest.approx([0.735, 0.210, 0.054], abs=2e-3), "which softmax would sharpen"
    far = outputs.predict(torch.tensor([[-90.0, -100.0, -95.0]]))
    assert far.isfinite().all() and far.argmax() == 0, "where all of them underflow, too"


# ---- grades ---------------------------------------------------------------------------------------------------------


def test_grades_are_differences_of_sigmoids() -> None:
    outputs = outputs_of("single", "ordinal", CLASSES)
    assert outputs.width == CLASSES - 1 and outputs.exclusive
    logits = logits_of(outputs, 40)
    for z, found in zip(logits.tolist(), outputs.predict(logits).tolist(), strict=True):
        above = [1.0, *map(sigmoid, z), 0.0]
        steps = [max(0.0, above[c] - above[c + 1]) for c in range(CLASSES)]
        assert found == pytest.approx([step / sum(steps) for step in steps], abs=1e-6)
    ordered = torch.tensor([[2.0, 0.0, -1.0]])
    above = torch.sigmoid(ordered)[0].tolist()
    assert outputs.predict(ordered)[0].tolist() == pytest.approx(
        [1 - above[0], above[0] - above[1], above[1] - above[2], above[2]]
    )
    assert outputs.logs(torch.tensor([[40.0, 40.0, -40.0]])).isfinite().all()


def test_targets_of_grades_are_cumulative() -> None:
    """Summed binary cross-entropies of "above c"; at the targets' own logits the gradient is zero, mixed ones too."""
    outputs = outputs_of("single", "ordinal", CLASSES)
    objective = one_label(LABELS, CLASSES, outputs, LossConfig(name="ordinal"))
    above = torch.stack([(LABELS[ROWS] > c).float() for c in range(CLASSES - 1)], 1)
    logits = logits_of(outputs)
    expected = F.binary_cross_entropy_with_logits(logits, above, reduction="sum") / COUNT
    torch.testing.assert_close(objective.loss(logits, objective.targets(ROWS), X), expected)
    mixed = torch.tensor([[0.1, 0.2, 0.4, 0.3]])
    z = torch.logit(torch.tensor([[0.9, 0.7, 0.3]])).requires_grad_()
    objective.loss(z, mixed, X).backward()
    torch.testing.assert_close(z.grad, torch.zeros(1, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(outputs.predict(z.detach()), mixed)


def test_grades_are_learnt() -> None:
    generator = torch.Generator().manual_seed(3)
    features = torch.rand(200, 1, generator=generator)
    labels = (features[:, 0] * 5).long().clamp(max=4)
    outputs = outputs_of("single", "ordinal", 5)
    objective = one_label(labels, 5, outputs, LossConfig(name="ordinal"))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, outputs.width))
    optimizer, rows = torch.optim.Adam(model.parameters(), lr=0.02), torch.arange(200)
    for _ in range(400):
        optimizer.zero_grad()
        objective.loss(model(features), objective.targets(rows), X).backward()
        optimizer.step()
    guess = outputs.predict(model(features)).argmax(1)
    assert (guess == labels).float().mean() > 0.9
    assert (guess - labels).abs().max() <= 1, "what is wrong is wrong by one grade"


# ---- several labels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bce", "focal"])
@pytest.mark.parametrize("weighted", [False, True])
def test_several_labels_against_a_loop(name: str, weighted: bool) -> None:
    y = (torch.rand(30, CLASSES, generator=torch.Generator().manual_seed(4)) < 0.4).float()
    outputs = outputs_of("multi", name, CLASSES)
    positive = torch.tensor([1.0, 2.0, 3.0, 0.5]) if weighted and name == "bce" else None
    config = LossConfig(name=name, gamma=1.5, smoothing=0.2)  # type: ignore[arg-type]
    objective = several_labels(y, outputs, config, positive)
    soft, logits = objective.targets(ROWS), logits_of(outputs)
    torch.testing.assert_close(soft, torch.where(y[ROWS] > 0, 0.9, 0.1))
    expected = 0.0
    for z, t in zip(logits.tolist(), soft.tolist(), strict=True):
        for k in range(CLASSES):
            p, w = sigmoid(z[k]), 1.0 if positive is None else float(positive[k])
            if name == "focal":
                p_t = p * t[k] + (1 - p) * (1 - t[k])
                expected -= (1 - p_t) ** 1.5 * (t[k] * math.log(p) + (1 - t[k]) * math.log(1 - p)) / COUNT
            else:
                expected -= (w * t[k] * math.log(p) + (1 - t[k]) * math.log(1 - p)) / COUNT
    assert float(objective.loss(logits, soft, X)) == pytest.approx(expected, rel=1e-5)
    assert not outputs.exclusive
    torch.testing.assert_close(outputs.predict(logits), logits.sigmoid())
    torch.testing.assert_close(outputs.logs(logits), logits.sigmoid().log())


# ---- teachers -------------------------------------------------------------------------------------------------------


def objective_of(kind: str, loss: str = "cross_entropy") -> Objective:
    outputs = outputs_of(kind, loss, CLASSES)
    if kind == "multi":
        return several_labels(F.one_hot(LABELS, CLASSES).float(), outputs, LossConfig(name="bce"))
    return one_label(LABELS, CLASSES, outputs, LossConfig(name=loss))  # type: ignore[arg-type]


def soft_of(kind: str, p: list[float], temperature: float) -> list[float]:
    """Probabilities at a temperature, by hand."""
    if kind == "multi":
        return [sigmoid(math.log(q / (1 - q)) / temperature) for q in p]
    powers = [q ** (1 / temperature) for q in p]
    return [power / sum(powers) for power in powers]


def divergence(kind: str, soft: list[float], student: list[float]) -> float:
    if kind == "multi":
        pairs = [*zip(soft, student, strict=True), *((1 - a, 1 - b) for a, b in zip(soft, student, strict=True))]
    else:
        pairs = list(zip(soft, student, strict=True))
    return sum(a * math.log(a / b) for a, b in pairs)


@pytest.mark.parametrize(
    ("kind", "loss"), [("single", "cross_entropy"), ("single", "bce"), ("single", "ordinal"), ("multi", "bce")]
)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("when", ["before", "on sight"])
def test_what_a_teacher_adds(kind: str, loss: str, temperature: float, when: str) -> None:
    """T²·KL(teacher ‖ student), both softened as their columns are: together, or each for itself."""
    own = objective_of(kind, loss)
    config = DistillConfig(temperature=temperature, weight=0.7)
    known = torch.rand(30, CLASSES, generator=torch.Generator().manual_seed(6)) * 0.8 + 0.1
    known = known if kind == "multi" else known / known.sum(1, keepdim=True)
    logits, y = logits_of(own.outputs), own.targets(ROWS)
    logits = logits.sort(1, descending=True).values if loss == "ordinal" else logits
    if when == "before":
        taught = taught_before(own, known, config)
    else:
        taught = taught_on_sight(own, Fixed(known[ROWS].log()), config)
    student = own.outputs.predict(logits).tolist()
    expected = np.mean([
        divergence(kind, soft_of(kind, p, temperature), soft_of(kind, q, temperature))
        for p, q in zip(known[ROWS].tolist(), student, strict=True)
    ])  # fmt: skip
    found = taught.loss(logits, taught.targets(ROWS), X)
    assert float(found - own.loss(logits, y, X)) == pytest.approx(0.7 * temperature**2 * float(expected), rel=1e-3)
    assert taught.outputs is own.outputs


class Fixed(nn.Module):
    def __init__(self, logs: Tensor) -> None:
        super().__init__()
        self.logs = logs

    def forward(self, x: Tensor) -> Tensor:
        assert x is X and not torch.is_grad_enabled()
        return self.logs


def test_predictions_are_softened_before_they_are_mixed() -> None:
    """Two teachers' sure answers at λ = .95, T = 5: told is the mean of the softened ones, not the softened mean."""
    labels, known = torch.tensor([0, 1]), torch.tensor([[0.998, 0.001, 0.001], [0.001, 0.998, 0.001]])
    outputs = outputs_of("single", "cross_entropy", 3)
    config = DistillConfig(temperature=5.0, weight=1.0)
    taught = taught_before(one_label(labels, 3, outputs, LossConfig()), known, config)
    targets = taught.targets(torch.arange(2))
    assert targets.shape == (2, 6)
    _, mixed = apply_mix(torch.zeros(2, 3, 2, 2), targets, Mix("mixup", 0.95, np.array([1, 0])))
    sure, other = (soft_of("single", row, 5.0) for row in known.tolist())
    mean = [0.95 * a + 0.05 * b for a, b in zip(sure, other, strict=True)]
    assert mixed[0, 3:].tolist() == pytest.approx(mean, abs=1e-5)
    wrong = soft_of("single", [0.95 * a + 0.05 * b for a, b in zip(*known.tolist(), strict=True)], 5.0)
    assert max(abs(a - b) for a, b in zip(mean, wrong, strict=True)) > 0.05, "so that it matters"
    # so the loss is lowest for the student that says the mean at T = 5
    z = 5 * torch.tensor([mean]).log()
    z.requires_grad_()
    only = taught.loss(z, mixed[:1], X) - one_label(labels, 3, outputs, LossConfig()).loss(z, mixed[:1, :3], X)
    only.backward()
    torch.testing.assert_close(z.grad, torch.zeros(1, 3), atol=1e-5, rtol=0)


def test_a_mixed_loss_is_the_mean_of_two() -> None:
    """What softening first is for: the teacher's part is linear in its target, up to what the student cannot change."""
    own, config = objective_of("single"), DistillConfig(temperature=3.0, weight=1.0)
    known = torch.softmax(3 * torch.randn(30, CLASSES, generator=torch.Generator().manual_seed(7)), 1)
    taught, z = taught_before(own, known, config), logits_of(own.outputs, 1).requires_grad_()
    (a,), (b,) = taught.targets(ROWS[:1]), taught.targets(ROWS[1:2])

    def gradient(target: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(taught.loss(z, target[None], X), z)
        return found

    torch.testing.assert_close(gradient(0.3 * a + 0.7 * b), 0.3 * gradient(a) + 0.7 * gradient(b))


def test_matching_of_independent_columns_has_the_gradient_of_its_formula() -> None:
    """T·(sigmoid(z/T) - soft) for each column, over the batch: no column says anything about another."""
    z = (2 * torch.randn(5, 3, generator=torch.Generator().manual_seed(8))).requires_grad_()
    soft = softened(torch.rand(5, 3, generator=torch.Generator().manual_seed(9)).log(), 4.0, False)
    matching(F.logsigmoid(z), soft, 4.0, False).backward()
    torch.testing.assert_close(z.grad, 4.0 * (torch.sigmoid(z.detach() / 4) - soft) / 5, atol=1e-4, rtol=1e-3)
    z = z.detach()
    assert float(matching(F.logsigmoid(z), torch.sigmoid(z / 4), 4.0, False)) == pytest.approx(0, abs=1e-5)


def test_sure_predictions_do_not_become_infinite() -> None:
    for kind, sure in (("single", [1.0, 0.0, 0.0, 0.0]), ("multi", [1.0, 0.0, 1.0, 0.0])):
        own = objective_of(kind)
        taught = taught_before(own, torch.tensor([sure] * 30), DistillConfig(temperature=1.0))
        z = torch.full((COUNT, CLASSES), 60.0).requires_grad_()
        loss = taught.loss(z, taught.targets(ROWS), X)
        loss.backward()
        assert loss.isfinite() and z.grad is not None and z.grad.isfinite().all()


def test_the_margin_is_for_labels_only() -> None:
    own = objective_of("single")
    model, config = ModelConfig(head="cosface", margin=0.3, scale=8.0), DistillConfig(temperature=2.0)
    known = torch.full((30, CLASSES), 1 / CLASSES)
    logits, y = logits_of(own.outputs), own.targets(ROWS)
    taught, plain = taught_before(with_margin(own, model), known, config), taught_before(own, known, config)
    harder = with_margin(own, model).loss(logits, y, X)
    torch.testing.assert_close(harder, own.loss(logits - 8.0 * 0.3 * y, y, X))
    both = taught.targets(ROWS)
    torch.testing.assert_close(
        taught.loss(logits, both, X) - harder, plain.loss(logits, both, X) - own.loss(logits, y, X)
    )
