"""Learning rate as a function of the step, and durations in any unit as steps."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from src.errors import UserError

Multiplier = Callable[[int], float]


def cosine(t: float, final: float = 0.0) -> float:
    """1 -> final over t in 0..1: ½(1 + cos(tπ)) (SGDR, 1608.03983; Bag of Tricks 5.1)."""
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, t)))


def linear(t: float, final: float = 0.0) -> float:
    return 1 + (final - 1) * min(1.0, t)


def drop(t: float, drops: tuple[float, ...], factor: float = 0.1) -> float:
    """Multi-step decay: times `factor` at each share of the run in `drops`."""
    return factor ** sum(t >= at for at in drops)


def exponential(step: int, every: int, decay: float = 0.94) -> float:
    """Staircase decay, x0.94 every two epochs by default (RMSProp recipe of Inception)."""
    return decay ** (step // every)


def one_cycle(step: int, total: int, rise: int, start: float, top: float, final: float) -> float:
    """start -> top over the first `rise` steps, -> final at step total-1, both along half a cosine (1708.07120).

    As in torch's OneCycleLR and fastai: the last of the `rise` steps is the one at the top. Also for momentum, whose
    top is the lower value.
    """
    peak = max(0, rise - 1)
    if step < peak:
        return top + (start - top) * cosine(step / peak)
    return final + (top - final) * cosine((step - peak) / max(1, total - 1 - peak))


def multiplier(
    kind: str,
    total: int,
    warmup: int,
    *,
    final: float = 0.0,
    drops: tuple[float, ...] = (),
    factor: float = 0.1,
    decay: float = 0.94,
    every: int = 1,
    start: float = 0.04,
    swa_start: int | None = None,
    swa_lr: float | None = None,
) -> Multiplier:
    """step -> share of the peak rate, for steps 0 .. total-1.

    Warm-up is linear: step i of m gets (i+1)/m of the rate, so the m-th step is the first at full rate (Goyal et al.
    1706.02677). Decay runs over the steps after it. one_cycle rises from `start` along a cosine instead. From
    `swa_start` on the rate is `swa_lr` if that is set (SWA wants a constant rate, 1803.05407).
    """

    def at(step: int) -> float:
        if swa_lr is not None and swa_start is not None and step >= swa_start:
            return swa_lr
        if kind == "one_cycle":
            return one_cycle(step, total, warmup, start, 1.0, final)
        if step < warmup:
            return (step + 1) / warmup
        t = (step - warmup) / max(1, total - warmup)
        if kind == "cosine":
            return cosine(t, final)
        if kind == "linear":
            return linear(t, final)
        if kind == "steps":
            return drop(step / total, drops, factor)
        if kind == "exponential":
            return exponential(step - warmup, every, decay)
        return 1.0

    return at


def duration(text: str, *, total: int, epoch: float, key: str) -> int:
    """A duration in steps. "200 steps", "3 epochs" (`epoch` steps each), "25%" or a bare share "0.25" of `total` steps.

    Raises UserError naming `key`.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(steps?|epochs?|%)?\s*", str(text))
    if match is None:
        raise UserError(f'{key}={text!r}: expected a duration such as "200 steps", "3 epochs" or "25%"')
    number, unit = float(match[1]), match[2] or "share"
    if unit.startswith("step"):
        return round(number)
    if unit.startswith("epoch"):
        return round(number * epoch)
    if unit == "share" and number > 1:
        raise UserError(f'{key}={text!r}: add the unit, "{text} epochs" or "{text} steps"')
    return round(total * (number / 100 if unit == "%" else number))


def seconds(text: str, key: str = "time_budget") -> float:
    """ "8.5h", "90m", "300s" or a bare number of seconds, as seconds. Raises UserError naming `key`."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([hms]?)\s*", str(text))
    if match is None or float(match[1]) <= 0:
        raise UserError(f"{key}={text!r}: expected a time such as 8.5h, 90m or 300s")
    return float(match[1]) * {"h": 3600, "m": 60, "s": 1, "": 1}[match[2]]
