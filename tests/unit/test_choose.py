"""Which weights are kept, and that the score of a fold is not chosen by its own rows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from src.competition.folds import halves_of
from src.competition.metrics import find_metric
from src.config import AverageConfig
from src.fold.choose import Kept, choose_weights, cross_fitted

ACCURACY, LOSS, AUC = (find_metric(name) for name in ("accuracy", "log_loss", "auc"))
KINDS = ("raw", "ema", "swa")


def guesses(rng: np.random.Generator, y: np.ndarray, right: float, alike: np.ndarray, share: float) -> np.ndarray:
    """Predictions (N, 5), right in a share of the rows; `alike` (N,) decides all but a `share` of them."""
    luck = np.where(rng.random(len(y)) < share, rng.random(len(y)), alike)
    guess = np.where(luck < right, y, (y + 1) % 5)
    return np.eye(5)[guess]


def scored(pred: dict[str, np.ndarray], by_row: np.ndarray, y: np.ndarray) -> float:
    mixed = np.stack([pred[kind][row] for row, kind in enumerate(by_row)])
    return ACCURACY.function(y, mixed)


def test_the_score_is_that_of_one_candidate_where_all_are_alike() -> None:
    """Three kinds that are right in 0.8 of the rows and differ in a tenth of them: chosen on the rows that are scored,
    the best of them looks better by several thousandths; each half by the choice of the other does not."""
    rng = np.random.default_rng(0)
    plain, honest = [], []
    for trial in range(400):
        y, alike = rng.integers(0, 5, 400), rng.random(400)
        pred = {kind: guesses(rng, y, 0.8, alike, 0.1) for kind in KINDS}
        kept, by_row = cross_fitted(ACCURACY, y, pred, halves_of(y, None, trial))
        plain.append(ACCURACY.function(y, pred[kept]))
        honest.append(scored(pred, by_row, y))
    error = np.std(honest) / 20
    assert np.mean(plain) > 0.8 + 4 * error, "the optimism that this is about"
    assert abs(np.mean(honest) - 0.8) < 3 * error


def test_what_is_really_better_is_kept() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 5, 2000)
    pred = {
        kind: guesses(rng, y, right, rng.random(2000), 1.0) for kind, right in zip(KINDS, (0.6, 0.9, 0.6), strict=True)
    }
    kept, by_row = cross_fitted(ACCURACY, y, pred, halves_of(y, None, 0))
    assert kept == "ema" and (by_row == "ema").all()


def test_lower_is_better_for_a_loss() -> None:
    rng = np.random.default_rng(2)
    y = rng.integers(0, 2, 400)
    sure, unsure = (np.stack([np.where(y == c, p, 1 - p) for c in (0, 1)], 1) for p in (0.9, 0.6))
    assert cross_fitted(LOSS, y, {"raw": unsure, "ema": sure}, halves_of(y, None, 0))[0] == "ema"


def test_each_half_is_predicted_by_the_best_of_the_other() -> None:
    y = np.zeros(20, np.int64)
    halves = np.arange(20) < 10
    right, wrong = np.eye(5)[y], np.eye(5)[y + 1]
    pred = {"raw": np.where(halves[:, None], right, wrong), "ema": np.where(halves[:, None], wrong, right)}
    _, by_row = cross_fitted(ACCURACY, y, pred, halves)
    assert (by_row[halves] == "ema").all() and (by_row[~halves] == "raw").all()


def test_a_half_of_one_class_decides_nothing() -> None:
    y = np.array([0] * 10 + [1])
    pred = {kind: np.full((11, 2), 0.5) for kind in KINDS}
    assert cross_fitted(AUC, y, pred, np.arange(11) < 5)[0] == "swa", "the last one, unseen"


@pytest.mark.parametrize("seed", range(5))
def test_halves_share_the_strata(seed: int) -> None:
    strata = np.repeat([0, 1, 2], [40, 21, 3])
    halves = halves_of(strata, None, seed)
    for stratum in range(3):
        inside = halves[strata == stratum]
        assert abs(inside.sum() - len(inside) / 2) <= 1
    assert not np.array_equal(halves, halves_of(strata, None, seed + 1))


def test_a_group_is_in_one_half() -> None:
    groups = np.array([f"g{i % 7}" for i in range(50)])
    halves = halves_of(np.zeros(50, np.int64), groups, 0)
    for group in np.unique(groups):
        assert len(set(halves[groups == group].tolist())) == 1
    assert 0 < halves.sum() < 50


def test_held_out_rows_are_predicted_by_their_own_kind() -> None:
    by_row = np.array(["raw", "ema", "raw", "ema"])
    kept = Kept({"raw": 1, "ema": 2}, "ema", by_row, {})  # type: ignore[dict-item]

    def predict(network: int, rows: np.ndarray) -> np.ndarray:
        return np.stack([np.full(len(rows), network), rows], 1).astype(np.float32)

    found = kept.held_out(predict, np.array([10, 20, 30, 40]))  # type: ignore[arg-type]
    assert found.tolist() == [[1, 10], [2, 20], [1, 30], [2, 40]]


@pytest.mark.parametrize(
    ("compare", "in_time", "kept", "scored"),
    [
        (True, True, "ema", {"raw": 0.5, "ema": 0.9, "swa": 0.7}),
        (False, True, "swa", {"swa": 0.7}),  # the last, whatever it scores
        (True, False, "ema", {"ema": 0.9}),  # there is no time for SWA's statistics
    ],
)
def test_which_weights_are_compared_and_kept(compare: bool, in_time: bool, kept: str, scored: dict) -> None:
    networks = {kind: nn.Linear(1, 1) for kind in KINDS}
    accelerator = SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cpu"))
    learner: Any = SimpleNamespace(
        accelerator=accelerator,
        network=networks["raw"],
        ema=SimpleNamespace(module=networks["ema"]),
        swa=SimpleNamespace(module=networks["swa"]),
    )
    stages, average = [SimpleNamespace(start=0)], AverageConfig(compare=compare)
    plan: Any = SimpleNamespace(
        stages=stages, orders=lambda *_: iter(()), average=average, seed=0, holds_statistics=False
    )
    y = np.zeros(20, np.int64)
    right = {"raw": 10, "ema": 18, "swa": 14}
    preds = {kind: np.eye(2)[np.where(np.arange(20) % 20 < count, 0, 1)] for kind, count in right.items()}

    def predict(network: nn.Module) -> np.ndarray:
        return next(preds[kind] for kind in KINDS if networks[kind] is network)

    lesson: Any = SimpleNamespace(store=None, resident=None)
    halves = np.arange(20) % 2 == 0
    found = choose_weights(learner, lesson, plan, None, ACCURACY, y, halves, predict, in_time)  # type: ignore[arg-type]
    assert found.kind == kept and found.network is networks[kept]
    assert dict(found.scores) == pytest.approx(scored) and (found.by_row == kept).all()
