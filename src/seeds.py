"""The random streams of a run: each draw has a generator of its own, seeded by the run's seed and the stream.

A stream's number is part of what a seed means: changed, every run of that seed becomes another one.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    SUBSET = 1  # which rows of a class a stage on a share of the rows takes
    ORDER = 2  # the order of the rows in a pass, by stage and pass
    AUGMENT = 3  # a batch's crops and colours, by step, micro-batch and process
    EXAMPLES = 4  # the pictures of the augmentation
    MIX = 5  # mixup and CutMix, by step and process
    FLIP_LABELS = 7  # the planted harm
    HALVES = 9  # which half of the held-out rows a row is in
    BAGS = 11  # members and rows of bagged hill climbing


def generator(seed: int, stream: Stream, *place: int) -> np.random.Generator:
    """The generator of one draw; `place` says which (step, pass, process …), so that a resume needs no state."""
    return np.random.default_rng((seed, int(stream), *place))
