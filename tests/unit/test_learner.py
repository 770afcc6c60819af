"""A learner's step against plain torch, its averages, its state, and rehearsals that leave nothing behind."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.config import AverageConfig, MixConfig, ScheduleConfig
from src.data.augment import Augment
from src.data.loader import Batch
from src.data.preprocess import Preprocess
from src.data.spec import RGB, ImageSpec, Normalisation
from src.fold.choose import averages_of
from src.fold.lesson import Lesson
from src.model.outputs import outputs_of
from src.training import engine
from src.training.averaging import Ema, make_swa, refresh_batchnorm
from src.training.checkpoint import CheckpointWriter
from src.training.device import make_accelerator
from src.training.engine import fit
from src.training.interrupt import Interrupted, StopWish
from src.training.learner import Learner, rehearsal
from src.training.mixing import Mix, apply_mix
from src.training.objective import Objective
from src.training.plan import Plan
from src.training.progress import ProgressBar
from src.training.session import Progress, Session
from src.training.stages import Stage

LABELS = torch.arange(24) % 3
TARGETS = F.one_hot(LABELS, 3).float()
OBJECTIVE = Objective(
    lambda rows: TARGETS[rows],
    lambda logits, y, x: -(y * F.log_softmax(logits, 1)).sum(1).mean(),
    outputs_of("single", "cross_entropy", 3),
)
PREPROCESS = Preprocess(Normalisation((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
STEPS, SIZE, COUNT = 12, 8, 6


def network(channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    body = nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(4, 3))


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)


def learner_of(accumulate: int = 1, clip: float | None = None, ema: float = 0.0, swa: bool = False) -> Learner:
    accelerator, model = make_accelerator("cpu", "fp32", accumulate), network()
    averages = Ema(model, ema) if ema else None, make_swa(model) if swa else None
    return Learner(accelerator, *accelerator.prepare(model, optimizer_of(model)), *averages, clip)


def a_batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(COUNT, 3, SIZE, SIZE, generator=generator), TARGETS[torch.randperm(24, generator=generator)[:6]]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other


# ---- a step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_a_step_is_plain_torchs(accumulate: int, clip: float | None) -> None:
    """Micro-batches add up to one step with the mean gradient, whose norm, taken as a whole, is cut."""
    learner, model = learner_of(accumulate, clip), network()
    optimizer, norms = optimizer_of(model), []
    for step in range(3):
        for micro in range(accumulate):
            x, y = a_batch(10 * step + micro)
            expected = OBJECTIVE.loss(model(x), y, x)
            (expected / accumulate).backward()
            before = copy.deepcopy(learner.network.state_dict())
            loss = learner.step(x, y, OBJECTIVE)
            torch.testing.assert_close(loss, expected.detach())
            assert not loss.requires_grad
            moved = not torch.equal(before["0.weight"], learner.network.state_dict()["0.weight"])
            assert moved == (micro == accumulate - 1), "weights move with the last micro-batch only"
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), clip or 1e9)))
        optimizer.step()
        optimizer.zero_grad()
        torch.testing.assert_close(learner.network.state_dict(), model.state_dict())
    assert min(norms) > 0.1, "so that a norm of 0.05 cuts"


def test_network_is_the_model_without_its_wrappers() -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    class Unwrapping:
        def unwrap_model(self, model: Any) -> nn.Module:
            return model.module

    inner = network()
    learner = Learner(Unwrapping(), Wrapper(inner), None, None, None, None)
    assert learner.network is inner and learner.model is not inner


# ---- averages -------------------------------------------------------------------------------------------------------


def test_average_is_the_ema_at_every_step_and_swa_at_the_chosen_ones() -> None:
    learner, chosen = learner_of(ema=0.5, swa=True), (2, 5, 6)
    expected, kept = Ema(network(), 0.5), []
    assert learner.ema is not None
    for step in range(1, 8):
        learner.step(*a_batch(step), OBJECTIVE)
        learner.average(step, step == 7, step in chosen)
        expected.update(learner.network, step)
        torch.testing.assert_close(learner.ema.module.state_dict(), expected.module.state_dict())
        if step in chosen:
            kept.append(copy.deepcopy(learner.network[5].weight.detach()))  # type: ignore[index]
    assert int(learner.swa.n_averaged) == 3
    torch.testing.assert_close(learner.swa.module[5].weight.detach(), torch.stack(kept).mean(0))
    without = learner_of()
    without.average(1, True, True)  # there is nothing to average


def micro_batches(first: int = 0, count: int = STEPS) -> Iterator[Batch]:
    for number in range(first, count):
        rng = np.random.default_rng(number)
        pixels = torch.from_numpy(rng.integers(0, 256, (1, COUNT, SIZE, SIZE, 3)).astype(np.uint8))
        rows = torch.from_numpy(rng.integers(0, 24, COUNT))
        yield Batch(pixels, None, rows, torch.ones(COUNT, dtype=torch.bool))


def plan_of(average: AverageConfig | None = None, mixing: MixConfig | None = None) -> Plan:
    stage = Stage(0, 0, STEPS, SIZE, np.arange(24), COUNT, 1.0, COUNT)
    schedule = ScheduleConfig(kind="constant", warmup="0")
    return Plan((stage,), 24, 7, 2.0, schedule, average or AverageConfig(), mixing or MixConfig(), Augment())


def session_in(folder: Path, plan: Plan, **changes: Any) -> Session:
    bar, writer = ProgressBar(plan.stages, 0, "accuracy", False, lambda row: None), CheckpointWriter(folder, 2)
    around: dict[str, Any] = {"checkpoint_every": 1e9, "watch": None, "wish": StopWish(), "notes": {}}
    return Session(bar, writer, **(around | changes))


def trained(folder: Path, learner: Learner, plan: Plan, so_far: Progress | None = None, **changes: Any) -> Progress:
    done = so_far or Progress(0, [], 0.0)
    made = micro_batches(done.step)
    session = session_in(folder, plan, **changes)
    return fit(learner, OBJECTIVE, plan, made, PREPROCESS, lambda network, size: {}, session, done)


def by_hand(plan: Plan) -> list[dict[str, Tensor]]:
    """The weights after each step of the plan, by plain torch."""
    model = network()
    optimizer, found = optimizer_of(model), []
    for step, batch in enumerate(micro_batches()):
        optimizer.param_groups[0]["lr"] = plan.rate(step)
        x, y = apply_mix(PREPROCESS(batch.images[0]), TARGETS[batch.rows], plan.mix(step, COUNT))
        OBJECTIVE.loss(model(x), y, x).backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(copy.deepcopy(model.state_dict()))
    return found


def test_fit_updates_the_ema_in_every_step_and_swa_in_the_plans(tmp_path: Path) -> None:
    plan = plan_of(AverageConfig(swa=True, swa_start=0.5, swa_every="2 steps"))
    chosen = [step for step in range(STEPS) if plan.in_swa(step)]
    assert chosen == [7, 9, 11]
    learner = learner_of(ema=0.8, swa=True)
    trained(tmp_path, learner, plan)
    weights, ema = by_hand(plan), Ema(network(), 0.8)
    torch.testing.assert_close(learner.network.state_dict(), weights[-1])
    model = network()
    for step, state in enumerate(weights):
        model.load_state_dict(state)
        ema.update(model, step + 1)
    assert learner.ema is not None
    torch.testing.assert_close(learner.ema.module.state_dict(), ema.module.state_dict())
    mean = torch.stack([weights[step]["5.weight"] for step in chosen]).mean(0)
    torch.testing.assert_close(learner.swa.module.state_dict()["5.weight"], mean)
    assert not torch.allclose(mean, weights[-1]["5.weight"], atol=1e-3), "so that the last ones alone would be seen"


def test_fit_mixes_as_the_plan_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(mixing=MixConfig(mixup=1.0, stop=0.5))
    said: list[Mix | None] = []
    monkeypatch.setattr(engine, "apply_mix", lambda x, y, mix: said.append(mix) or apply_mix(x, y, mix))
    learner = learner_of()
    trained(tmp_path, learner, plan)
    assert [mix is None for mix in said] == [False] * 6 + [True] * 6
    torch.testing.assert_close(learner.network.state_dict(), by_hand(plan)[-1])
    assert not torch.allclose(by_hand(plan)[-1]["5.weight"], by_hand(plan_of())[-1]["5.weight"], atol=1e-3)


def test_swa_gets_statistics_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the planned training batches, not the mean of what the statistics were along the way."""
    plan = plan_of(AverageConfig(swa=True, swa_start=0.5, swa_every="2 steps", bn_batches=3))
    learner = learner_of(swa=True)
    trained(tmp_path, learner, plan)
    inputs = [PREPROCESS(batch.images[0]) for batch in micro_batches(count=3)]
    asked: list[int] = []

    def first_ones(
        store: Any, orders: Iterator[Any], count: int, preprocess: Preprocess, resident: None
    ) -> Iterator[Tensor]:
        asked.append(count)
        return iter(inputs)

    monkeypatch.setattr("src.fold.choose.augmented_inputs", first_ones)
    expected = copy.deepcopy(learner.swa.module)
    refresh_batchnorm(expected, inputs)
    lesson = Lesson(None, np.arange(24), LABELS.numpy(), OBJECTIVE)  # type: ignore[arg-type]
    stale = learner.swa.module[1].running_mean.clone()
    found = averages_of(learner, lesson, plan, PREPROCESS, with_swa=True)
    assert list(found) == ["raw", "swa"] and asked == [3]
    torch.testing.assert_close(found["swa"].state_dict(), expected.state_dict())
    assert not torch.allclose(stale, expected[1].running_mean, atol=1e-2)
    assert list(averages_of(learner, lesson, plan, PREPROCESS, with_swa=False)) == ["raw"]


