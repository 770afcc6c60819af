"""Soups: the mean of weights, the greedy choice against every subset in its order, and the leak probe."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from src.ensembling.nested import nested, splits
from src.ensembling.soup import greedy, mean_state


def test_mean_state_is_the_mean_of_floats_and_the_first_of_counters() -> None:
    states = [{"w": torch.full((2,), value), "n": torch.tensor(int(value))} for value in (1.0, 2.0, 6.0)]
    mean = mean_state(states)
    torch.testing.assert_close(mean["w"], torch.full((2,), 3.0))
    assert int(mean["n"]) == 1
    assert float(states[0]["w"][0]) == 1.0, "the members stay as they are"


def test_mean_state_of_half_precision_is_taken_in_float32() -> None:
    states = [{"w": torch.full((1,), value, dtype=torch.float16)} for value in (60000.0, 60000.0)]
    assert float(mean_state(states)["w"]) == 60000.0 and mean_state(states)["w"].dtype == torch.float16


def test_the_greedy_soup_takes_what_does_not_harm() -> None:
    values = {(2,): 0.7, (1, 2): 0.6, (0, 2): 0.7, (0, 2, 3): 0.75, (0, 1, 2, 3): 0.0}
    asked: list[tuple[int, ...]] = []

    def quality(chosen: tuple[int, ...]) -> float:
        asked.append(chosen)
        return values[chosen]

    assert greedy([2, 1, 0, 3], quality) == (0, 2, 3)
    assert asked == [(2,), (1, 2), (0, 2), (0, 2, 3)]
    assert greedy([1], lambda chosen: 0.0) == (1,)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_the_greedy_soup_of_weights_is_the_naive_loop_and_no_worse_than_its_best_member(seed: int) -> None:
    """Linear classifiers around a good one, some far from it; the soup's weights are the mean of what it takes in."""
    random = np.random.default_rng(seed)
    x, truth = random.normal(size=(400, 6)), random.normal(size=(6, 3))
    labels = (x @ truth).argmax(1)
    noise = random.normal(size=(8, 6, 3)) * random.uniform(0.2, 3, (8, 1, 1))
    members = [{"w": torch.from_numpy(truth + each)} for each in noise]

    def accuracy(weights: np.ndarray) -> float:
        return float(((x @ weights).argmax(1) == labels).mean())

    alone = [accuracy(truth + each) for each in noise]
    order = sorted(range(8), key=lambda i: -alone[i])
    kept = [order[0]]
    for i in order[1:]:
        with_it = truth + sum(noise[j] for j in [*kept, i]) / (len(kept) + 1)
        if accuracy(with_it) >= accuracy(truth + sum(noise[j] for j in kept) / len(kept)):
            kept.append(i)

    def quality(chosen: tuple[int, ...]) -> float:
        return accuracy(mean_state([members[i] for i in chosen])["w"].numpy())

    found = greedy(order, quality)
    assert found == tuple(sorted(kept)) and 1 < len(found) < 8
    assert quality(found) > max(alone)


def accuracy_of_soups(random: np.random.Generator, nest: bool) -> float:
    """Ten members that know nothing of 300 random labels; a soup predicts the mean of its members."""
    labels, folds = random.integers(0, 4, 300), np.arange(300) % 3
    members = random.random((10, 300, 4)).astype(np.float32)

    def choose(rows: np.ndarray) -> tuple[int, ...]:
        def quality(chosen: tuple[int, ...]) -> float:
            return float((members[list(chosen)].mean(0)[rows].argmax(1) == labels[rows]).mean())

        return greedy(sorted(range(10), key=lambda r: quality((r,)), reverse=True), quality)

    if nest:
        pred = nested(
            splits(folds, labels, 0),
            lambda k, rows: choose(rows),
            lambda chosen, k, rows: members[list(chosen)].mean(0)[rows],
            300,
            4,
        ).pred
    else:
        pred = members[list(choose(np.arange(300)))].mean(0)
    return float((pred.argmax(1) == labels).mean())


def test_random_labels_score_at_chance_nested_and_above_it_where_they_were_chosen() -> None:
    random = np.random.default_rng(0)
    error = np.sqrt(0.25 * 0.75 / 300 / 20)
    honest = np.mean([accuracy_of_soups(random, nest=True) for _ in range(20)])
    leaky = np.mean([accuracy_of_soups(random, nest=False) for _ in range(20)])
    assert abs(honest - 0.25) < 3 * error
    assert leaky > 0.25 + 6 * error


def test_one_fold_alone_is_split_and_its_final_choice_uses_all_its_rows() -> None:
    labels = np.arange(50) % 5
    seen: list[int] = []

    def choose(k: int, rows: np.ndarray) -> tuple[int, ...]:
        seen.append(len(rows))
        return (0,)

    found = nested(
        splits(np.full(50, 3), labels, 0), choose, lambda chosen, k, rows: np.zeros((len(rows), 5), np.float32), 50, 5
    )
    assert seen == [40] * 5 + [50] and found.fitted == {3: (0,)}
    assert not np.isnan(found.pred).any()


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(threads: int) -> None:
    labels, folds = np.arange(60) % 3, np.arange(60) % 4
    found = nested(
        splits(folds, labels, 0),
        lambda k, rows: float(rows.sum()),
        lambda value, k, rows: np.full((len(rows), 3), value, np.float32),
        60,
        3,
        threads=threads,
    )
    for k in range(4):
        expected = float(np.flatnonzero(folds != k).sum())
        assert found.fitted[k] == expected and (found.pred[folds == k] == expected).all()
