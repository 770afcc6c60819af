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
from src.data.duplicates import Duplicates
from src.errors import UserError, first_few
from src.files import contents_of, read_config, write_csv
from src.fold.deadline import deadline
from src.ids import find_rows
from src.log import is_first, say
from src.predictions import Features, align, load_features
from src.reporting.report.calibration import calibration
from src.reporting.report.confusion import confusions
from src.reporting.report.copies import copies, kinds_of_copies, no_copies, worst_first
from src.reporting.report.curves import curves
from src.reporting.report.gallery import cards_of, choose, gallery
from src.reporting.report.labels import SHOWN, labels
from src.reporting.report.members import members, paired, student
from src.reporting.report.page import Headline, write_page
from src.reporting.report.record import Record, score_text
from src.reporting.report.repeat import repeat
from src.reporting.report.scores import scores
from src.reporting.report.seconds import time_spent
from src.reporting.report.section import Card, Note, Section, Table
from src.reporting.report.shift import LEAST, Shift, no_shift, shift, tell_apart
from src.reporting.report.suspects import Suspects, suspects
from src.reporting.report.thresholds import thresholds
from src.runs.claims import run_name
from src.runs.folder import Runs, finished_folds, open_runs
from src.runs.listing import find_runs, table
from src.runs.opening import find_copies, known_copies, open_competition
from src.runs.record import load_record, trained_under
from src.training.progress import clock

CARDS = 160  # of the gallery, of all runs together; a row has one card, for up to three reasons
ROWS = 1_000  # of each side, by whose features test and training rows are told apart
AT_END = 45.0  # seconds of features at the end of a training; by `./run.sh report` ten times as many
NEEDED = 60.0  # seconds of a time budget below which a report is not begun
MEMBERS = 6  # of an ensemble that have cards and curves of their own
PAIRS = 12  # of copies that are shown


def report(config: Config) -> None:
    """Write runs/<run>/report.html of the run `config.run`, or runs/<first>/report-<others>.html of `config.runs`."""
    path = make_report(config, 10 * AT_END, search=True)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)", flush=True)


def report_at_end(config: Config, run: str, began: float | None = None) -> None:
    """The report of a run that has just been made; whatever goes wrong with it is told in a line and ends nothing.

    began: time.time() of the command, from which a time budget counts. Copies of images are shown if they are known.
    """
    if not is_first():
        return
    end, started = None if began is None else deadline(config, began), time.monotonic()
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
    figures += [
        (f"{len(record.y):,}", f"rows in {len(record.manifests)} folds"),
        (f"{doubtful.sure:,}", "doubtful labels"),
    ]
    if shifted is not None:
        figures.append((f"{shifted.auc:.2f}", "AUC, test against training"))
    figures.append((clock(float(cv["seconds"])), "computing"))
    network = next(iter(record.manifests.values())).get("model", "")
    made = record.config.get("combined")
    kind = f"{made} of {first_few(record.made_of, 4)}" if made and record.made_of else made or str(network)
    return Headline(" and ".join(names), f"{cv['competition']} · {kind} · {record.task.kind} targets", figures)