def test_held_statistics_stay_bit_by_bit_and_swa_takes_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = dataclasses.replace(plan_of(AverageConfig(swa=True, swa_start=0.5, swa_every="2 steps")), hold_norms=True)
    learner = learner_of(ema=0.5, swa=True)
    before = copy.deepcopy(learner.network.state_dict())
    before["1.running_mean"] += 0.3  # not what the batches have
    learner.network.load_state_dict(before)
    assert learner.ema is not None
    learner.ema.module.load_state_dict(before)
    trained(tmp_path, learner, plan)
    monkeypatch.setattr("src.fold.choose.augmented_inputs", lambda *args: pytest.fail("no batch is needed"))
    lesson = Lesson(None, np.arange(24), LABELS.numpy(), OBJECTIVE)  # type: ignore[arg-type]
    found = averages_of(learner, lesson, plan, PREPROCESS, with_swa=True)
    assert list(found) == ["raw", "ema", "swa"]
    for network in found.values():
        for name, value in network.state_dict().items():
            name = name.removeprefix("module.")
            if name != "n_averaged":
                assert torch.equal(value, before[name]) == ("running" in name or "tracked" in name), name


# ---- state ----------------------------------------------------------------------------------------------------------


def test_a_restored_learner_goes_on_as_if_nothing_had_happened() -> None:
    one, other = (learner_of(clip=0.5, ema=0.9, swa=True) for _ in range(2))

    def go_on(learner: Learner, first: int, stop: int) -> None:
        for step in range(first, stop):
            learner.step(*a_batch(step), OBJECTIVE)
            learner.average(step + 1, False, step % 2 == 0)

    go_on(one, 0, 4)
    state = one.snapshot()
    copied = copy.deepcopy(state)
    go_on(one, 4, 7)
    assert same(state, copied), "a snapshot does not change any more"
    assert not same(one.snapshot(), state)
    other.restore(state)
    assert same(other.snapshot(), state)
    go_on(other, 4, 7)
    assert same(other.snapshot(), one.snapshot())
    assert all(tensor.device.type == "cpu" for tensor in state["model"].values())


