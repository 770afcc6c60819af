"""Model soups: one network from the weights of several that share an architecture and a start (2203.05482)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Chosen = tuple[int, ...]


def greedy(order: Sequence[int], quality: Callable[[Chosen], float]) -> Chosen:
    """The members of a greedy soup, ascending: of `order`, best first, each joins if the soup is no worse with it.

    quality: of the soup of some members (greater is better); that of the first alone is what the others have to hold.
    """
    chosen: Chosen = (order[0],)
    best = quality(chosen)
    for member in order[1:]:
        larger = tuple(sorted((*chosen, member)))
        found = quality(larger)
        if found >= best:
            chosen, best = larger, found
    return chosen


def mean_state(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The plain mean of state dicts of one architecture, in float32; counters are the first one's.

    The running statistics of BatchNorm have to be measured again afterwards: a mean of variances is no variance.
    """
    mean = {}
    for key, first in states[0].items():
        mean[key] = first.clone()
        if first.is_floating_point():
            mean[key] = (sum(state[key].float() for state in states) / len(states)).to(first.dtype)
    return mean