class Look:
    """What of a report needs pictures: rows of a record by their ids, the networks of its folds."""

    def __init__(self, config: Config, competition: Competition, record: Record) -> None:
        from src.fold.exhibits import Looker

        self.config, self.competition, self.record = config, competition, record
        sizes = [int(m["size"]) for m in record.manifests.values() if "size" in m]
        self.looker = Looker(config, competition, sizes[0] if sizes else config.size)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        return find_rows(self.competition.train.ids, ids)

    def pictures(self, rows: np.ndarray) -> dict[int, bytes | None]:
        """By row of the competition; None for a row that it no longer has."""
        there = [row for row in rows.tolist() if row >= 0]
        return dict(self.looker.thumbnails(there))

    def gallery(self, runs: Runs, records: Sequence[Record]) -> Section:
        """Cards of all runs, heat maps by the network of each one's fold, of an ensemble by its first member's."""
        from src.fold.exhibits import fold_network

        cards: list[Card] = []
        count = max(4, CARDS // len(records) // 3)
        for record in records:
            classes = max(1, len(np.unique(record.task.strata(record.y))))
            choice = choose(record, count, max(1, min(4, count // classes)))
            column, ids = record.task.shown(record.y, record.oof.pred), record.oof.ids
            images: dict[int, tuple[bytes | None, bytes | None]] = {}
            owners = trained_under(runs, record.name)
            for k in record.manifests:
                mine = choice.rows[record.oof.fold[choice.rows] == k]
                rows = self.rows(ids[mine])
                mine, rows = mine[rows >= 0], rows[rows >= 0]
                trained = fold_network(runs, owners[0], k) if owners else None
                if trained is None:
                    plain = self.pictures(rows)
                    found: dict[int, Any] = {row: (image, None) for row, image in plain.items()}
                else:
                    found = dict(self.looker.explained(trained, rows.tolist(), column[mine].tolist()))
                images.update({own: found[row] for own, row in zip(mine.tolist(), rows.tolist(), strict=True)})
            cards += cards_of(record, choice, images)
        folds = sorted({k for record in records for k in record.manifests})
        return gallery(cards, self.record.task, [record.name for record in records], folds)

    def labels(self, runs: Runs, doubtful: Suspects) -> Section:
        """Writes suspects.csv beside the report."""
        oof = self.record.oof
        path = runs.own / self.record.name / "suspects.csv"
        lines = [
            {"place": place + 1, "id": oof.ids[row], "label": doubtful.given[place], "probably": doubtful.better[place],
             "margin": round(float(doubtful.margin[place]), 4), "fold": int(oof.fold[row]),
             "counted_as_wrong": int(place < doubtful.sure)}
            for place, row in enumerate(doubtful.rows.tolist())
        ]  # fmt: skip
        write_csv(path, lines, ["place", "id", "label", "probably", "margin", "fold", "counted_as_wrong"])
        shown = doubtful.rows[:SHOWN]
        rows = self.rows(oof.ids[shown])
        found = self.pictures(np.unique(rows))
        images = {own: found.get(row) for own, row in zip(shown.tolist(), rows.tolist(), strict=True)}
        return labels(self.record, doubtful, images, str(path))

    def copies(self, search: bool) -> Section:
        """Pairs of copies with their pictures, if they are known or searched for now."""
        competition = self.competition
        found: Duplicates | None = (find_copies if search else known_copies)(self.config, competition)
        if found is None:
            return no_copies(
                "Copies of images have not been looked for yet: ./run.sh report does, or ./run.sh prepare."
            )
        folds = self._folds()
        place = np.concatenate([folds, np.full(len(competition.test), -1)])
        cells = np.concatenate([competition.task.cells(competition.y), np.full(len(competition.test), "")])
        kinds = kinds_of_copies(found, place, cells)
        order = worst_first(found, kinds)[:PAIRS]
        ids = np.concatenate([competition.train.ids, competition.test.ids])
        ends = np.stack([found.first[order], found.second[order]], axis=1).reshape(-1)
        images = self.looker.thumbnails(np.unique(ends).tolist())
        cards = []
        for number, pair in enumerate(order.tolist()):
            what = [name for name, of in kinds.items() if of[pair]]
            how = "exact" if found.exact[pair] else f"near, {found.distance[pair]:.3f}"
            for row in (int(found.first[pair]), int(found.second[pair])):
                where = "test" if row >= found.rows else f"fold {place[row]}" if place[row] >= 0 else "training"
                facts = [
                    (f"pair {number + 1},", how), ("label", str(cells[row]) or "–"), ("in", where),
                    ("kind", ", ".join(what)), ("mirrored", "yes" if found.flipped[pair] else "no"),
                ]  # fmt: skip
                cards.append(Card(str(ids[row]), images.get(row), facts))
        groups = competition.train.groups
        split = 0
        if groups is not None:
            held = folds >= 0
            pairs = np.unique(np.stack([groups[held], folds[held].astype(str)], axis=1), axis=0)
            split = int((np.unique(pairs[:, 0], return_counts=True)[1] > 1).sum())
        return copies(found, kinds, split, groups is not None, cards)

    def _folds(self) -> np.ndarray:
        """(N,) int64 fold of each training row by the run's own predictions, -1 for rows that it has none of."""
        folds, rows = np.full(len(self.competition.train), -1), self.rows(self.record.oof.ids)
        folds[rows[rows >= 0]] = self.record.oof.fold[rows >= 0]
        return folds

    def shift(self, runs: Runs, limit: float) -> tuple[Shift | None, Section]:
        """Training rows against test rows: by a features file of the run, else by the first network's own features of
        the rows that it has held out, which it knows as little as the test rows."""
        competition, rng = self.competition, np.random.default_rng(self.config.seed)
        if len(competition.test) < LEAST:
            return None, no_shift(f"{len(competition.test)} test rows are too few")
        train, test = np.arange(len(competition.train)), np.arange(len(competition.test)) + len(competition.train)
        file = self._features_file(runs)
        if file is not None:
            train, test = (rng.permutation(side)[:ROWS] for side in (train, test))
            x, source = self._from_file(file, train, test), f"Features of {file[0]}"
        else:
            owners = trained_under(runs, self.record.name)
            if not owners:
                return None, no_shift("the run has neither networks nor features of its own")
            k = next(iter(self.record.manifests))
            from src.fold.exhibits import fold_network

            trained = fold_network(runs, owners[0], k)
            if trained is None:
                return None, no_shift("the run has kept no weights")
            train = np.flatnonzero(self._folds() == k)
            train, test = (rng.permutation(side)[:ROWS] for side in (train, test))
            x = self.looker.features(trained, [train.tolist(), test.tolist()], 4 * LEAST, limit)
            train, test = train[: len(x[0])], test[: len(x[1])]
            source = f"Pooled features of fold {k}'s network of {owners[0]}, of rows that it held out"
        if min(len(x[0]), len(x[1])) < LEAST:
            return None, no_shift(f"{min(len(x[0]), len(x[1]))} rows are too few")
        found = tell_apart(x[0], x[1], self.config.seed)
        source += f"; {len(x[0])} training and {len(x[1])} test rows, logistic regression, cross-validated."
        unlike = test[np.argsort(-found.test, kind="stable")[:12]]
        like = train[np.argsort(-found.train, kind="stable")[:12]]
        share = {
            **dict(zip(test.tolist(), found.test, strict=True)),
            **dict(zip(train.tolist(), found.train, strict=True)),
        }
        images = self.looker.thumbnails([*unlike.tolist(), *like.tolist()])
        ids = np.concatenate([competition.train.ids, competition.test.ids])

        def cards(rows: np.ndarray) -> list[Card]:
            return [
                Card(str(ids[r]), images[r], [("id", str(ids[r])), ("test-like", f"{share[r]:.3f}")])
                for r in rows.tolist()
            ]

        return found, shift(found, source, cards(unlike), cards(like))

    def _features_file(self, runs: Runs) -> tuple[Path, Features] | None:
        """Features of a backbone that has seen no label of the competition, which the run was made from or has made."""
        names = [self.record.name, *(self.record.config.get("stack") or {}).get("features", ())]
        for name in names:
            for path in (runs / str(name) / "features.npz", Path(str(name)), Path(str(name)) / "features.npz"):
                if path.is_file() and path.suffix == ".npz":
                    features = load_features(path)
                    every = np.concatenate([self.competition.train.ids, self.competition.test.ids])
                    if features.fold == -1 and (find_rows(features.ids, every) >= 0).all():
                        return path, features
        return None

    def _from_file(self, file: tuple[Path, Features], train: np.ndarray, test: np.ndarray) -> list[np.ndarray]:
        ids = np.concatenate([self.competition.train.ids, self.competition.test.ids])
        return [file[1].x[find_rows(file[1].ids, ids[side])] for side in (train, test)]


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
            worth = _worth(group, preds, correlations)
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


def _worth(group: Sequence[Record], preds: Sequence[np.ndarray], correlations: np.ndarray) -> list[dict[str, Any]]:
    """What the plain mean of all loses without each."""
    metric, y, others = group[0].metric, group[0].y, len(group) - 1
    whole = metric.function(y, np.stack(preds).mean(axis=0, dtype=np.float64).astype(np.float32))
    rows = []
    for r, record in enumerate(group):
        rest = [pred for s, pred in enumerate(preds) if s != r]
        without = metric.function(y, np.stack(rest).mean(axis=0, dtype=np.float64).astype(np.float32)) if rest else None
        rows.append({
            "run": record.name,
            "score": metric.function(y, preds[r]),
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
