"""The words of `./run.sh ablate` and `ladder`: which tricks, on which pairs, and what the names of tricks stand for."""

from __future__ import annotations

import re
import shlex
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.errors import UserError, nearest

BASELINE = "baseline"  # what the arm without a trick is called
PLANTED = "planted_"  # what the names of the planted controls begin with


@dataclass(frozen=True)
class Pairing:
    """How tricks are compared: on every one of `folds` (none named: all of the configuration's) with `seeds` seeds
    each, from the `first_seed`-th on.

    mode: add (baseline against baseline with the trick) or remove (all tricks against all without this one). equal:
    epochs, or time (fewer or more epochs, so that both sides of a pair train about as long). share: of the training
    rows of every stage. rungs, keep: the shares of a ladder, and which part of the tricks goes on from each.
    """

    tricks: tuple[str, ...]
    seeds: int = 2
    folds: tuple[int, ...] = ()
    mode: str = "add"
    equal: str = "epochs"
    share: float = 1.0
    rungs: tuple[float, ...] = (0.25, 0.5, 1.0)
    keep: float = 0.5
    first_seed: int = 0


WORDS = {
    "ablate": ("tricks", "seeds", "folds", "mode", "equal", "share"),
    "ladder": ("tricks", "seeds", "folds", "equal", "rungs", "keep"),
}


def pairing_of(verb: str, words: Sequence[str]) -> tuple[Pairing, list[str]]:
    """The verb's own words as a `Pairing`, and the other words. Raises UserError naming the word."""
    import yaml

    values: dict[str, Any] = {}
    others = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or key not in WORDS[verb]:
            others.append(word)
            continue
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"{word}: cannot be read; put a trick that holds brackets in quotes of its own") from None
        if key in ("tricks", "folds", "rungs"):
            values[key] = tuple(values[key]) if isinstance(values[key], list) else (values[key],)
    for key, (valid, text) in VALID.items():
        if key in values and not valid(values[key]):
            raise UserError(f"{key}={values[key]}: {text}")
    if not values.get("tricks"):
        raise UserError(f"{verb}: which tricks? Give some of configs/tricks.yaml or keys, tricks=[mixup,loss.gamma=1]")
    return Pairing(**values), others


def _number(value: object, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _whole(value: object, low: int) -> bool:
    return isinstance(value, int) and _number(value, low, 10**6)


VALID = {
    "tricks": (
        lambda v: all(isinstance(t, str) and t.strip() for t in v) and len(set(v)) == len(v),
        "expected different names or overrides, e.g. [mixup,ema]",
    ),
    "seeds": (lambda v: _whole(v, 1), "how many? Give a number from 1"),
    "folds": (
        lambda v: v and all(_whole(k, 0) for k in v) and len(set(v)) == len(v),
        "expected fold numbers, e.g. [0,1,2]",
    ),
    "mode": (lambda v: v in ("add", "remove"), "choose add or remove"),
    "equal": (lambda v: v in ("epochs", "time"), "choose epochs or time"),
    "share": (lambda v: _number(v, 1e-6, 1), "must be above 0, up to 1"),
    "rungs": (
        lambda v: v and all(_number(s, 1e-6, 1) for s in v) and list(v) == sorted(set(v)),
        "expected growing shares of the rows, e.g. [0.25,0.5,1]",
    ),
    "keep": (lambda v: _number(v, 1e-6, 1), "must be above 0, up to 1"),
}


def named_tricks(file: Path) -> dict[str, list[str]]:
    """Name -> override words, from `file` (configs/tricks.yaml)."""
    import yaml

    return yaml.safe_load(file.read_text(encoding="utf-8"))


def words_of(trick: str, named: Mapping[str, Sequence[str]]) -> list[str]:
    """The override words of a named trick, or of one that is written out: "loss.name=focal loss.gamma=1".

    Raises UserError with the nearest name.
    """
    if trick in named:
        return list(named[trick])
    if "=" not in trick:
        raise UserError(f"tricks: {trick!r} is not in configs/tricks.yaml{nearest(trick, named)}; or write key=value")
    try:
        return shlex.split(trick)
    except ValueError as error:
        raise UserError(f"tricks: {trick!r}: {error}") from None


def merged(words: Sequence[str], more: Sequence[str]) -> list[str]:
    """`words` followed by `more`; where both say the same key, only the later one, as groups may be given once."""

    def key(word: str) -> str:
        return word.partition("=")[0].lstrip("+")

    last = {key(word): word for word in [*words, *more]}
    return [word for word in dict.fromkeys([*words, *more]) if last[key(word)] == word]


def folder_name(trick: str) -> str:
    """A trick's name for a folder: itself, or what is harmless in it and a checksum of the whole."""
    if re.fullmatch(r"\w[\w-]*", trick):
        return trick
    return f"{re.sub(r'[^0-9A-Za-z]+', '-', trick).strip('-')[:40]}-{zlib.crc32(trick.encode()):08x}"
