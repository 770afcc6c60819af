"""The parts of a report that look at pictures: the gallery, doubtful labels, copies, and test rows that are unlike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.competition.tables import Competition
from src.config import Config
from src.data.duplicates import Duplicates
from src.files import write_csv
from src.fold.exhibits import Looker, fold_network
from src.ids import find_rows
from src.predictions import FEATURES, Features, load_features
from src.reporting.report.copies import copies, kinds_of_copies, no_copies, worst_first
from src.reporting.report.gallery import cards_of, choose, gallery
from src.reporting.report.labels import SHOWN, labels
from src.reporting.report.record import Record
from src.reporting.report.section import Card, Section
from src.reporting.report.shift import LEAST, Shift, no_shift, shift, tell_apart
from src.reporting.report.suspects import Suspects
from src.runs.folder import Runs
from src.runs.opening import find_copies, known_copies
from src.runs.record import trained_under

CARDS = 160  # of the gallery, of all runs together; a row has one card, for up to three reasons
ROWS = 1_000  # of each side, by whose features test and training rows are told apart
PAIRS = 12  # of copies that are shown


class Look:
    """What of a report needs pictures: rows of a record by their ids, the networks of its folds."""

    def __init__(self, config: Config, competition: Competition, record: Record) -> None:
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
            known = (competition.train.ids[train], competition.test.ids[test - len(competition.train)])
            x = [file[1].of(ids, test=at == 1)[0] for at, ids in enumerate(known)]
            source = f"Features of {file[0]}"
        else:
            owners = trained_under(runs, self.record.name)
            if not owners:
                return None, no_shift("the run has neither networks nor features of its own")
            k = next(iter(self.record.manifests))
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
            for path in (runs / str(name) / FEATURES, Path(str(name)), Path(str(name)) / FEATURES):
                if path.is_file() and path.suffix == ".npz":
                    features = load_features(path)
                    sides = ((self.competition.train.ids, False), (self.competition.test.ids, True))
                    if features.fold == -1 and not any(features.of(ids, test)[1] for ids, test in sides):
                        return path, features
        return None
