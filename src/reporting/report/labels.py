"""The rows whose label is probably wrong, as a list to go through."""

from __future__ import annotations

from collections.abc import Mapping

from src.reporting.report.record import Record
from src.reporting.report.section import Block, Card, Cards, Note, Section, Table
from src.reporting.report.suspects import Suspects

SHOWN = 100  # with pictures
LISTED = 300


def labels(record: Record, found: Suspects, images: Mapping[int, bytes | None], file: str) -> Section:
    """images: by row. file: where the whole list is."""
    oof, count = record.oof, len(found.rows)
    if record.task.numeric:
        text = (
            f"{found.sure} of {len(oof.ids)} rows are more than five spreads of the usual error off. The number may be "
            "wrong, or the picture hard: the farthest come first."
        )
    else:
        text = (
            f"{found.sure} labels are counted as wrong by confident learning on out-of-fold predictions: another class "
            "is at least as probable as it usually is for rows that have it. They come first, the clearest at the top; "
            f"behind them the other rows whose most probable class is another one, {count} in all. Look before you "
            "change anything: a network can be sure and wrong."
        )
    if not count:
        text = "No label is contradicted by the out-of-fold predictions."
    blocks: list[Block] = [Note(text)]
    if not found.believable(len(oof.ids)):
        text = f"{found.sure / len(oof.ids):.0%} of all rows: this network knows too little to judge the labels."
        blocks.append(Note(text, warning=True))
    cards = []
    for place, row in enumerate(found.rows[:SHOWN].tolist()):
        facts = [
            ("label", str(found.given[place])), ("probably", str(found.better[place])),
            ("margin", f"{found.margin[place]:.3f}"), ("fold", str(oof.fold[row])), ("place", str(place + 1)),
            ("counted as wrong", "yes" if place < found.sure else "no"),
        ]  # fmt: skip
        marks = {"class": f"{found.given[place]}\t{found.better[place]}", "fold": str(oof.fold[row])}
        cards.append(Card(str(oof.ids[row]), images.get(row), facts, None, marks))
    if cards:
        filters = {}
        if not record.task.numeric:
            there = {name for card in cards for name in card.marks["class"].split("\t")}
            names = [name for name in record.task.names.tolist() if name in there]
            filters["class"] = ("Class, given or probable", names or sorted(there))
        blocks.append(Cards("suspects", f"The first {len(cards)} suspects", cards, filters))
        rows = [
            [str(place + 1), str(oof.ids[row]), str(found.given[place]), str(found.better[place]),
             f"{found.margin[place]:.3f}", str(oof.fold[row])]
            for place, row in enumerate(found.rows[:LISTED].tolist())
        ]  # fmt: skip
        head = ["place", "id", "label", "probably", "margin", "fold"]
        blocks.append(Table(f"The first {len(rows)} of {count}; all are in {file}", head, rows, left=4))
    return Section("labels", "Labels that are probably wrong", blocks)
