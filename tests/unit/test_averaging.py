"""EMA and SWA against closed forms; fresh BatchNorm statistics against the population's own."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from src.training.averaging import Ema, average_buffers, make_swa, refresh_batchnorm

torch.set_num_threads(1)  # the networks are so small that threads only cost


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3),
        nn.BatchNorm2d(5),
        nn.Flatten(),
        nn.Linear(80, 6),
        nn.BatchNorm1d(6),
    )


def set_to(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)


def inputs(*counts: int, seed: int = 0) -> list[torch.Tensor]:
    """Batches whose means differ a lot, so that the variance between batches matters."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, 3, 8, 8, generator=generator) * (1 + i) + 3 * i for i, count in enumerate(counts)]


# ---- EMA ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.999, 0.5])
def test_ema_closed_form_with_warmup(decay: float) -> None:
    """ema = d·ema + (1-d)·w with d = min(decay, t/(t+10)), t counted from 0: the first update copies."""
    model = network()
    ema = Ema(model, decay)
    expected, capped = None, 0
    for step in range(60):
        weight = float((-1) ** step * (1 + step % 7))
        set_to(model, weight)
        ema.update(model, step + 1)
        d = min(decay, step / (step + 10))
        capped += d == decay
        expected = weight if expected is None else d * expected + (1 - d) * weight
        for name, tensor in ema.module.state_dict().items():
            if tensor.is_floating_point():  # buffers too: the running statistics belong to the weights
                torch.testing.assert_close(tensor, torch.full_like(tensor, expected), rtol=1e-5, atol=1e-6, msg=name)
            else:
                assert (tensor == int(weight)).all()
    assert capped == (50 if decay == 0.5 else 0)


def test_ema_of_every_fourth_step_is_that_of_weights_that_stood_still() -> None:
    """The weights change at steps 1, 5, 9 … only, so an average of each step is the same at steps 4, 8, 12 …"""
    model = network()
    each, fourth = Ema(model, 0.9), Ema(model, 0.9, every=4)
    for step in range(1, 43):
        if step % 4 == 1:
            set_to(model, float(step % 7))
        each.update(model, step)
        before = fourth.module.state_dict()["0.weight"].clone()
        fourth.update(model, step, last=step == 42)
        moved = not torch.equal(before, fourth.module.state_dict()["0.weight"])
        assert moved == (step % 4 == 0 or step == 42), step
        if moved:
            for mine, other in zip(fourth.module.parameters(), each.module.parameters(), strict=True):
                torch.testing.assert_close(mine, other)


def test_ema_equals_that_of_timm() -> None:
    from timm.utils import ModelEmaV3

    model = network()
    ours = Ema(model, 0.9)
    theirs = ModelEmaV3(model, decay=0.9, use_warmup=True, warmup_gamma=10.0, warmup_power=1.0)
    for step in range(150):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(4, 3, 8, 8))
        ours.update(model, step + 1)
        theirs.update(model, step + 1)
    for (name, mine), other in zip(ours.module.state_dict().items(), theirs.module.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other, msg=name)


def test_ema_is_a_copy_in_eval_mode() -> None:
    model = network().train()
    ema = Ema(model, 0.9)
    assert not ema.module.training and model.training
    before = copy.deepcopy(ema.module.state_dict())
    set_to(model, 7.0)
    for name, tensor in ema.module.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_resume_of_the_ema_needs_its_weights_and_the_step_only() -> None:
    model = network()
    whole, first = Ema(model, 0.999), Ema(model, 0.999)
    for step in range(5):
        set_to(model, step + 1.0)
        whole.update(model, step + 1)
        first.update(model, step + 1)
    second = Ema(network(9), 0.999)
    second.module.load_state_dict(first.module.state_dict())
    for step in range(5, 9):
        set_to(model, step + 1.0)
        whole.update(model, step + 1)
        second.update(model, step + 1)
    for mine, other in zip(second.module.state_dict().values(), whole.module.state_dict().values(), strict=True):
        assert torch.equal(mine, other)


# ---- SWA ------------------------------------------------------------------------------------------------------------


