"""Which held-out rows are worth a look: the surest wrong, the least sure and the most costly of each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from src.competition.task import Task
from src.reporting.report.record import Record, parts_of
from src.reporting.report.section import Card, Cards, Note, Section

WRONG, UNSURE, COSTLY = "surest wrong", "least sure", "most costly"
OFF, HIGH, LOW = "farthest off", "too high", "too low"


@dataclass(frozen=True)
class Choice:
    """Rows (n,) int64 of a record's out-of-fold rows, and for each the kinds that it was chosen for."""

    rows: np.ndarray
    kinds: Sequence[tuple[str, ...]]


def choose(record: Record, count: int, per_class: int) -> Choice:
    """At most `count` rows of each kind, and of each class the first `per_class`, so that a filter finds some."""
    strata = record.task.strata(record.y)
    picked: dict[int, list[str]] = {}
    for kind, order in _orders(record).items():
        chosen = order[:count].tolist()
        for stratum in np.unique(strata[order]).tolist()[:60] if not record.task.numeric else ():
            chosen += order[strata[order] == stratum][:per_class].tolist()
        for row in dict.fromkeys(chosen):
            picked.setdefault(row, []).append(kind)
    rows = np.array(list(picked), np.int64)
    return Choice(rows, [tuple(kinds) for kinds in picked.values()])


def _orders(record: Record) -> dict[str, np.ndarray]:
    """By kind, the rows that are of it, the worst first."""
    task, y, pred = record.task, record.y, record.oof.pred
    if task.numeric:
        off = (pred.astype(np.float64) - y) / np.maximum(y.std(axis=0), 1e-12)
        worst = off[np.arange(len(off)), np.abs(off).argmax(axis=1)]
        order = np.argsort(worst, kind="stable")
        both = np.argsort(-np.abs(worst), kind="stable")
        return {OFF: both, HIGH: order[::-1][worst[order[::-1]] > 0], LOW: order[worst[order] < 0]}
    column = task.shown(y, pred)
    share = pred[np.arange(len(pred)), column]
    wrong = np.flatnonzero(~task.holds(y, column))
    return {
        WRONG: wrong[np.argsort(-share[wrong], kind="stable")],
        UNSURE: np.argsort(_sureness(record), kind="stable"),
        COSTLY: np.argsort(task.credit(y, pred), kind="stable"),
    }


def _sureness(record: Record) -> np.ndarray:
    """(N,) how far apart the first two classes are, of several targets the closest; of labels, how far from 0.5."""
    gaps = []
    for part in parts_of(record.task, record.y, record.oof.pred):
        best = np.partition(part.pred, -2, axis=1)[:, -2:]
        gaps.append(best[:, 1] - best[:, 0])
    if gaps:
        return np.min(gaps, axis=0)
    return np.abs(record.oof.pred - 0.5).min(axis=1)


def cards_of(record: Record, choice: Choice, images: Mapping[int, tuple[bytes | None, bytes | None]]) -> list[Card]:
    """A card per chosen row; images: by row the picture and the heat map of its predicted column."""
    task, oof = record.task, record.oof
    assert oof.target is not None
    column, credit = task.shown(record.y, oof.pred), task.credit(record.y, oof.pred)
    cards = []
    for row, kinds in zip(choice.rows.tolist(), choice.kinds, strict=True):
        at = int(column[row])
        said = float(oof.pred[row, at])
        if task.numeric:
            told = {"predicted": " ".join(f"{value:.4g}" for value in oof.pred[row, :6])}
        else:
            told = {"predicted": str(oof.classes[at]), "probability": f"{said:.3f}"}
        facts = {"true": str(oof.target[row]) or "none", **told, "run": record.name, "fold": str(oof.fold[row])}
        if not task.numeric:
            facts["probability of the true label"] = f"{credit[row]:.3f}"
        facts["why here"] = ", ".join(kinds)
        marks = {
            "kind": "\t".join(kinds),
            "class": "\t".join(_classes(task, record.y[row : row + 1], at)),
            "fold": str(oof.fold[row]),
            "run": record.name,
        }
        image, heat = images.get(row, (None, None))
        cards.append(Card(str(oof.ids[row]), image, tuple(facts.items()), heat, marks))
    return cards


def _classes(task: Task, y: np.ndarray, at: int) -> list[str]:
    """What a row is true of, and what it was taken for."""
    if task.numeric:
        return []
    every = np.arange(len(task.names))
    true = task.holds(np.repeat(y, len(every), axis=0), every)
    return [str(task.names[c]) for c in sorted({*np.flatnonzero(true).tolist(), at})]


def gallery(cards: Sequence[Card], task: Task, runs: Sequence[str], folds: Sequence[int]) -> Section:
    """All cards behind filters by kind, class, fold and run."""
    kinds = (OFF, HIGH, LOW) if task.numeric else (WRONG, UNSURE, COSTLY)
    there = {name for card in cards for name in card.marks["class"].split("\t")}
    filters: dict[str, tuple[str, Sequence[str]]] = {"kind": ("What", kinds)}
    classes = [name for name in task.names.tolist() if name in there]
    if len(classes) > 1:
        filters["class"] = ("Class, true or predicted", classes)
    if len(folds) > 1:
        filters["fold"] = ("Fold", [str(k) for k in folds])
    if len(runs) > 1:
        filters["run"] = ("Member", list(runs))
    heats = any(card.heat for card in cards)
    text = "Held-out rows, as the network saw them. Press one for its numbers" + (
        ", and for the heat map (Grad-CAM) of what spoke for the prediction." if heats else "."
    )
    if task.kind == "number" and heats:
        text = "Held-out rows, as the network saw them. Press one for its numbers and what raised the prediction."
    return Section(
        "gallery", "Gallery of mistakes and doubts", [Note(text), Cards("gallery", "Held-out rows", cards, filters)]
    )
