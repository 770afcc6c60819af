"""A competition cut down to a few rows, for trials of the whole path."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from src.competition.links import Links
from src.competition.tables import Competition, Rows
from src.ids import find_rows


def few_rows(competition: Competition, per_stratum: int, test_rows: int) -> Competition:
    """The first `per_stratum` training rows of each stratum, and about `test_rows` test rows.

    Of several pictures that make one submitted row, all or none stay.
    """
    rows = np.zeros(0, np.int64)
    if len(competition.train):  # none where a run predicts without them
        strata = competition.task.strata(competition.y)
        kept = [np.flatnonzero(strata == stratum)[:per_stratum] for stratum in np.unique(strata)]
        rows = np.sort(np.concatenate(kept))
    links, sample, test = competition.links, competition.sample, competition.test
    if links is None:
        ids = sample.ids[:test_rows]
        sample = replace(sample, ids=ids, index={k: v[:test_rows] for k, v in sample.index.items()})
        of_test = find_rows(test.ids, ids)
    else:
        first = np.unique(links.row[np.isin(links.image, test.ids[:test_rows])])
        own = np.isin(links.row, first)
        number = np.full(len(sample.ids), -1)
        number[first] = np.arange(len(first))
        target = None if links.target is None else links.target[own]
        links = Links(number[links.row[own]], links.image[own], target, links.how)
        sample = replace(sample, ids=sample.ids[first], index={k: v[first] for k, v in sample.index.items()})
        of_test = np.flatnonzero(np.isin(test.ids, links.image))
    return replace(
        competition, train=taken(competition.train, rows), test=taken(test, of_test), sample=sample, links=links
    )


def taken(rows: Rows, which: np.ndarray) -> Rows:
    """Some of the rows, by number."""
    y, groups, submitted = (
        None if values is None else values[which] for values in (rows.y, rows.groups, rows.submitted)
    )
    return Rows(rows.ids[which], rows.images[which], y, groups, submitted)
