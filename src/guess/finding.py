"""One decision about an unknown folder: the key it sets, why, and what else it might have been."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """key: of the section `competition`; rule: a few words by which the decision is known; why: what was seen."""

    key: str
    value: Any
    rule: str
    why: str
    others: tuple[Any, ...] = ()  # the likeliest alternatives for the value
