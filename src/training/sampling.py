"""Class-balanced sampling: which rows come at which place of an endless stream, as a function of the place alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Balance:
    """classes: the rows (n_c,) int64 of each class; quotas (K,) int64: how many of them come in each pass."""

    classes: tuple[np.ndarray, ...]
    quotas: np.ndarray


def balance_classes(rows: np.ndarray, labels: np.ndarray, balance: float) -> Balance:
    """A pass of N rows in which class c has N·((1-balance)·n_c/N + balance/K) of them, rounded so that they sum to N.

    rows (N,) int64, labels (N,) their classes, of which K are there; balance 0 keeps their shares, 1 makes them equal.
    """
    there, counts = np.unique(labels, return_counts=True)
    exact = (1 - balance) * counts + balance * len(rows) / len(there)
    quotas = np.floor(exact).astype(np.int64)
    most_cut = np.argsort(quotas - exact, kind="stable")
    quotas[most_cut[: len(rows) - quotas.sum()]] += 1
    return Balance(tuple(rows[labels == label] for label in there), quotas)


def balanced_rows(balance: Balance, places: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """(B,) int64 rows at `places` (B,), ascending, of the stream that `seed` names.

    Each pass is a shuffle of its quotas, and which rows of a class are in it goes round the class: after each pass the
    rows of a class have come equally often, give or take one. Our own, because torch's WeightedRandomSampler draws with
    replacement from a generator, whose state a resume would need.
    """
    passes, within = np.divmod(places, int(balance.quotas.sum()))
    ends = np.cumsum(balance.quotas)
    found = np.empty(len(places), np.int64)
    for number in np.unique(passes).tolist():
        here = passes == number
        slots = order_of_pass(int(ends[-1]), (*seed, 0, number))[within[here]]
        kinds = np.searchsorted(ends, slots, side="right")
        turn = number * balance.quotas[kinds] + slots - (ends - balance.quotas)[kinds]  # of the class, from the start
        found[here] = [_row(balance.classes, kind, place, seed) for kind, place in zip(kinds, turn, strict=True)]
    return found


def _row(classes: Sequence[np.ndarray], kind: int, place: int, seed: tuple[int, ...]) -> int:
    rows = classes[kind]
    number, within = divmod(int(place), len(rows))
    return int(rows[order_of_class(len(rows), (*seed, 1, int(kind), number))[within]])


def _order(count: int, seed: tuple[int, ...]) -> np.ndarray:
    """(count,) int64, the order that `seed` names."""
    return np.random.default_rng(seed).permutation(count)


# Kept, because each batch of a pass asks for them again: of whole passes the last two, in which a batch lies (80 MB of
# 10 million rows), of classes many.
order_of_pass, order_of_class = lru_cache(maxsize=2)(_order), lru_cache(maxsize=64)(_order)
