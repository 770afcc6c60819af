"""Copies of images, and what leaks by them: across folds, with other labels, between training and test rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from src.data.duplicates import Duplicates
from src.errors import counted
from src.reporting.report.section import Block, Card, Cards, Note, Section, Table

INSIDE, ACROSS, CONTRARY, TEST, WITHIN = (
    "training, in one fold", "training, ACROSS FOLDS", "training, OTHER LABELS", "training and test",
    "within the test rows",
)  # fmt: skip


def kinds_of_copies(found: Duplicates, place: np.ndarray, names: np.ndarray) -> dict[str, np.ndarray]:
    """By kind, which pairs (P,) bool are of it. place (N + M,) int: the fold of each row, -1 of test rows; names
    (N + M,) str: the label. A pair can be of several kinds."""
    inside = found.second < found.rows
    test = ~inside & (found.first < found.rows)
    across = inside & (place[found.first] != place[found.second])
    return {
        INSIDE: inside & ~across,
        ACROSS: across,
        CONTRARY: inside & (names[found.first] != names[found.second]),
        TEST: test,
        WITHIN: ~inside & ~test,
    }


def worst_first(found: Duplicates, kinds: Mapping[str, np.ndarray]) -> np.ndarray:
    """(P,) int64: across folds and with other labels first, then one of these, then with test rows."""
    across, contrary = kinds[ACROSS], kinds[CONTRARY]
    return np.lexsort((found.distance, ~kinds[TEST], ~(across | contrary), ~(across & contrary)))


def copies(
    found: Duplicates, kinds: Mapping[str, np.ndarray], split_groups: int, grouped: bool, cards: Sequence[Card]
) -> Section:
    """split_groups: how many groups have rows in several folds. grouped: whether the competition has groups."""
    rows = [[name, str((of & found.exact).sum()), str((of & ~found.exact).sum())] for name, of in kinds.items()]
    blocks: list[Block] = [Table("Pairs of copies", ["", "exact", "near"], rows)]
    if kinds[ACROSS].any():
        blocks.append(
            Note(
                f"{kinds[ACROSS].sum()} pairs of copies are in different folds: a network has seen the picture that it "
                "is scored on, and the score is too good. folds.group_duplicates=true keeps them together.",
                warning=True,
            )
        )
    if kinds[CONTRARY].any():
        text = f"{kinds[CONTRARY].sum()} pairs of copies have different labels: at least one of each pair is wrong."
        blocks.append(Note(text, warning=True))
    if kinds[TEST].any():
        text = f"{kinds[TEST].sum()} pairs join a training and a test row: the label of that test row is known."
        blocks.append(Note(text, warning=True))
    if not len(found.first):
        blocks.append(Note("No copies of images were found, neither exact nor near ones."))
    if len(found.unreadable):
        blocks.append(
            Note(
                f"{counted(len(found.unreadable), 'image')} cannot be read (./run.sh prepare tells which).",
                warning=True,
            )
        )
    if grouped:
        text = (
            f"{split_groups} groups have rows in several folds: the score knows them."
            if split_groups
            else "Every group is in one fold."
        )
        blocks.append(Note(text, warning=split_groups > 0))
    if cards:
        blocks.append(Cards("copies", f"{len(cards) // 2} pairs, the worst first", cards))
    return Section("copies", "Copies and leaks", blocks)


def no_copies(why: str) -> Section:
    return Section("copies", "Copies and leaks", [Note(why)])