def test_the_loss_scale_is_part_of_the_state() -> None:
    accelerator = make_accelerator("cpu", "fp32")
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    model = network()
    learner = Learner(accelerator, *accelerator.prepare(model, optimizer_of(model)), None, None, None)
    learner.step(*a_batch(0), OBJECTIVE)
    state = learner.snapshot()
    assert state["scaler"]["scale"] == 2.0**10
    accelerator.scaler.update(new_scale=4.0)
    learner.restore(state)
    assert accelerator.scaler.get_scale() == 2.0**10
    learner.restore(state | {"scaler": {}})  # of a device that needed none
    assert accelerator.scaler.get_scale() == 2.0**10


# ---- the session ----------------------------------------------------------------------------------------------------


class Wish(StopWish):
    """To stop with SIGTERM after so many steps."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    @property  # type: ignore[override]
    def signum(self) -> int:
        self.left -= 1
        return 15 if self.left == 0 else 0

    @signum.setter
    def signum(self, value: int) -> None:
        pass


def test_a_wish_to_stop_leaves_a_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    from src.training.checkpoint import load_checkpoint

    plan = plan_of()
    whole, stopped, again = (learner_of(ema=0.9) for _ in range(3))
    end = trained(tmp_path / "whole", whole, plan)
    with pytest.raises(Interrupted, match="stopped after step 5 of 12"):
        trained(tmp_path / "stopped", stopped, plan, wish=Wish(5), notes={"cuts": [[1, 0.5]]})
    state = load_checkpoint(tmp_path / "stopped")
    assert state is not None and state["step"] == 5 and state["cuts"] == [[1, 0.5]]
    again.restore(state)
    done = trained(tmp_path / "stopped", again, plan, Progress(*(state[key] for key in Progress._fields)))
    assert same(again.snapshot(), whole.snapshot())
    assert (done.step, len(done.history)) == (end.step, len(end.history)) == (12, 3)
    assert [row["loss"] for row in done.history] == [row["loss"] for row in end.history]


class Late:
    """A watch that finds the plan too long from a step on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def must_replan(self, step: int) -> bool:
        return step >= self.step


