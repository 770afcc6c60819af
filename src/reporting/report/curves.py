"""Training loss, held-out score and learning rate over the steps, with the stages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from src.reporting.report import charts
from src.reporting.report.record import Record, score_text
from src.reporting.report.section import Block, Note, Picture, Section


def curves(records: Sequence[Record]) -> Section:
    """A drawing per run that was trained."""
    blocks: list[Block] = []
    for record in records:
        histories = {k: history for k, history in record.histories.items() if history}
        if histories:
            blocks.append(_curve(record, histories))
        else:
            blocks.append(Note(f"{record.name} was not trained step by step: it is made of other runs or of features."))
    return Section("curves", "Training", blocks)


def _curve(record: Record, histories: dict[int, Sequence[Any]]) -> Picture:
    metric = record.metric.name
    shown = metric if all(metric in history[0] for history in histories.values()) else None
    names = [
        ("loss", "training loss"),
        *([(shown, f"held-out {shown}")] if shown else []),
        ("rate", "rate, of its top"),
    ]

    def draw(lines: Any) -> None:
        for axes, (name, label) in zip(lines, names, strict=True):
            for k, history in histories.items():
                if name in history[0]:
                    axes.plot([row["step"] for row in history], [row[name] for row in history], marker="o",
                              markersize=3, linewidth=1.3, label=f"fold {k}")  # fmt: skip
            for before, after in pairwise(next(iter(histories.values()))):
                if after["stage"] != before["stage"]:
                    axes.axvline(before["step"], color="#777777", linestyle="--", linewidth=1)
            axes.set_ylabel(label)
        lines[0].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        lines[-1].set_xlabel("optimiser step")
        lines[-1].xaxis.get_major_locator().set_params(integer=True)

    stages = next(iter(record.manifests.values())).get("stages", [])
    ends = ", ".join(f"fold {k} {score_text(h[-1].get(metric))}" for k, h in histories.items())
    return Picture(
        charts.drawn(7.6, 2.0 * len(names) + 0.4, draw, lines=len(names)),
        f"Curves of {record.name} over the optimiser steps; last held-out {metric}: {ends}",
        f"{record.name}. Loss of training images, which are augmented and mixed; the score is of the raw weights. "
        f"Dashed: a new stage begins. {' · '.join(stages)}",
    )
