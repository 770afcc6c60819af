"""Objectives of numbers and of several targets against loops and closed forms; which loss goes with which kind."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from src.competition.kinds.number import Number, Scaling, scaling_of
from src.competition.kinds.targets import Targets
from src.config import DistillConfig, LossConfig, ModelConfig, build, defaults, difference, loss_for
from src.errors import UserError
from src.fold.objective import labelled
from src.model.outputs import outputs_of
from src.training.losses import balanced_weights
from src.training.mixing import Mix, apply_mix
from src.training.objective import Objective, taught_before, taught_on_sight, with_margin

CPU = torch.device("cpu")
ROWS = np.arange(20)
Y = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32) * np.array([3, 400], np.float32) + 50
GROUPS = (3, 2)
T = np.stack([np.arange(30) % 3, np.arange(30) % 4 // 3], 1)
PICKED = torch.tensor([4, 0, 19, 7])
X = torch.zeros(4, 3, 2, 2)


def numbers_objective(loss: str, y: np.ndarray = Y) -> Objective:
    outputs = outputs_of("number", loss, y.shape[1], scaling=scaling_of(y[ROWS], loss))
    return labelled(Number(np.array(list("ab")[: y.shape[1]])), y, ROWS, outputs, LossConfig(loss), CPU)  # type: ignore[arg-type]


def targets_objective(**keys: object) -> Objective:
    task = Targets(np.array(["a=0", "a=1", "a=2", "b=0", "b=1"]))
    outputs = outputs_of("targets", "cross_entropy", 5, GROUPS)
    return labelled(task, T, ROWS, outputs, LossConfig(**keys), CPU)  # type: ignore[arg-type]


def logits(width: int) -> Tensor:
    return 1.5 * torch.randn(4, width, generator=torch.Generator().manual_seed(1))


# ---- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "bce"])
def test_numbers_for_every_loss(loss: str) -> None:
    """Scaled by the rows that are learnt from; the loss is the mean over columns and rows, by hand."""
    objective, z = numbers_objective(loss), logits(2)
    learnt = Y[ROWS].astype(float)
    shift = learnt.min(0) if loss == "bce" else learnt.mean(0)
    scale = np.ptp(learnt, axis=0) if loss == "bce" else learnt.std(0)
    wanted = (Y[PICKED.numpy()] - shift) / scale
    np.testing.assert_allclose(objective.targets(PICKED), wanted, rtol=1e-4, atol=1e-5)
    total = 0.0
    for own, true in zip(z.tolist(), wanted.tolist(), strict=True):
        for a, b in zip(own, true, strict=True):
            if loss == "bce":
                p, b = 1 / (1 + math.exp(-a)), min(1, max(0, b))
                total -= (b * math.log(p) + (1 - b) * math.log(1 - p)) / 8
            elif loss == "mae":
                total += abs(a - b) / 8
            elif loss == "mse":
                total += (a - b) ** 2 / 8
            else:
                total += (0.5 * (a - b) ** 2 if abs(a - b) <= 1 else abs(a - b) - 0.5) / 8
    assert float(objective.loss(z, objective.targets(PICKED), X)) == pytest.approx(total, rel=1e-4)
    values = torch.sigmoid(z) if loss == "bce" else z
    np.testing.assert_allclose(objective.outputs.predict(z), values.numpy() * scale + shift, rtol=1e-4)


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_the_best_output_is_the_target_in_its_own_units(loss: str) -> None:
    objective = numbers_objective(loss, Y[:, :1])
    z = torch.zeros(4, 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([z], max_iter=200)

    def closure() -> Tensor:
        optimizer.zero_grad()
        found = objective.loss(z, objective.targets(PICKED), X)
        found.backward()
        return found

    for _ in range(5):
        optimizer.step(closure)
    np.testing.assert_allclose(objective.outputs.predict(z.detach()), Y[PICKED.numpy(), :1], rtol=2e-3, atol=0.05)


def test_mixed_numbers_are_the_mean_of_both() -> None:
    objective = numbers_objective("mse")
    _, mixed = apply_mix(X, objective.targets(PICKED), Mix("mixup", 0.7, np.array([1, 0, 3, 2])))
    expected = 0.7 * Y[PICKED.numpy()] + 0.3 * Y[PICKED.numpy()[[1, 0, 3, 2]]]
    np.testing.assert_allclose(objective.outputs.predict(mixed), expected, rtol=1e-4, atol=1e-3)


class Fixed(nn.Module):
    def __init__(self, said: Tensor) -> None:
        super().__init__()
        self.said = said

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return self.said


@pytest.mark.parametrize("when", ["before", "on sight"])
def test_a_teacher_of_numbers_is_matched_in_standard_deviations(when: str) -> None:
    own, z, config = numbers_objective("mse"), logits(2), DistillConfig(weight=0.7, temperature=5)
    known = torch.from_numpy(Y) + torch.randn(30, 2, generator=torch.Generator().manual_seed(2))
    taught = (
        taught_before(own, known, config) if when == "before" else taught_on_sight(own, Fixed(known[PICKED]), config)
    )
    found = taught.loss(z, taught.targets(PICKED), X) - own.loss(z, own.targets(PICKED), X)
    scale = torch.tensor(scaling_of(Y[ROWS], "mse").scale)
    expected = ((own.outputs.predict(z) - known[PICKED]) / scale).square().mean()
    torch.testing.assert_close(found, 0.7 * expected, rtol=1e-4, atol=1e-5)


# ---- several targets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
@pytest.mark.parametrize("weighted", [False, True])
def test_several_targets_against_a_loop(name: str, weighted: bool) -> None:
    smoothing = 0.0 if name == "focal" else 0.1
    weights = "balanced" if weighted else "none"
    objective = targets_objective(
        name=name, gamma=1.5, smoothing=smoothing, smoothing_kind="all", class_weights=weights
    )
    y, z = objective.targets(PICKED), logits(5)
    total = 0.0
    for row, (own, soft) in enumerate(zip(z.tolist(), y.tolist(), strict=True)):
        for t, (start, classes) in enumerate(((0, 3), (3, 2))):
            label, part = int(T[PICKED[row], t]), own[start : start + classes]
            hot = [smoothing / classes + (1 - smoothing) * (k == label) for k in range(classes)]
            assert soft[start : start + classes] == pytest.approx(hot)
            shares = [math.exp(a) / sum(map(math.exp, part)) for a in part]
            factor = balanced_weights(T[ROWS, t], classes) if weighted else np.ones(classes)
            for k in range(classes):
                hard = (1 - shares[k]) ** 1.5 if name == "focal" else 1.0
                total -= factor[k] * hot[k] * hard * math.log(shares[k]) / 8
    assert float(objective.loss(z, y, X)) == pytest.approx(total, rel=1e-4)
    pred = objective.outputs.predict(z)
    torch.testing.assert_close(pred, torch.cat([z[:, :3].softmax(1), z[:, 3:].softmax(1)], 1))
    torch.testing.assert_close(objective.outputs.logs(z), pred.log())


@pytest.mark.parametrize("when", ["before", "on sight"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_teacher_of_several_targets(when: str, temperature: float) -> None:
    """The mean over targets of T²·KL, each softened by itself."""
    own, z = targets_objective(), logits(5)
    random = torch.Generator().manual_seed(3)
    known = torch.cat([torch.randn(30, k, generator=random).softmax(1) for k in GROUPS], 1)
    config = DistillConfig(weight=0.7, temperature=temperature)
    teacher = Fixed(known[PICKED].log())
    taught = taught_before(own, known, config) if when == "before" else taught_on_sight(own, teacher, config)
    found = taught.loss(z, taught.targets(PICKED), X) - own.loss(z, own.targets(PICKED), X)
    expected = 0.0
    for part in (slice(0, 3), slice(3, 5)):
        theirs, mine = (torch.softmax(v[:, part] / temperature, 1) for v in (known[PICKED].log(), z))
        expected += temperature**2 * float((theirs * (theirs / mine).log()).sum(1).mean()) / 2
    assert float(found) == pytest.approx(0.7 * expected, rel=1e-3)


def test_a_margin_is_of_each_target() -> None:
    own, model = targets_objective(), ModelConfig(head="cosface", margin=0.3, scale=8.0)
    y, z = own.targets(PICKED), logits(5)
    torch.testing.assert_close(with_margin(own, model).loss(z, y, X), own.loss(z - 2.4 * y, y, X))


# ---- which loss goes with what --------------------------------------------------------------------------------------


def test_a_loss_that_does_not_go_with_a_kind_is_refused() -> None:
    kinds = ("single", "multi", "number", "targets")
    assert [loss_for(kind, "auto") for kind in kinds] == ["cross_entropy", "bce", "mse", "cross_entropy"]
    for kind, loss, choices in (
        ("single", "mse", "auto, cross_entropy, focal, bce, ordinal"),
        ("multi", "ordinal", "auto, bce, cross_entropy, focal"),
        ("number", "cross_entropy", "auto, mse, mae, huber, bce"),
        ("targets", "bce", "auto, cross_entropy, focal"),
    ):
        with pytest.raises(UserError, match=f"loss.name={loss}: not for competition.kind={kind}; choose {choices}$"):
            build({"competition": {"kind": kind}, "loss": {"name": loss}})


@pytest.mark.parametrize(
    ("kind", "before"), [("single", "cross_entropy"), ("multi", "cross_entropy"), ("multi", "bce"), ("number", "mse")]
)
def test_runs_that_name_the_usual_loss_are_the_same_runs(kind: str, before: str) -> None:
    values = defaults()
    values["competition"]["kind"] = kind
    old = {**values, "loss": {**values["loss"], "name": before}}
    assert difference(old, values) == [] == difference(values, old)
    focal = {**values, "loss": {**values["loss"], "name": "focal"}}
    assert difference(old, focal) == ["loss.name: auto -> focal"]
    assert build(old).loss.name == before


def test_scaling_survives_a_manifest() -> None:
    """What a later start reads back from JSON predicts the same."""
    import json

    scaling = scaling_of(Y[ROWS], "mse")
    again = Scaling(*map(tuple, json.loads(json.dumps({"scaling": scaling}))["scaling"]))
    assert again == scaling
    z = logits(2)
    first, second = (outputs_of("number", "mse", 2, scaling=each).predict(z) for each in (scaling, again))
    assert torch.equal(first, second)
