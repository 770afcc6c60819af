"""A step moves the part that is trained and nothing else, BatchNorm statistics and weight decay included."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from src.config import build
from src.data.augment import Augment
from src.errors import UserError
from src.fold.plan import plan_fold
from src.training.freezing import Part, train_only
from src.training.optimizer import build_optimizer, set_rate
from src.training.plan import Plan
from src.training.stages import Stage

NAME = "test_resnet"


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, part: Part, seed: int, hold_norms: bool = False
) -> set[str]:
    """The names of the parameters and buffers that one step changes."""
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(seed)
    set_rate(optimizer, 0.1)
    train_only(model, optimizer, part, hold_norms)
    F.cross_entropy(model(torch.randn(4, 3, 32, 32) + 1), torch.arange(4)).backward()
    optimizer.step()
    optimizer.zero_grad()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("optimizer_name", ["sgd", "adamw", "lamb"])
def test_only_the_part_moves(optimizer_name: str) -> None:
    """Also between steps of the whole network, when momentum and weight decay pull at what is frozen."""
    torch.manual_seed(0)
    model = timm.create_model(NAME, num_classes=4, drop_rate=0.2, zero_init_last=False)
    optimizer = build_optimizer(model, optimizer_name, weight_decay=0.1)
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    last = {f"{norms[-1]}.{of}" for of in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    head = {"fc.weight", "fc.bias"}

    everything = step(model, optimizer, "all", 1)
    assert everything == set(model.state_dict())
    assert step(model, optimizer, "head", 2) == head
    assert step(model, optimizer, "head+norm", 3) == head | last
    assert step(model, optimizer, "head", 4) == head
    assert step(model, optimizer, "all", 5) == everything


def test_held_norms_learn_but_their_statistics_stay() -> None:
    """Also the last norm's in a step of head+norm, which moves them otherwise."""
    torch.manual_seed(0)
    model = timm.create_model(NAME, num_classes=4, zero_init_last=False)
    optimizer = build_optimizer(model, "sgd", weight_decay=0.0)
    held = {name for name in model.state_dict() if "running" in name or "tracked" in name}
    assert step(model, optimizer, "all", 1, hold_norms=True) == set(model.state_dict()) - held
    assert model.training and all(
        module.training is not isinstance(module, nn.BatchNorm2d) for module in model.modules()
    )
    assert not step(model, optimizer, "head+norm", 2, hold_norms=True) & held
    assert len(step(model, optimizer, "head+norm", 2) & held) == 3
    assert step(model, optimizer, "all", 3) == set(model.state_dict())


def test_what_is_fixed_stays_fixed() -> None:
    model = timm.create_model(NAME, num_classes=4)
    model.conv1.requires_grad_(False)
    optimizer = build_optimizer(model, "sgd", weight_decay=0.1)
    for part in ("head", "all"):
        train_only(model, optimizer, part)
        assert not any(parameter.requires_grad for parameter in model.conv1.parameters())


def test_a_transformers_last_norm() -> None:
    model = timm.create_model("test_vit", num_classes=4)
    optimizer = build_optimizer(model, "sgd", weight_decay=0.0)
    train_only(model, optimizer, "head+norm")
    moving = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert moving == {"head.weight", "head.bias", "norm.weight", "norm.bias"} or moving == {
        "head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias",
    }  # fmt: skip


def test_a_network_without_a_classifier() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"model\.freeze.*no classifier"):
        train_only(model, torch.optim.SGD(model.parameters(), lr=0.1), "head")


def planned(count: int = 2, **section: object) -> Plan:
    """Two stages of 60 and 40 steps, or the first of them; the second trains the head at a rate of its own."""
    values = {"optimizer": {"lr": 0.2}, "model": {"freeze": "10%"}, **section}
    config = build(values | {"stages": [{}, {"train": "head+norm", "lr": 0.001}]})
    stages = (
        Stage(0, 0, 60, 64, np.arange(80), 8, 1.0, 8),
        Stage(1, 60, 100, 64, np.arange(80), 8, 0.0, 8, "head+norm", 0.001),
    )
    whole = plan_fold(config, np.arange(80), np.zeros(80, np.int64), Augment())
    return dataclasses.replace(whole, stages=stages[:count])


def test_rates_and_parts_of_a_run_that_ends_with_fixres() -> None:
    found = planned()
    assert [found.part(s) for s in (0, 9, 10, 59, 60, 99)] == ["head"] * 2 + ["all"] * 2 + ["head+norm"] * 2
    assert found.share(59) < 0.01, "the schedule ends where the stage of its own rate begins"
    assert [found.share(s) * 0.2 for s in range(60, 100)] == pytest.approx([0.001] * 40)
    assert [found.rate(s) for s in range(60, 100)] == pytest.approx([0.001 * 8 / 256] * 40)
    assert {found.momentum(s) for s in range(100)} == {None}
    shorter = found.shortened(0, 0.5)
    assert [shorter.part(s) for s in (4, 5, 29, 30)] == ["head", "all", "all", "head+norm"]


def test_momentum_of_one_cycle() -> None:
    found = planned(schedule={"kind": "one_cycle", "warmup": "50%", "momentum": [0.95, 0.85]})
    assert [found.momentum(s) for s in (0, 29, 59, 60, 99)] == pytest.approx([0.95, 0.85, 0.95, 0.95, 0.95])
    assert found.share(29) == 1.0


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"kind": "cosine", "final": 0.2}, {0: 1.0, 15: 0.2 + 0.4 * (1 + 0.5**0.5), 30: 0.6}),
        ({"kind": "linear", "final": 0.5}, {0: 1.0, 30: 0.75, 45: 0.625}),
        ({"kind": "steps", "drops": [0.25, 0.5], "factor": 0.3}, {14: 1.0, 15: 0.3, 29: 0.3, 30: 0.09}),
        ({"kind": "exponential", "decay": 0.5, "every": "20 steps"}, {19: 1.0, 20: 0.5, 40: 0.25}),
        ({"kind": "one_cycle", "warmup": "10 steps", "start": 0.1}, {0: 0.1, 9: 1.0, 59: 0.0}),
    ],
)
def test_every_key_of_the_schedule_reaches_it(keys: dict, expected: dict[int, float]) -> None:
    found = planned(1, schedule={"warmup": "0", **keys})
    assert {step: found.share(step) for step in expected} == pytest.approx(expected, abs=1e-9)
