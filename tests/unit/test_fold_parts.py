"""What the rooms of a fold hand on to each other, and what they decide, without a network."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from src.competition.kinds.multi import Multi
from src.config import Config, LossConfig, build
from src.errors import UserError
from src.files import write_json
from src.fold import batch_size as batches
from src.fold import deadline as deadlines
from src.fold import plan as plans
from src.fold import resume
from src.fold.batch_size import batch_size_or_default, resolve_batch_size
from src.fold.deadline import FoldTime, Turn, affordable_views, deadline, shortened, too_short
from src.fold.measured import ranges
from src.fold.objective import labelled
from src.fold.plan import plan_fold
from src.inference.tta import VIEWS
from src.model.outputs import outputs_of
from src.training.session import Progress

ALONE: Any = SimpleNamespace(
    num_processes=1,
    is_main_process=True,
    device=torch.device("cpu"),
    gather=lambda tensor: tensor,
    wait_for_everyone=lambda: None,
)


def config(**values: Any) -> Config:
    return build({"competition": {"name": "it", "root": "."}, **values})


def test_a_plan_has_every_key_that_it_is_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}
    stages = [SimpleNamespace(number=0, stop=1)]
    monkeypatch.setattr(plans, "plan_stages", lambda specs, **given: found.update(given, specs=specs) or stages)
    values = {
        "seed": 7, "epochs": 3.0, "size": 40, "batch_size": 12, "balance": 0.5, "eval": {"every": 2},
        "stages": [{"rows": 0.5}, {}], "optimizer": {"lr": 0.3, "accumulate": 4}, "model": {"freeze": "10%"},
        "mix": {"mixup": 0.3}, "average": {"ema": 0.8}, "schedule": {"warmup": "7%"},
    }  # fmt: skip
    given, rows, strata = config(**values), np.array([3, 5, 9]), np.array([1, 1, 0])
    augment = ranges(given.augment)
    plan = plan_fold(given, rows, strata, augment, processes=3)
    assert found.pop("rows") is rows and found.pop("strata") is strata
    assert found == {
        "specs": given.stages, "epochs": 3.0, "size": 40, "batch_size": 12, "processes": 3, "accumulate": 4,
        "seed": 7, "balance": 0.5,
    }  # fmt: skip
    assert (plan.stages, plan.rows, plan.seed, plan.base_lr) == (tuple(stages), 3, 7, 0.3)
    assert (plan.schedule, plan.average, plan.mixing) == (given.schedule, given.average, given.mix)
    assert (plan.augment, plan.freeze, plan.validate_every) == (augment, "10%", 2)


@pytest.mark.parametrize("share", [None, "200%"])
def test_few_rows_are_looked_at_until_there_are_enough_steps(share: str | None) -> None:
    """Counted with the batch that each stage has."""
    stages = [{"length": "40%", "rows": 0.5, "batch_size": share}, {"length": "60%"}]
    rows = np.arange(100)
    given = config(epochs=2, least_steps=300, batch_size=10, stages=stages)
    plan = plan_fold(given, rows, rows % 2, ranges(given.augment))
    assert abs(plan.steps - 300) <= 2
    assert (
        plan_fold(config(epochs=80, least_steps=300, batch_size=10), rows, rows % 2, ranges(given.augment)).steps == 800
    )


def test_true_rows_of_a_column_weigh_as_much_as_its_false_ones() -> None:
    """Of the rows that are learnt from alone, column by column."""
    y = np.array([[1, 1], [0, 1], [0, 1], [0, 0], [1, 0], [1, 0]], bool)
    outputs = outputs_of("multi", "cross_entropy", 2)
    task, device = Multi(np.array(["a", "b"])), torch.device("cpu")
    found = labelled(task, y, np.arange(4), outputs, LossConfig(class_weights="balanced"), device)
    logits, x = torch.tensor([[0.3, -0.7]]), torch.zeros(1, 3, 2, 2)
    weights = torch.tensor([3.0, 1 / 3])
    for row in range(4):
        target = found.targets(torch.tensor([row]))
        each = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=weights)
        torch.testing.assert_close(found.loss(logits, target, x), each.sum())


def test_the_batch_size_is_found_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def find(config: Config, competition: Any, size: int, most: int, accelerator: Any) -> int:
        asked.append((size, most))
        return 24

    monkeypatch.setattr(batches, "find_batch_size", find)
    assert batch_size_or_default(config(batch_size=48)) == 48 and batch_size_or_default(config(batch_size="auto")) == 64
    fixed, run = config(batch_size=48), tmp_path / "r"
    assert resolve_batch_size(fixed, None, 1000, run, ALONE) is fixed and not asked  # type: ignore[arg-type]
    auto = config(batch_size="auto", size=40, stages=[{"size": 1.6}, {}], optimizer={"accumulate": 2})
    auto = dataclasses.replace(auto, paths=dataclasses.replace(auto.paths, runs=str(tmp_path)))
    for _ in range(2):
        assert resolve_batch_size(auto, None, 4000, run, ALONE).batch_size == 24  # type: ignore[arg-type]
    assert asked == [(64, 100)], "the largest stage's size; an epoch keeps twenty steps of two micro-batches"
    write_json(tmp_path / "other" / "batch_size.json", {"batch_size": 8})
    assert resolve_batch_size(auto, None, 4000, tmp_path / "other", ALONE).batch_size == 8  # type: ignore[arg-type]
    assert len(asked) == 1


def test_a_checkpoint_of_other_batches_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, removed = {"batches": [32, 64], "processes": 2}, []
    fields: list[tuple[str, ...]] = []
    monkeypatch.setattr(resume, "load_checkpoint", lambda folder, names: fields.append(names) or state)
    monkeypatch.setattr(resume, "remove_checkpoints", removed.append)
    whole: Any = SimpleNamespace(stages=[SimpleNamespace(total_batch=32), SimpleNamespace(total_batch=64)])
    assert resume.unfinished(config(), tmp_path, whole, ALONE) is state and not removed
    assert set(fields[0]) == {*Progress._fields, "cuts", "batches", "processes", "wandb"}
    resume.unfinished(config(resume="never"), tmp_path, whole, ALONE)
    assert removed == [tmp_path]
    whole.stages[1].total_batch = 65
    with pytest.raises(UserError, match="use processes=2 parallel=data again, or resume=never"):
        resume.unfinished(config(), tmp_path, whole, ALONE)


def test_a_deadline_counts_from_the_command_or_the_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    assert deadline(config(time_budget=None), 1000.0) is None
    assert deadline(config(time_budget="90s"), 1000.0) == 1088.5
    monkeypatch.setattr(deadlines, "notebook_began", lambda: None)
    assert deadline(config(), 1000.0) is None
    monkeypatch.setattr(deadlines, "notebook_began", lambda: 500.0)
    monkeypatch.setattr(deadlines, "on_tpu", lambda: False)
    assert deadline(config(), 1000.0) == 500 + 12 * 3600 - 600 - 1.5
    monkeypatch.setattr(deadlines, "on_tpu", lambda: True)
    assert deadline(config(), 1000.0) == 500 + 9 * 3600 - 600 - 1.5


def test_a_fold_waits_for_another_start_only_if_that_goes_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each start would leave it to the next one, and none would train it."""
    monkeypatch.setattr(deadlines, "on_tpu", lambda: False)
    typed, session, hour = config(time_budget="2h"), config(), 3600.0
    now = Turn(0.0, 3, finished=(0, 1))
    assert not Turn(0.0).may_wait((), 1.0, session), "there has to be something to submit"
    assert now.may_wait((0, 1, 2), 5 * hour, typed), "the next start has all of its time for it"
    assert not now.may_wait((0, 1), 5 * hour, typed), "the next start would have no more time"
    assert now.may_wait((0, 1), 5 * hour, session), "a session of twelve hours is long enough"
    assert not now.may_wait((0, 1), 12 * hour, session), "no session is"