def test_swa_is_the_arithmetic_mean() -> None:
    model = network()
    swa, seen = make_swa(model), []
    for seed in range(5):
        model.load_state_dict(network(seed + 1).state_dict())
        swa.update_parameters(model)
        seen.append(copy.deepcopy(dict(model.named_parameters())))
    for name, parameter in swa.module.named_parameters():
        mean = torch.stack([parameters[name].double() for parameters in seen]).mean(0)
        torch.testing.assert_close(parameter.double(), mean, rtol=1e-5, atol=1e-6)


def test_a_resume_of_swa_keeps_the_counter() -> None:
    models = [network(seed) for seed in range(4)]
    whole, first = make_swa(models[0]), make_swa(models[0])
    for model in models[:2]:
        whole.update_parameters(model)
        first.update_parameters(model)
    second = make_swa(network(9))
    second.load_state_dict(first.state_dict())
    for model in models[2:]:
        whole.update_parameters(model)
        second.update_parameters(model)
    assert int(second.n_averaged) == 4
    for mine, other in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)


# ---- precise BN -----------------------------------------------------------------------------------------------------


def naive_statistics(model: nn.Module, batches: list[torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """All inputs of every BatchNorm, kept by hooks in train mode of a copy, as one population."""
    trial = copy.deepcopy(model).train()
    kept: dict[str, list[torch.Tensor]] = {}
    for name, module in trial.named_modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.register_forward_pre_hook(lambda _, x, name=name: kept.setdefault(name, []).append(x[0].detach()))
    for batch in batches:
        trial(batch)
    found = {}
    for name, parts in kept.items():
        values = torch.cat([part.transpose(0, 1).flatten(1) for part in parts], dim=1).double()
        found[name] = values.mean(1), values.var(1, unbiased=True)
    return found


@pytest.mark.parametrize("counts", [(8,), (8, 8, 8), (4, 16, 7)])
def test_first_layer_has_the_population_statistics(counts: tuple[int, ...]) -> None:
    model, data = network(), inputs(*counts)
    refresh_batchnorm(model, data)
    features = model[0](torch.cat(data)).detach().double()
    torch.testing.assert_close(model[1].running_mean.double(), features.mean((0, 2, 3)), rtol=1e-5, atol=1e-5)
    variance = features.transpose(0, 1).flatten(1).var(1, unbiased=True)
    torch.testing.assert_close(model[1].running_var.double(), variance, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("counts", [(8,), (8, 8, 8), (4, 16, 7)])
def test_every_layer_equals_a_naive_computation(counts: tuple[int, ...]) -> None:
    model, data = network(), inputs(*counts)
    expected = naive_statistics(model, data)
    refresh_batchnorm(model, iter(data))  # an iterator is enough
    assert len(expected) == 3
    for name, (mean, variance) in expected.items():
        layer = model.get_submodule(name)
        torch.testing.assert_close(layer.running_mean.double(), mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer.running_var.double(), variance, rtol=1e-5, atol=1e-5)


def test_variance_between_batches_counts() -> None:
    """What torch's update_bn leaves out, so the test above can tell the two apart."""
    model, data = network(), inputs(8, 8, 8)
    theirs = copy.deepcopy(model)
    torch.optim.swa_utils.update_bn(data, theirs)
    refresh_batchnorm(model, data)
    assert (model[1].running_var / theirs[1].running_var).max() > 1.5


def test_evaluation_on_one_batch_repeats_training_on_it() -> None:
    model, (data,) = network(), inputs(64)
    refresh_batchnorm(model, [data])
    with torch.no_grad():
        evaluated, trained = model.eval()(data), model.train()(data)
    torch.testing.assert_close(evaluated, trained, rtol=0.05, atol=0.05)  # biased against unbiased variance


def test_a_layer_that_is_used_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(2 * self.norm(x) + 1)

    model, data = Twice(), inputs(4, 6)
    mean, variance = naive_statistics(model, data)["norm"]
    refresh_batchnorm(model, data)
    torch.testing.assert_close(model.norm.running_mean.double(), mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.norm.running_var.double(), variance, rtol=1e-5, atol=1e-5)


def test_large_means_do_not_eat_the_variance() -> None:
    """E[x²] - E[x]² needs float64 here."""
    model = nn.Sequential(nn.BatchNorm2d(3))
    data = [1000 + torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    refresh_batchnorm(model, data)
    expected = torch.cat(data).double().transpose(0, 1).flatten(1).var(1)
    torch.testing.assert_close(model[0].running_var.double(), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("shares", [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0,), (1, 2, 3))])
def test_two_processes_equal_one(shares: tuple[tuple[int, ...], ...]) -> None:
    """Each process, here a thread, sees its batches and sums with the other's."""
    data = inputs(8, 6, 8, 5)
    alone = network()
    refresh_batchnorm(alone, data)

    both, there = threading.Barrier(2, timeout=60), [torch.empty(0)] * 2
    started = [network(), network()]  # here, not in the threads: torch's seed is one for both

    def refreshed(rank: int) -> nn.Module:
        def reduce(mine: torch.Tensor) -> torch.Tensor:
            there[rank] = mine
            both.wait()
            total = there[0] + there[1]
            both.wait()
            return total

        refresh_batchnorm(started[rank], [data[i] for i in shares[rank]], reduce)
        return started[rank]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(refreshed, (0, 1)))
    assert not torch.allclose(there[0], there[1])
    for model in found:
        for name, tensor in alone.state_dict().items():
            if "running" in name:
                torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-6, atol=1e-7)


def test_one_collective_call_averages_all_buffers() -> None:
    model, calls = network(), []

    def reduce(tensor: torch.Tensor, how: str) -> torch.Tensor:
        calls.append(how)
        return tensor / 2

    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    average_buffers(model, SimpleNamespace(num_processes=2, reduce=reduce))
    assert calls == ["mean"]
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, before[name] / 2 if buffer.is_floating_point() else before[name])


