"""How alike runs err, and what each is worth: of the members of an ensemble, or of runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from src.reporting.report import charts
from src.reporting.report.record import Record, score_text
from src.reporting.report.section import Block, Note, Picture, Section, Table


def members(
    names: Sequence[str], correlations: np.ndarray, worth: Sequence[Mapping[str, Any]], metric: str, combined: bool
) -> Section:
    """correlations (R, R) of errors; worth: an entry per member as members.json has them. combined: of an ensemble,
    else of runs that stand side by side, whose plain mean is looked at."""
    rows = []
    for row in worth:
        weight, loss = row.get("weight"), row.get("loss_without")
        alike = row.get("correlation")
        rows.append([
            str(row["run"]), score_text(row["score"]), "–" if weight is None else f"{weight:.3f}",
            "–" if alike is None else f"{alike:.3f}", "–" if loss is None else f"{loss:+.4f}",
        ])  # fmt: skip
    of = "the ensemble" if combined else "the mean of all"
    head = ["run", metric, "weight", "errors correlate with the others'", f"{of} loses without it"]
    pairs = [
        (float(correlations[i, j]), names[i], names[j]) for i in range(len(names)) for j in range(i + 1, len(names))
    ]
    text = "One member has nothing to be compared with."
    if pairs:
        least, most = min(pairs), max(pairs)
        text = f"The errors of {least[1]} and {least[2]} correlate by {least[0]:.3f}."
        if len(pairs) > 1:
            text = (
                f"{least[1]} and {least[2]} err least alike ({least[0]:.3f}), {most[1]} and {most[2]} most "
                f"({most[0]:.3f})."
            )
        text += " A member helps as it is good, and as it errs elsewhere than the others."
    blocks: list[Block] = [Table("What each is worth", head, rows), Note(text)]
    if pairs:
        texts = np.vectorize(lambda value: f"{value:.2f}")(correlations)
        picture = charts.heat(correlations, names, names, "", "", texts, min(0.0, float(correlations.min())))
        alt = "; ".join(f"{one} with {other} {value:.2f}" for value, one, other in sorted(pairs)[:8])
        blocks.append(Picture(picture, f"Correlation of errors between runs: {alt}", "Correlation of the errors."))
    return Section("members", "Members", blocks)


def paired(records: Sequence[Record]) -> Table:
    """Of each run against the first: the mean difference of the folds that both have, and how often it is better."""
    first, rows = records[0], []
    sign = first.metric.sign
    for other in records[1:]:
        common = [k for k in first.manifests if k in other.manifests]
        gains = [sign * (other.manifests[k]["score"] - first.manifests[k]["score"]) for k in common]
        if not gains:
            continue
        spread = float(np.std(gains, ddof=1)) if len(gains) > 1 else float("nan")
        better = f"{sum(gain > 0 for gain in gains)} of {len(gains)}"
        rows.append([other.name, f"{np.mean(gains):+.4f}", score_text(spread), better, score_text(other.cv["oof"])])
    head = ["", f"gains on {first.name}, by fold", "std", "better in", "out-of-fold"]
    return Table("Fold by fold (above 0: better)", head, rows)


def student(record: Record, teacher: Record) -> Table:
    rows = [
        [r.name, score_text(r.cv["oof"]), score_text(r.cv["mean"]), score_text(r.cv["std"])] for r in (teacher, record)
    ]
    return Table("Teacher and student", ["", "out-of-fold", "mean", "std"], rows, marked=1)
