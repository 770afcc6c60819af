"""The sections of a report from made-up runs of every kind of target: what stands in them, all of them there."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from src.competition.kinds import task_of
from src.predictions import Predictions
from src.reporting.report.calibration import calibration
from src.reporting.report.confusion import confusions
from src.reporting.report.curves import curves
from src.reporting.report.gallery import COSTLY, UNSURE, WRONG, cards_of, choose, gallery
from src.reporting.report.labels import labels
from src.reporting.report.page import Headline, render
from src.reporting.report.record import Record
from src.reporting.report.repeat import repeat
from src.reporting.report.scores import scores
from src.reporting.report.seconds import by_stage, time_spent
from src.reporting.report.section import Cards, Note, Section, Table
from src.reporting.report.suspects import suspects
from src.reporting.report.thresholds import thresholds

ROWS = 60


def record(kind: str, names: Sequence[str], metric: str, name: str = "r") -> Record:
    rng = np.random.default_rng(0)
    task = task_of(kind, np.array(names))
    count = len(names)
    if kind == "number":
        y: Any = rng.normal(size=(ROWS, count)).astype(np.float32)
        pred = y + rng.normal(size=y.shape) * 0.3
    elif kind == "multi":
        y = rng.random((ROWS, count)) < 0.4
        pred = np.clip(y * 0.6 + rng.random((ROWS, count)) * 0.4, 0, 1)
    elif kind == "targets":
        sizes = list(task.groups)
        y = np.stack([rng.integers(size, size=ROWS) for size in sizes], axis=1)
        pred = np.concatenate([rng.dirichlet(np.ones(size), ROWS) for size in sizes], axis=1)
    else:
        y, pred = rng.integers(count, size=ROWS), rng.dirichlet(np.ones(count), ROWS)
    ids = np.array([f"<b>{row}&" for row in range(ROWS)])
    fold = np.arange(ROWS) % 2
    oof = Predictions(ids, pred.astype(np.float32), task.names, fold, task.cells(y), kind)
    found = task.metrics[metric]
    value = found.function(y, oof.pred)
    manifest = {
        "score": value, "scores": {metric: value}, "kept": "ema", "weights": {"raw": value, "ema": value},
        "seconds": {"training": 60.0, "total": 75.0}, "stages": ["stage 1: 4 steps"], "shortened_to": 0.5,
    }  # fmt: skip
    history = [
        {"step": 2, "stage": 1, "size": 24, "rate": 0.5, "loss": 1.0, "seconds": 20.0, metric: value},
        {"step": 4, "stage": 2, "size": 32, "rate": 0.1, "loss": 0.5, "seconds": 60.0, metric: value},
    ]
    cv = {"competition": "c", "mean": value, "std": 0.01, "oof": value, "scores": {metric: value}, "seconds": 150.0}
    return Record(name, {"time_budget": "60s", "epochs": 3}, cv, {0: manifest, 1: manifest}, {0: history, 1: history},
                  task, found, oof, y)  # fmt: skip


KINDS = [
    ("single", ["cat", "dog", "owl"], "accuracy"),
    ("single", ["cat", "dog"], "auc"),
    ("single", ["cat", "dog", "owl"], "log_loss"),
    ("multi", ["rust", "scab", "frog"], "f1_macro"),
    ("number", ["age"], "rmse"),
    ("number", ["x", "y"], "mae"),
    ("targets", ["root=a", "root=b", "vowel=0", "vowel=1", "vowel=2"], "accuracy"),
]


@pytest.mark.parametrize(("kind", "names", "metric"), KINDS)
def test_every_kind_of_target_has_its_sections(kind: str, names: list[str], metric: str) -> None:
    one = record(kind, names, metric)
    choice, found = choose(one, 8, 2), suspects(one)
    cards = cards_of(one, choice, {})
    sections = [
        scores([one]), curves([one]), confusions(one), calibration(one), thresholds(one),
        gallery(cards, one.task, ["r"], [0, 1]), labels(one, found, {}, "suspects.csv"), time_spent([one]),
        repeat(one, [("rows", "60")], ["size=32"], "size: 32"),
    ]  # fmt: skip
    text = render(Headline("a <b>", "about", [("1", "one")]), sections)
    assert all(section.blocks for section in sections)
    assert text.count("<h1>") == 1 and text.count("<h2") == len(sections)
    assert all(re.search(r'alt="[^"]', tag) for tag in re.findall(r"<img (?!id=)[^>]*>", text)), "each picture is told"
    assert "<b>0&" not in text and "a &lt;b&gt;" in text, "ids and names are text, not HTML"
    assert "http" not in re.sub(r"http-equiv|http://www.w3.org[^\"]*", "", text), "nothing is fetched"
    assert "nan" not in re.findall(r"<td[^>]*>(.*?)</td>", text)


def test_the_gallery_shows_what_its_names_say() -> None:
    one = record("single", ["cat", "dog", "owl"], "accuracy")
    choice = choose(one, 10, 0)
    share, guess = one.oof.pred.max(axis=1), one.oof.pred.argmax(axis=1)
    of = {kind: [r for r, kinds in zip(choice.rows.tolist(), choice.kinds, strict=True) if kind in kinds]
          for kind in (WRONG, UNSURE, COSTLY)}  # fmt: skip
    wrong = sorted(np.flatnonzero(guess != one.y).tolist(), key=lambda row: -share[row])
    assert set(of[WRONG]) == set(wrong[:10])
    credit = one.oof.pred[np.arange(ROWS), one.y]
    assert set(of[COSTLY]) == set(np.argsort(credit, kind="stable")[:10].tolist())
    gap = np.diff(np.sort(one.oof.pred, axis=1)[:, -2:], axis=1)[:, 0]
    assert set(of[UNSURE]) == set(np.argsort(gap, kind="stable")[:10].tolist())
    card = cards_of(one, choice, {})[0]
    row = int(choice.rows[0])
    assert dict(card.facts)["true"] == one.task.names[one.y[row]] and card.marks["fold"] == str(one.oof.fold[row])
    assert set(card.marks["class"].split("\t")) == {str(one.task.names[one.y[row]]), str(one.task.names[guess[row]])}


def test_the_share_of_a_member_is_the_mean_over_the_folds() -> None:
    made = record("single", ["a", "b"], "accuracy")
    folds: Any = {0: {"weights": {"p": 0.75, "q": 0.25}}, 1: {"weights": {"p": 1.0}}}
    made = dataclasses.replace(made, manifests=folds)
    assert (made.share_of("p"), made.share_of("q"), made.share_of("r")) == (0.875, 0.125, None)


def test_tables_longer_than_a_screen_are_folded_and_texts_are_set_as_such() -> None:
    rows = [[str(n), "0.5", "key=value " * 8 if n == 3 else "none"] for n in range(31)]
    tables = [Table("long", ["n", "score", "settings"], rows), Table("short", ["n", "score"], [["1", "0.5"]])]
    text = render(Headline("t", "a", []), [Section("s", "S", tables)])
    folded, plain = text.split("<details>")[1].split("</details>")
    assert (
        "<summary>long</summary>" in folded and 'class="left">settings' in folded and 'class="left">score' not in text
    )
    assert folded.count('<td class="long">') == 31, "the column, also where it is short"
    assert "<caption>short</caption>" in plain and '"long"' not in plain


def test_a_network_that_knows_little_judges_no_labels() -> None:
    known = record("single", ["cat", "dog", "owl"], "accuracy")
    found = suspects(known)
    assert found.sure > 0.3 * ROWS, "its predictions are drawn"
    (warning,) = [block for block in labels(known, found, {}, "f").blocks if isinstance(block, Note) and block.warning]
    assert f"{found.sure / ROWS:.0%} of all rows: this network knows too little" in warning.text
    few = dataclasses.replace(found, sure=int(0.3 * ROWS))
    assert not any(isinstance(block, Note) and block.warning for block in labels(known, few, {}, "f").blocks)


def test_the_honest_score_is_marked() -> None:
    (table,) = [b for b in scores([record("single", ["a", "b"], "accuracy")]).blocks if isinstance(b, Table)][:1]
    assert table.marked is not None and table.rows[table.marked][0].startswith("out-of-fold")


def test_time_by_stage_and_a_plan_that_was_cut() -> None:
    one = record("single", ["a", "b"], "accuracy")
    assert by_stage(one.histories[0]) == {1: 20.0, 2: 40.0}
    assert "shortened the plan of fold 0 to 50%" in str(time_spent([one]).blocks)


def test_ten_thousand_rows_stay_small() -> None:
    """Pictures of the most cards there are, at the size of a full one of noise."""
    from src.reporting.report.section import Card

    noise = np.random.default_rng(0).bytes(9_000)
    cards = [Card(str(i), noise, [("true", "a"), ("predicted", "b")], noise, {"kind": WRONG}) for i in range(300)]
    text = render(Headline("t", "", []), [Section("gallery", "Gallery", [Cards("gallery", "rows", cards)])])
    assert len(text) < 10e6
