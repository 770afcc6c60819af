"""Scores per fold, their spread, and which number may be quoted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from src.reporting.report import charts
from src.reporting.report.record import Record, score_text
from src.reporting.report.section import Block, Note, Picture, Section, Table

PLAIN = "plain_"  # before a metric's name: without the decision that is fitted


def scores(records: Sequence[Record]) -> Section:
    """Of each run a table of its folds, the honest number marked, and one drawing of them all."""
    blocks: list[Block] = []
    for record in records:
        blocks += _of_run(record, titled=len(records) > 1)
    blocks.insert(0, _honest(records[0]))
    blocks.append(_spread(records))
    return Section("scores", "Scores", blocks)


def _honest(record: Record) -> Note:
    decided = record.cv.get("decision")
    how = "Each row was predicted by a network that has not seen it"
    if record.made_of or record.config.get("combined"):
        how = "Each row was predicted by a combination that was fitted on the other folds' rows"
    if decided:
        how += ", and decided by what was fitted on rows of other folds"
    better = "higher is better" if record.metric.greater_is_better else "lower is better"
    return Note(
        f"The number to quote is the marked one, {record.metric.name} over all out-of-fold rows ({better}). {how}. "
        "The standard deviation over folds says how far a single fold may be off."
    )


def _of_run(record: Record, titled: bool) -> list[Block]:
    cv, name = record.cv, record.metric.name
    more = [other for other in cv["scores"] if other != name] if "scores" in cv else []
    named = [f"{other.removeprefix(PLAIN)} (plain)" if other.startswith(PLAIN) else other for other in more]
    head = ["", "rows", name, *named, "kept"]
    rows: list[list[str]] = []
    for k, manifest in record.manifests.items():
        own = [score_text(manifest["scores"].get(other)) for other in more]
        held = int((record.oof.fold == k).sum())
        rows.append([f"fold {k}", str(held), score_text(manifest["score"]), *own, str(manifest.get("kept", ""))])
    blank = [""] * (len(more) + 1)
    rows.append(["mean ± std of the folds", "", f"{score_text(cv['mean'])} ± {score_text(cv['std'])}", *blank])
    whole = [score_text(cv["scores"].get(other)) for other in more]
    rows.append(["out-of-fold (quote this)", str(len(record.y)), score_text(cv["oof"]), *whole, ""])
    marked = len(rows) - 1
    if "test" in cv:
        rows.append(["test, hidden labels", "", score_text(cv["test"]), *blank])
    caption = f"{record.name}: scores" if titled else "Scores of the folds"
    blocks: list[Block] = [Table(caption, head, rows, marked=marked)]
    if note := (cv.get("decision") or {}).get("note"):
        blocks.append(
            Note(f"Decided: {note}. The plain score, without this, is {score_text(cv.get('plain'))}; it is not tuned.")
        )
    return [*blocks, *_chosen(record, titled)]


def _chosen(record: Record, titled: bool) -> list[Block]:
    """The scores of the kinds of weights on the rows that chose among them."""
    if record.config.get("combined") in ("ensemble", "stack"):
        return []
    kinds = list(dict.fromkeys(kind for manifest in record.manifests.values() for kind in manifest["weights"]))
    if len(kinds) < 2:
        return []
    rows = [
        [f"fold {k}", *(score_text(m["weights"].get(kind)) for kind in kinds), str(m["kept"])]
        for k, m in record.manifests.items()
    ]
    of = f"{record.name}: weights" if titled else "Weights"
    return [Table(f"{of} on the rows that chose among them (not to be quoted)", ["", *kinds, "kept"], rows)]


def _spread(records: Sequence[Record]) -> Picture:
    def draw(axes: Any) -> None:
        for place, record in enumerate(records):
            values = [manifest["score"] for manifest in record.manifests.values()]
            mean, std = record.cv["mean"], record.cv["std"]
            axes.barh(place, 2 * std, left=mean - std, height=0.5, color="#cfe0f0")
            axes.plot(values, np.full(len(values), place), "o", color=charts.COLOURS[0], markersize=5, alpha=0.8)
            axes.plot(record.cv["oof"], place, "D", color=charts.COLOURS[1], markersize=7)
            if "test" in record.cv:
                axes.plot(record.cv["test"], place, "*", color=charts.COLOURS[2], markersize=11)
        axes.set_yticks(range(len(records)), [record.name for record in records])
        axes.set_ylim(len(records) - 0.4, -0.6)
        axes.use_sticky_edges = False  # else the band ends where the drawing does
        axes.autoscale(axis="x")
        axes.set_xlabel(records[0].metric.name)

    means = ", ".join(f"{r.name} {score_text(r.cv['mean'])} plus or minus {score_text(r.cv['std'])}" for r in records)
    return Picture(
        charts.drawn(7.0, 1.3 + 0.4 * len(records), draw),
        f"Scores of the folds as dots, by run: {means}",
        "Dots: folds. Band: mean ± standard deviation. Diamond: out-of-fold. Star: test, where its labels are known.",
    )
