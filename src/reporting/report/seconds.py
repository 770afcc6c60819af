"""Where the time went, and the plan as it was cut by a deadline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from src.reporting.report import charts
from src.reporting.report.record import Record
from src.reporting.report.section import Block, Note, Picture, Section, Table


def time_spent(records: Sequence[Record]) -> Section:
    """Seconds of each fold by stage, and what came after training; then each plan."""
    blocks: list[Block] = []
    for record in records:
        blocks += _of_run(record)
    for record in records:
        blocks += _plan(record)
    return Section("time", "Time and plan", blocks)


def _of_run(record: Record) -> list[Block]:
    names, parts, rows = [], dict[str, list[float]](), []
    for k, manifest in record.manifests.items():
        seconds, stages = manifest["seconds"], by_stage(record.histories.get(k, ()))
        trained = float(seconds.get("training", 0.0))
        pieces = {f"stage {stage}": spent for stage, spent in stages.items()}
        pieces["after training"] = max(0.0, float(seconds["total"]) - trained)
        names.append(f"fold {k}")
        for name, spent in pieces.items():
            parts.setdefault(name, [0.0] * (len(names) - 1)).append(spent)
        for values in parts.values():
            values += [0.0] * (len(names) - len(values))
        pace = [row["images_per_second"] for row in record.histories.get(k, ()) if "images_per_second" in row]
        rows.append([
            f"fold {k}", _clock(seconds["total"]), _clock(trained) if trained else "–",
            _clock(pieces["after training"]), f"{pace[-1]:.0f}" if pace else "–", str(manifest.get("device", "–")),
            str(manifest.get("precision", "–")),
        ])  # fmt: skip
    total = sum(float(m["seconds"]["total"]) for m in record.manifests.values())
    head = ["", "whole", "training", "before and after", "images/s, last", "device", "precision"]
    order = sorted(parts, key=lambda name: (name == "after training", name))
    return [
        Table(f"{record.name}: {_clock(total)} in all", head, rows),
        Picture(
            charts.bars(names, {name: parts[name] for name in order}, "seconds"),
            f"Seconds of each fold of {record.name} by stage and after training; {_clock(total)} in all",
            f"{record.name}: “after training” is choosing weights, predicting, pictures, files (and what came before).",
        ),
    ]


def by_stage(history: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Seconds of each stage, from the time of its last line and that of the stage before."""
    ends: dict[int, float] = {}
    for row in history:
        if "seconds" in row:
            ends[int(row["stage"])] = float(row["seconds"])
    spent, before = {}, 0.0
    for stage, end in ends.items():
        spent[stage], before = max(0.0, end - before), end
    return spent


def _plan(record: Record) -> list[Block]:
    first = next(iter(record.manifests.values()))
    if not first.get("stages"):
        return []
    cut = {k: float(m.get("shortened_to", 1.0)) for k, m in record.manifests.items()}
    budget = record.config.get("time_budget")
    blocks: list[Block] = []
    short = {k: share for k, share in cut.items() if share < 0.9995}
    if short:
        text = ", ".join(f"fold {k} to {share:.0%}" for k, share in short.items())
        blocks.append(Note(f"{record.name}: time_budget={budget} shortened the plan of {text}.", warning=True))
    else:
        blocks.append(Note(f"{record.name}: no deadline cut the plan (time_budget={budget}); all its steps were made."))
    views = {k: m.get("views") for k, m in record.manifests.items()}
    if len(set(views.values())) > 1:
        text = ", ".join(f"fold {k} {count}" for k, count in views.items())
        blocks.append(Note(f"{record.name}: TTA views were left out for the deadline: {text}.", warning=True))
    rows, same = [], all(m.get("stages") == first["stages"] for m in record.manifests.values())
    for k, manifest in record.manifests.items():
        rows += [["all folds" if same else f"fold {k}", text] for text in manifest.get("stages", [])]
        if same:
            break
    wanted = [str(record.config.get(key)) for key in ("epochs", "size", "batch_size")]
    caption = (
        f"{record.name}: the plan as it was trained (asked for: {wanted[0]} epochs, {wanted[1]} px, batch {wanted[2]})"
    )
    return [*blocks, Table(caption, ["", "stage"], rows, left=2)]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(float(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