@pytest.mark.parametrize(("late", "stop"), [(5, 5), (11, 11), (12, 12)])
def test_what_cannot_end_in_time_is_handed_back(tmp_path: Path, late: int, stop: int) -> None:
    done = trained(tmp_path, learner_of(), plan_of(), watch=Late(late))
    assert done.step == stop and isinstance(done.loss_so_far[0], float)
    assert done.loss_so_far[1] == stop % 4, "batches of the epoch that it stopped in"


def test_checkpoints_are_written_as_often_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("src.training.session.time.monotonic", lambda: now[0])

    def steps(every: float) -> list[int]:
        session, written = session_in(tmp_path, plan_of(), checkpoint_every=every, notes={"n": "kept"}), []
        session.saved_at = now[0] = 0.0
        monkeypatch.setattr(session.checkpoints, "write", lambda step, state: written.append((step, state)))
        for step in range(1, 9):
            now[0] += 10
            session.save(Progress(step, [], 0.0, (torch.tensor(2.0), 3)), lambda: {"model": {}}, now=step == 8)
        rest = {"model": {}, "n": "kept", "history": [], "spent": 0.0, "loss_so_far": (2.0, 3)}
        assert [state for _, state in written] == [{"step": step, **rest} for step, _ in written]
        return [step for step, _ in written]

    assert steps(1e9) == [8]
    assert steps(5) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert steps(25) == [3, 6, 8]


# ---- rehearsals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("spec", [RGB, ImageSpec(6, "uint16")])
def test_a_rehearsal_leaves_everything_as_it_was(accumulate: int, spec: ImageSpec) -> None:
    accelerator, model = make_accelerator("cpu", "fp16", accumulate), network(spec.channels).eval()
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1)  # every step moves it
    model.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape)))
    shapes: list[tuple[int, ...]] = []
    before, place, scale = copy.deepcopy(model.state_dict()), accelerator.step, accelerator.scaler.state_dict()
    made: list[nn.Module] = []

    def make(trial: nn.Module) -> torch.optim.Optimizer:
        made.append(trial)
        return optimizer_of(trial)

    with rehearsal(model, make, OBJECTIVE, spec, accelerator) as step:
        step(4, 8)
        step(2, 12)
        (trial,) = made
        assert trial is not model and trial.training
        assert accelerator.scaler.get_scale() == 2.0**12
    assert shapes == [(4, spec.channels, 8, 8)] * accumulate + [(2, spec.channels, 12, 12)] * accumulate
    assert same(model.state_dict(), before) and not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert accelerator.step == place and accelerator.scaler.state_dict() == scale
    with pytest.raises(RuntimeError), rehearsal(model, make, OBJECTIVE, spec, accelerator) as step:
        step(2, 2)  # smaller than a kernel
    assert accelerator.step == place and accelerator.scaler.state_dict() == scale


def test_a_rehearsed_step_is_a_whole_one() -> None:
    accelerator, model, made = make_accelerator("cpu", "fp32"), network(), []
    make: Callable[[nn.Module], torch.optim.Optimizer] = lambda trial: made.append(trial) or optimizer_of(trial)  # noqa: E731
    with rehearsal(model, make, OBJECTIVE, RGB, accelerator) as step:
        step(4, 8)
        assert not torch.equal(made[0][5].bias, model[5].bias), "the optimiser has moved the copy"  # type: ignore[index]