def test_a_budget_without_a_step_names_one_with() -> None:
    """Ten seconds of which seven have passed, another 40 are needed: twice 47, as the machine may be busier."""
    said = too_short(config(time_budget="10s"), 3.0, 40.0)
    assert said == "time_budget=10s: 3s left, too little for one step of training; give time_budget=94s or more"
    assert "give time_budget=102s or more" in too_short(config(time_budget="10s"), -1.0, 40.0)
    assert "0s left" in too_short(config(), -5.0, 90.0)
    assert "this fold takes 1m30s at least; start again in a new session, or" in too_short(config(), -5.0, 90.0)


def test_views_that_there_is_time_for(capsys: pytest.CaptureFixture[str]) -> None:
    def timing(left: float) -> FoldTime:
        return FoldTime(time.time() + left, None, 0.0, 0.0, 1)  # type: ignore[arg-type]

    assert affordable_views("d4", None, 1e9, ALONE) == VIEWS["d4"]
    assert affordable_views("d4", timing(1000.0), 1.0, ALONE) == VIEWS["d4"] and not capsys.readouterr().out
    assert affordable_views("d4", timing(30.0), 8.0, ALONE) == VIEWS["d4"][:3]
    assert "time_budget: 3 of 8 TTA views" in capsys.readouterr().out
    assert affordable_views("d4", timing(-5.0), 8.0, ALONE) == VIEWS["d4"][:1]


def test_cuts_are_made_one_after_the_other() -> None:
    class Spy:
        def __init__(self, done: tuple = ()) -> None:
            self.done = done

        def shortened(self, step: int, factor: float) -> Spy:
            return Spy((*self.done, (step, factor)))

    assert shortened(Spy(), [[10, 0.5], [30.0, 0.8]]).done == ((10, 0.5), (30, 0.8))  # type: ignore[arg-type, attr-defined]


def test_a_sample_of_many_held_out_rows_is_watched_amid_training() -> None:
    held_out, strata = np.arange(5, 1005), np.arange(1000) % 10 // 9  # a tenth is of the second kind
    for most in (1000, 2000):
        assert plans.watched_rows(config(eval={"rows": most}), held_out, strata) is held_out
    watched = plans.watched_rows(config(eval={"rows": 100}), held_out, strata)
    assert len(np.unique(watched)) == 100 and np.isin(watched, held_out).all()
    assert strata[watched - 5].sum() == 10
    again, other = (plans.watched_rows(config(eval={"rows": 100}, seed=seed), held_out, strata) for seed in (0, 1))
    assert (watched == again).all() and (watched != other).any()
