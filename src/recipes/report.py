"""One HTML file about a run, or several side by side: scores, mistakes, doubtful labels, leaks, time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.competition.tables import Competition
from src.config import Config, defaults, difference
from src.errors import UserError, counted, first_few
from src.files import contents_of, read_config
from src.fold.deadline import deadline
from src.fold.looked_at import Look
from src.log import is_first, say
from src.predictions import align
from src.reporting.report.calibration import calibration
from src.reporting.report.confusion import confusions
from src.reporting.report.curves import curves
from src.reporting.report.members import members, paired, student
from src.reporting.report.page import Headline, write_page
from src.reporting.report.record import Record, score_text
from src.reporting.report.repeat import repeat
from src.reporting.report.scores import scores
from src.reporting.report.seconds import time_spent
from src.reporting.report.section import Note, Section, Table
from src.reporting.report.shift import Shift
from src.reporting.report.suspects import Suspects, suspects
from src.reporting.report.thresholds import thresholds
from src.runs.claims import run_name
from src.runs.folder import Runs, finished_folds, open_runs
from src.runs.listing import find_runs, table
from src.runs.opening import open_competition
from src.runs.record import load_record
from src.training.progress import clock

AT_END = 45.0  # seconds of features at the end of a training; by `./run.sh report` ten times as many
NEEDED = 60.0  # seconds of a time budget below which a report is not begun
KINDS = {"single": "one label per row", "multi": "several labels per row", "number": "numbers", "targets": "targets"}
MEMBERS = 6  # of an ensemble that have cards and curves of their own


def report(config: Config) -> None:
    """Write runs/<run>/report.html of the run `config.run`, or runs/<first>/report-<others>.html of `config.runs`."""
    path = make_report(config, 10 * AT_END, search=True)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)", flush=True)


def report_at_end(config: Config, began: float | None = None) -> None:
    """Write the report of the run that has just been made of all folds, unless `report=false`; an error in it is one
    printed line and ends nothing.

    began: time.time() of the command, from which a time budget counts. Copies of images are shown if they are known.
    """
    if config.fold != "all" or not config.report or not is_first():
        return
    run, end, started = run_name(config), None if began is None else deadline(config, began), time.monotonic()
    again = f"./run.sh report run={run} makes it"
    if end is not None and time.time() > end - NEEDED:
        say(f"time_budget: no time for the report; {again}")
        return
    try:
        path = make_report(dataclasses.replace(config, run=run, runs=(), combined=None), AT_END, search=False)
    except Exception as error:  # a picture that cannot be drawn is no reason to lose what was trained
        say(f"no report ({type(error).__name__}: {' '.join(str(error).split())[:160]}); {again}")
        return
    say(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB, {clock(time.monotonic() - started)})")


def make_report(config: Config, limit: float, search: bool) -> Path:
    """limit: seconds of making features. search: whether copies of images are looked for where they are not known."""
    runs = open_runs(config.paths)
    names = list(config.runs) if config.runs and config.run is None else [run_name(config), *config.runs]
    if len(set(names)) < len(names):
        raise UserError(f"runs=[{','.join(names)}]: a run stands there twice; name each once")
    for name in names:
        if not finished_folds(runs, name):
            there = [run for run in runs.names() if finished_folds(runs, run)]
            raise UserError(f"run={name}: no fold is finished in {runs} ({', '.join(there) or 'none yet'})")
    competition = open_competition(config)
    records = [load_record(runs, name, competition) for name in names]
    first = records[0]
    below = [] if len(records) > 1 else [name for name in first.made_of if finished_folds(runs, name)]
    beside = [*records[1:], *(load_record(runs, name, competition) for name in below)]
    look = Look(config, competition, first)

    # ---- what there is to say ---------------------------------------------------------------------------------------
    doubtful = suspects(first)
    shifted, shift_section = look.shift(runs, limit)
    sections = [
        scores(records),
        *_members(runs, competition, records, below),
        curves([record for record in [first, *beside][: MEMBERS + 1] if record.histories]),
        confusions(first),
        calibration(first),
        thresholds(first),
        look.gallery(runs, [first, *beside][: MEMBERS + 1]),
        look.labels(runs, doubtful),
        look.copies(search),
        shift_section,
        time_spent(records),
        _all_runs(runs, competition.name, names),
        _repeat(runs, competition, config, first),
    ]
    path = runs.own / names[0] / ("report.html" if len(names) == 1 else f"report-{'-'.join(names[1:])[:80]}.html")
    return write_page(path, headline(names, first, doubtful, shifted), sections)


def headline(names: Sequence[str], record: Record, doubtful: Suspects, shifted: Shift | None) -> Headline:
    cv, metric = record.cv, record.metric.name
    figures = [
        (score_text(cv["oof"]), f"{metric}, out-of-fold"),
        (f"{score_text(cv['mean'])} ± {score_text(cv['std'])}", "mean ± std of folds"),
    ]
    if "test" in cv:
        figures.append((score_text(cv["test"]), "test, hidden labels"))
    figures.append((f"{len(record.y):,}", f"rows in {counted(len(record.manifests), 'fold')}"))
    if doubtful.believable(len(record.y)):
        figures.append((f"{doubtful.sure:,}", "doubtful labels"))
    if shifted is not None:
        figures.append((f"{shifted.auc:.2f}", "AUC, test against training"))
    figures.append((clock(float(cv["seconds"])), "computing"))
    network = next(iter(record.manifests.values())).get("model", "")
    made = record.config.get("combined")
    kind = f"{made} of {first_few(record.made_of, 4)}" if made and record.made_of else made or str(network)
    return Headline(" and ".join(names), f"{cv['competition']} · {kind} · {KINDS[record.task.kind]}", figures)


def _members(runs: Runs, competition: Competition, records: Sequence[Record], below: Sequence[str]) -> list[Section]:
    """Of an ensemble its members, of several runs these; a student beside its teacher."""
    from src.ensembling.blend import error_correlations

    first, found = records[0], list[Section]()
    teacher = first.config.get("teacher")
    if len(records) > 1 or len(below) > 1:
        group = list(records) if len(records) > 1 else [load_record(runs, name, competition) for name in below]
        group = [r for r in group if np.array_equal(np.sort(r.oof.ids), np.sort(group[0].oof.ids))]
        preds = [align(r.oof, group[0].oof.ids).pred for r in group]
        credits = np.stack([group[0].task.credit(group[0].y, pred) for pred in preds])
        correlations = error_correlations(credits)
        names = [r.name for r in group]
        combined = len(records) == 1
        if combined and first.members is not None:
            worth: list[Any] = first.members["members"]
        else:
            worth = _worth(group, preds, correlations, first if combined else None)
        section = members(names, correlations, worth, first.metric.name, combined)
        if len(records) > 1:
            left = [r.name for r in records if r.name not in names]
            more = [Note(f"Of other rows, and left out here: {', '.join(left)}.")] if left else []
            section = dataclasses.replace(
                section, title="Side by side", blocks=[paired(records), *section.blocks, *more]
            )
        found.append(section)
    if teacher and finished_folds(runs, str(teacher)):
        both = student(first, load_record(runs, str(teacher), competition))
        found.append(Section("teacher", "Student and teacher", [both]))
    return found


def _worth(
    group: Sequence[Record], preds: Sequence[np.ndarray], correlations: np.ndarray, made: Record | None
) -> list[dict[str, Any]]:
    """What the plain mean of all loses without each; `made` of them: the share that each has in its folds."""
    metric, y, others = group[0].metric, group[0].y, len(group) - 1
    whole = metric.function(y, np.stack(preds).mean(axis=0, dtype=np.float64).astype(np.float32))
    rows = []
    for r, record in enumerate(group):
        rest = [pred for s, pred in enumerate(preds) if s != r]
        without = metric.function(y, np.stack(rest).mean(axis=0, dtype=np.float64).astype(np.float32)) if rest else None
        rows.append({
            "run": record.name,
            "score": metric.function(y, preds[r]),
            "weight": None if made is None else made.share_of(record.name),
            "correlation": float((correlations[r].sum() - 1) / others) if others else None,
            "loss_without": None if without is None else metric.sign * (whole - without),
        })  # fmt: skip
    return rows


def _all_runs(runs: Runs, competition: str, names: Sequence[str]) -> Section:
    """The table of `./run.sh runs`, of this competition."""
    there = [run for run in find_runs(runs) if run.cv["competition"] == competition]
    head, rows = table(there[:60])
    at = next((place for place, row in enumerate(rows) if row[0] == names[0]), None)
    caption = f"The {min(60, len(there))} best of {len(there)} runs of {competition}"
    return Section("runs", "All runs of this competition", [Table(caption, head, rows, marked=at, left=1)])


def _repeat(runs: Runs, competition: Competition, config: Config, record: Record) -> Section:
    """With checksums of the tables, so that other data under the same name are noticed."""
    from src.data.cache import fingerprint

    paths = np.concatenate([competition.train.images, competition.test.images])
    data = [
        ("rows", f"{len(competition.train)} training, {len(competition.test)} test"),
        ("images", f"{fingerprint(competition.root, paths)} (paths, sizes, times; below {competition.root})"),
    ]
    task = config.competition
    tables = [name for name in (task.train_csv, task.test_csv, task.sample_csv) if name]
    data += [(name, contents_of(competition.root / name)) for name in tables if (competition.root / name).is_file()]
    folds = Path(config.folds.file or Path(config.paths.folds) / f"{competition.name}.csv")
    if folds.is_file():
        data.append((str(folds), contents_of(folds)))
    own = read_config(runs / record.name / "config.yaml")
    text = (runs / record.name / "config.yaml").read_text(encoding="utf-8")
    lines = (line.split(": ", 1) for line in difference(defaults(), own))
    changed = [f"{key}={value.rsplit(' -> ', 1)[-1]}" for key, value in lines]
    return repeat(record, data, changed, text)
