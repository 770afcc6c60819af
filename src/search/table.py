"""The result of an ablation: pairs.csv, ablate.csv, a picture, and a Markdown table to paste."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.config import CompetitionConfig, Config
from src.errors import counted
from src.files import write_csv
from src.search.effects import Effect, judged
from src.search.effects_plot import effects_picture
from src.search.tricks import PLANTED, Pairing


@dataclass(frozen=True)
class Pair:
    """Two finished folds with the same rows and seed: scores of the metric, training seconds, peak memory in bytes."""

    trick: str
    fold: int
    seed: int
    baseline: float
    score: float
    difference: float  # with the trick less without it, the sign turned so that + is better
    baseline_seconds: float
    seconds: float
    baseline_memory: int
    memory: int


def write_table(
    place: Path,
    pairs: Sequence[Pair],
    tricks: Sequence[str],
    refused: Mapping[str, str],
    base: Config,
    pairing: Pairing,
    missing: int,
    started: int,
) -> dict[str, Effect]:
    """Write the files into `place` and print the table, the best trick first; the effects of all but the refused."""
    of = {name: [pair for pair in pairs if pair.trick == name] for name in tricks if name not in refused}
    competition, differences = base.competition, {name: by_fold(each) for name, each in of.items()}
    effects = judged(differences, started=started, folds_n=base.folds.n)
    ranked = sorted(effects, key=lambda name: -effects[name].mean if effects[name].pairs else float("inf"))
    rows = [{**row_of(name, effects[name]), **factors(of[name], pairing.mode)} for name in ranked]
    rows += [{"trick": name, "pairs": 0, "folds": 0, "verdict": f"refused: {why}"} for name, why in refused.items()]

    write_csv(
        place / "pairs.csv", [dataclasses.asdict(pair) for pair in pairs], [f.name for f in dataclasses.fields(Pair)]
    )
    columns = ["trick", "pairs", "folds", "mean", "low", "high", "p", "holm", "time_factor", "memory_factor", "verdict"]
    write_csv(place / "ablate.csv", rows, columns)
    print(f"\n{heading(competition, pairing, effects, started)}\n\n{markdown(rows, competition.metric)}", flush=True)
    if missing:
        print(f"\n{missing} of the folds missing: another process trains them, or start again to go on", flush=True)
    shown = [name for name in ranked if effects[name].pairs]
    if shown:
        picture = effects_picture(
            place / "ablate.png",
            [
                (name, effects[name].mean, effects[name].low, effects[name].high, effects[name].verdict)
                for name in shown
            ],
            controls=[name for name in shown if name.startswith(PLANTED)],
            metric=competition.metric,
            title=f"{place.name}: what each technique is worth",
        )
        print(f"\nwrote {place / 'ablate.csv'}, {place / 'pairs.csv'} and {picture}", flush=True)
    return effects


def by_fold(pairs: Sequence[Pair]) -> dict[int, list[float]]:
    """The differences of each fold's pairs."""
    found: dict[int, list[float]] = {}
    for pair in pairs:
        found.setdefault(pair.fold, []).append(pair.difference)
    return found


def row_of(name: str, effect: Effect) -> dict[str, Any]:
    return {"trick": name, **{key: value for key, value in dataclasses.asdict(effect).items() if value is not None}}


def factors(pairs: Sequence[Pair], mode: str) -> dict[str, float]:
    """Time and memory with the trick over those without it, over all pairs."""
    if not pairs:
        return {}
    time = sum(pair.seconds for pair in pairs) / sum(pair.baseline_seconds for pair in pairs)
    memory = max(pair.memory for pair in pairs) / max(pair.baseline_memory for pair in pairs)
    return {"time_factor": time, "memory_factor": memory} if mode == "add" else {
        "time_factor": 1 / time, "memory_factor": 1 / memory
    }  # fmt: skip


def heading(competition: CompetitionConfig, pairing: Pairing, effects: Mapping[str, Effect], started: int) -> str:
    tested = max(started, sum(effect.p is not None for effect in effects.values()))
    what = "added to the baseline" if pairing.mode == "add" else "each left out of the baseline with all of them"
    count = counted(tested, "technique")
    lines = [
        f"{competition.name}: {competition.metric} with the technique less without it, + is better; {what}.",
        f"A pair is one fold with one seed ({counted(len(pairing.folds), 'fold')}, {counted(pairing.seeds, 'seed')}), "
        f"at equal {pairing.equal}, on {pairing.share:.0%} of the rows.",
        "Intervals are of each technique by itself, Student's t over the means of folds, as a fold's pairs share rows.",
        f'"helps" and "harms" stand where this holds after Holm\'s correction over {count} at 5 %;',
        '"about": the folds and seeds that would show the mean that was seen, if it is true, with power 0.8.',
    ]
    return "\n".join(lines)


def markdown(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    def cell(row: Mapping[str, Any], key: str, form: str) -> str:
        return format(row[key], form) if row.get(key) is not None and row.get("pairs") else "–"

    lines = [
        f"| technique | pairs | folds | {metric} | 95 % interval | time × | memory × | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        span = f"{row['low']:+.4f} … {row['high']:+.4f}" if "low" in row else "–"
        cells = [
            row["trick"].replace("|", "/"),
            str(row["pairs"]),
            str(row["folds"]),
            cell(row, "mean", "+.4f"),
            span,
            cell(row, "time_factor", ".2f"),
            cell(row, "memory_factor", ".2f"),
            row["verdict"].replace("|", "/"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
