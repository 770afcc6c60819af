"""What is taken for what: confusion of classes, worth of each label, numbers against the true ones."""

from __future__ import annotations

import numpy as np

from src.competition.metrics import area_under_curve, confusion, per_class
from src.reporting.report import charts
from src.reporting.report.record import Part, Record, parts_of
from src.reporting.report.section import Block, Note, Picture, Section, Table

MOST = 30  # classes of a drawing that can still be read
LISTED = 200  # of a table


def confusions(record: Record) -> Section:
    """Tables and drawings of the out-of-fold rows of a run, by the plain rule."""
    if record.task.numeric:
        return Section("confusion", "Numbers against the true ones", _numbers(record))
    parts = list(parts_of(record.task, record.y, record.oof.pred))
    if not parts:
        return Section("confusion", "Labels one by one", [_labels(record)])
    blocks: list[Block] = []
    for part in parts:
        blocks += _of_part(part)
    return Section("confusion", "What is taken for what", blocks)


def _of_part(part: Part) -> list[Block]:
    counts = confusion(part.y, part.pred.argmax(axis=1), len(part.names))
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    shown = np.arange(len(part.names))
    some = ""
    if len(shown) > MOST:
        shown = np.sort(np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")[:MOST])
        some = f" The {MOST} of {len(part.names)} classes with the most errors."
    inside = counts[np.ix_(shown, shown)]
    share = inside / np.maximum(counts[shown].sum(axis=1, keepdims=True), 1)
    names = [part.names[i] for i in shown]
    of = f" of {part.title}" if part.title else ""
    pairs = np.argsort(-wrong, axis=None, kind="stable")[:10]
    worst = [(divmod(int(p), len(part.names)), int(wrong.reshape(-1)[p])) for p in pairs]
    worst = [(pair, count) for pair, count in worst if count]
    mistakes = "; ".join(f"{part.names[i]} taken for {part.names[j]} {count} times" for (i, j), count in worst[:3])
    blocks: list[Block] = [
        Picture(
            charts.heat(share, names, names, "true", "predicted", inside),
            f"Confusion matrix{of}; most often {mistakes or 'no mistakes'}",
            f"Rows: true class{of}; columns: predicted; numbers: rows of the data; colour: share of the true class."
            f"{some}",
        )
    ]
    if worst:
        rows = [
            [part.names[i], part.names[j], str(count), f"{count / max(1, counts[i].sum()):.1%}"]
            for (i, j), count in worst
        ]
        blocks.append(Table(f"Most frequent mistakes{of}", ["true", "predicted", "rows", "of the class"], rows, left=2))
    table = per_class(part.y, part.pred, part.names)
    table = table.sort_values("f1", kind="stable").head(LISTED)
    rows = [
        [str(row["class"]), str(int(row["support"])), *(_ratio(row[c]) for c in ("recall", "precision", "f1"))]
        for _, row in table.iterrows()
    ]
    blocks.append(Table(f"Classes{of}, the hardest first", ["class", "rows", "recall", "precision", "F1"], rows))
    return blocks


def _labels(record: Record) -> Table:
    y, pred, rows = record.y.astype(bool), record.oof.pred, []
    for column, name in enumerate(record.task.names.tolist()):
        true, share = y[:, column], pred[:, column]
        said = share >= 0.5
        hit = int((true & said).sum())
        recall, precision = (hit / n if n else float("nan") for n in (int(true.sum()), int(said.sum())))
        f1 = 2 * hit / (true.sum() + said.sum()) if true.sum() + said.sum() else float("nan")
        auc = area_under_curve(true, share) if 0 < true.sum() < len(true) else float("nan")
        rows.append((f1, [str(name), str(int(true.sum())), *map(_ratio, (auc, recall, precision, f1))]))
    rows.sort(key=lambda row: row[0] if row[0] == row[0] else 2)
    head = ["label", "rows", "AUC", "recall", "precision", "F1"]
    return Table("Labels at a threshold of 0.5, the hardest first", head, [row for _, row in rows][:LISTED])


def _numbers(record: Record) -> list[Block]:
    blocks: list[Block] = []
    rows = []
    for column, name in enumerate(record.task.names.tolist()[:12]):
        true, said = record.y[:, column].astype(np.float64), record.oof.pred[:, column].astype(np.float64)
        off = said - true
        rows.append([
            str(name), f"{np.abs(off).mean():.4g}", f"{np.sqrt((off**2).mean()):.4g}", f"{off.mean():+.4g}",
            f"{np.quantile(np.abs(off), 0.9):.4g}", f"{true.std():.4g}",
        ])  # fmt: skip
        blocks.append(
            Picture(
                charts.dots(true, said, f"true {name}", "predicted"),
                f"{name}: predicted against true, mean absolute error {rows[-1][1]}, mean error {rows[-1][3]}",
                f"{name}: each dot a row; on the dotted line both are equal.",
            )
        )
    if len(record.task.names) > 12:
        blocks.append(Note(f"The first 12 of {len(record.task.names)} columns."))
    head = ["", "mean |error|", "root mean square", "mean error", "90 % are within", "spread of the truth"]
    return [Table("Errors in the target's own units", head, rows), *blocks]


def _ratio(value: float) -> str:
    return "–" if value != value else f"{value:.3f}"
