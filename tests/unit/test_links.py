"""Rows of a sample that are several pictures, or one target of a picture, against pandas."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.competition.kinds.multi import Multi
from src.competition.kinds.single import Single
from src.competition.links import filled, link, pool
from src.competition.long_table import names_in, pivot
from src.competition.sample import Sample
from src.competition.submission import check_submission, submission_table
from src.competition.tables import Competition, Rows
from src.config import Config
from src.errors import UserError
from src.predictions import Predictions
from src.runs.decided import as_submitted

IDS = np.array([f"i{row}" for row in range(8)])
PATIENT = np.array(["p2", "p1"] * 4)
SIDE = np.array(["L", "L", "R", "R"] * 2)
PRED = np.random.default_rng(0).random((8, 1))
TWO = np.hstack([1 - PRED, PRED])
TASK = Single(np.array(["0", "1"]))


def test_a_template_is_filled() -> None:
    made = filled("{patient}_{side}/{id}", IDS, {"patient": PATIENT, "side": SIDE})
    assert made.tolist()[:2] == ["p2_L/i0", "p1_L/i1"]


@pytest.mark.parametrize("how", ["mean", "max"])
def test_several_pictures_a_row(how: str) -> None:
    keys = pd.Series([f"{p}_{s}" for p, s in zip(PATIENT, SIDE, strict=True)])
    expected = pd.Series(TWO[:, 1]).groupby(keys).agg(how)
    sample = Sample(("prediction_id", "cancer"), np.array(["p1_R", "p2_L", "p2_R", "p1_L"]), "positive")
    links = link(sample, IDS, {"patient": PATIENT, "side": SIDE}, "{patient}_{side}", TASK.names, how)
    shuffled = np.random.default_rng(1).permutation(8)
    table = submission_table(sample, IDS[shuffled], TWO[shuffled], TASK, links)
    check_submission(table, sample, TASK, links)
    np.testing.assert_allclose(table["cancer"], expected[table["prediction_id"]].to_numpy())


def test_a_row_per_picture_and_target() -> None:
    task = Multi(np.array(["any", "deep red"]))
    pred = np.random.default_rng(2).random((3, 2))
    ids = np.array(["a", "b_1", "c"])
    rows = [f"{i}_{name}" for i in ids for name in ("deep red", "any")]
    sample = Sample(("ID", "Label"), np.array(rows), "probabilities")
    links = link(sample, ids, {}, "{id}_{target}", task.names, "mean")
    table = submission_table(sample, ids, pred, task, links)
    check_submission(table, sample, task, links)
    wanted = {
        f"{i}_{name}": pred[at, task.names.tolist().index(name)] for at, i in enumerate(ids) for name in task.names
    }
    assert dict(zip(table["ID"], table["Label"], strict=True)) == pytest.approx(wanted)


def test_rows_that_no_picture_makes() -> None:
    sample = Sample(("id", "y"), np.array(["p1_L", "p9_L"]), "positive")
    with pytest.raises(UserError, match=r"competition\.rows=.*p9_L"):
        link(sample, IDS, {"patient": PATIENT, "side": SIDE}, "{patient}_{side}", TASK.names, "mean")


def test_pool_is_a_mean_over_its_own() -> None:
    unit = np.array([1, 0, 1, 1])
    pred = np.array([[1.0], [5.0], [2.0], [6.0]])
    assert pool(pred, unit, 2, "mean").tolist() == [[5.0], [3.0]]
    assert pool(pred, unit, 2, "max").tolist() == [[5.0], [6.0]]


def test_names_in_ids() -> None:
    cells = np.array([f"Test_{row}_{name}" for row in range(3) for name in ("vowel_diacritic", "root")])
    pictures, names = names_in(cells, "{id}_{target}")
    assert pictures.tolist() == ["Test_0", "Test_0", "Test_1", "Test_1", "Test_2", "Test_2"]
    assert set(names.tolist()) == {"vowel_diacritic", "root"}
    pictures, names = names_in(np.array(["x-1", "y-1", "x-2", "y-2"]), "{target}-{id}")
    assert pictures.tolist() == ["1", "1", "2", "2"] and names.tolist() == ["x", "y", "x", "y"]
    with pytest.raises(UserError, match=r"competition\.long"):
        names_in(cells, "{id}")


def test_a_long_table_is_pivoted_as_pandas_does() -> None:
    rng = np.random.default_rng(3)
    ids, names = np.repeat(["b", "a", "c"], 2), np.tile(["x", "y"], 3)
    order = rng.permutation(6)
    columns = {"image": ids[order], "name": names[order], "value": np.arange(6)[order].astype(str)}
    wide, targets = pivot(columns, "train.csv", "image", "name", "value")
    theirs = pd.DataFrame(columns).pivot(index="image", columns="name", values="value")
    assert targets == ["x", "y"] and sorted(wide["image"].tolist()) == ["a", "b", "c"]
    for name in targets:
        assert wide[name].tolist() == theirs.loc[wide["image"], name].tolist()
    broken = {name: cells[:-1] for name, cells in columns.items()}
    with pytest.raises(UserError, match="has 0 rows of"):
        pivot(broken, "train.csv", "image", "name", "value")


def test_out_of_fold_rows_are_scored_as_they_are_submitted() -> None:
    """Against a groupby of pandas; pictures of one row in two folds are a row of each."""
    sample = Sample(("row", "y"), np.array(["t"]), "positive")
    rows = np.array([f"{p}_{s}" for p, s in zip(PATIENT, SIDE, strict=True)])
    y = np.array([0, 1, 1, 0, 0, 0, 1, 0])
    train = Rows(IDS, IDS.astype("S"), y, PATIENT, rows)
    competition = Competition("toy", Path(), TASK, train, Rows(sample.ids, sample.ids.astype("S")), "id", "y", sample)
    order = np.random.default_rng(4).permutation(8)
    fold = np.array([0, 1, 0, 1, 0, 1, 1, 1])[order]
    oof = Predictions(IDS[order], TWO[order].astype(np.float32), TASK.names, fold, TASK.cells(y[order]))
    found = as_submitted(Config(), competition, y[order], oof)
    frame = pd.DataFrame(
        {"row": rows[order], "fold": fold, "y": y[order], "p": oof.pred[:, 1], "group": PATIENT[order]}
    )
    elsewhere = dataclasses.replace(oof, ids=np.array(["gone", *oof.ids[1:]]))  # of a table that had one row more
    assert as_submitted(Config(), competition, y[order], elsewhere).pred is elsewhere.pred
    wanted = frame.groupby(["fold", "row"]).agg({"y": "max", "p": "mean", "group": "first"}).reset_index()
    assert sorted(zip(found.fold, found.y, found.pred[:, 1].round(5), found.groups, strict=True)) == sorted(
        zip(wanted["fold"], wanted["y"], wanted["p"].astype(np.float32).round(5), wanted["group"], strict=True)
    )