def test_float32_is_enough_far_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a TPU counts in, of values whose squares have no digits left for their variance."""
    model = nn.Sequential(nn.BatchNorm2d(2))
    data = [3000 + torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    monkeypatch.setattr(torch, "float64", torch.float32)
    refresh_batchnorm(model, data)
    monkeypatch.undo()
    values = torch.cat(data).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[0].running_var.double(), values.var(1), rtol=1e-3, atol=0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None, 0.01])
def test_nothing_else_is_changed(training: bool, momentum: float | None) -> None:
    model = network().train(training)
    for layer in model:
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.momentum = momentum
    before = copy.deepcopy(model.state_dict())
    if momentum is None:  # a cumulative average follows num_batches_tracked
        set_to(model, 1.0)
        before = copy.deepcopy(model.state_dict())
    refresh_batchnorm(model, inputs(4, 4))
    assert model.training is training and all(module.training is training for module in model.modules())
    for layer in model:
        assert not layer._forward_pre_hooks
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert layer.momentum == momentum
    for name, tensor in model.state_dict().items():
        if "running" in name:
            assert not torch.equal(tensor, before[name])
        elif "num_batches" not in name:
            assert torch.equal(tensor, before[name])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_batch_counter_stays() -> None:
    model = network()
    refresh_batchnorm(model, inputs(4, 4))
    assert int(model[1].num_batches_tracked) == 0


def test_no_batches_leave_the_statistics() -> None:
    model = network()
    refresh_batchnorm(model, [])
    assert torch.equal(model[1].running_var, torch.ones(4))


def test_running_statistics_stay_put_meanwhile() -> None:
    """They are replaced at the end, so a failing input leaves the momentum as it was."""
    model = network()

    def torn():
        yield from inputs(4)
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        refresh_batchnorm(model, torn())
    assert model[1].momentum == 0.1
    assert torch.equal(model[1].running_mean, torch.zeros(4))


def test_models_without_batchnorm() -> None:
    plain = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    refresh_batchnorm(plain, iter(lambda: pytest.fail("no batch is needed"), None))


def test_timm_layers_are_found() -> None:
    import timm

    model = timm.create_model("test_efficientnet", num_classes=3)  # its BatchNormAct2d is a BatchNorm
    data = [torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    refresh_batchnorm(model, data)
    features = model.conv_stem(torch.cat(data)).detach()
    torch.testing.assert_close(model.bn1.running_mean, features.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
