"""Which rows are predicted, how a submission names them, and what it is usually scored by."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from src.competition.table_file import read_header
from src.errors import UserError
from src.guess.finding import Finding
from src.guess.folder import Folder, Table
from src.guess.roles import Roles
from src.guess.templates import Place, split_of


def submitted(roles: Roles, train_id: str | None) -> list[Finding]:
    """The findings on `rows`, `pool`, `long` and `test_id_column`."""
    rows, findings = roles.rows, []
    if roles.long is not None:
        findings.append(
            Finding("long", roles.long[1], "a row per picture and target", f"values in column {roles.long[2]}")
        )
    if rows is None:
        if roles.sample is not None and roles.test is not None and len(roles.test) == len(roles.sample):
            why = "the test table has no ids, but as many rows as the sample"
            findings.append(Finding("test_id_column", "", "row by row", why))
        return findings
    if rows.template != "{id}":
        findings.append(Finding("rows", rows.template, "a row of the sample", rows.why))
    if "pictures a row" in rows.why:
        findings.append(Finding("pool", "mean", "several pictures per row", rows.why, ("max",)))
    if roles.test is not None and rows.names:
        ids = set(next(iter(roles.sample.columns.values())).tolist()) if roles.sample is not None else set()
        named = next(iter(roles.test.holding(ids)), None)
        named = named or (roles.test_place.column if roles.test_place is not None else None)
        if named is not None and named != train_id:
            findings.append(Finding("test_id_column", named, "a row of the sample", rows.why))
    elif rows.id_column == "":
        findings.append(
            Finding("test_id_column", "", "row by row", "the test table has no ids; its rows are the sample's")
        )
    elif rows.id_column is not None and rows.id_column != train_id:
        findings.append(Finding("test_id_column", rows.id_column, "a row of the sample", rows.why))
    return findings


def test_table(test: Table, place: Place | None) -> list[Finding]:
    """The test rows where a table has them and nothing shows what to submit."""
    why = f"without a sample submission, a label for each of the {len(test)} rows of {test.file} is written"
    id_column = place.column if place is not None else next(iter(test.columns))
    named = next((name for name, cells in test.columns.items() if len(np.unique(cells)) == len(cells)), id_column)
    return [
        Finding("sample_csv", None, "no sample submission", why),
        Finding("test_id_column", named, "no sample submission", "the first column without repeats"),
    ]


def first_column(root: Path, file: str) -> str:
    return read_header(root / file, "competition.sample_csv")[0]


def test_folder(folder: Folder) -> list[Finding]:
    """The test pictures of a folder without a sample submission: those in the folder that is called test."""
    counts = {path: count for path, count in folder.folders().items() if split_of(path) == "test"}
    if not counts:
        raise UserError(
            f"{folder.root}: no sample submission, no test table and no folder of test pictures; give "
            "competition.test_images=FOLDER (the pictures to predict), or competition.sample_csv="
        )
    top = os.path.commonpath(list(counts))
    why = f"{sum(counts.values())} pictures; without a sample submission, a row per picture with its label is written"
    return [
        Finding("sample_csv", None, "no sample submission", why),
        Finding("test_images", top if len(counts) == 1 else f"{top}/**/{{id}}", "the folder called test", why),
    ]


def usual_metric(keys: Mapping[str, Any], columns: int) -> Finding:
    """The metric that such a submission is most often scored by. columns: of values in the sample."""
    kind, form = keys.get("kind"), keys.get("submission")
    others: tuple[str, ...]
    if kind == "number":
        name, others = "rmse", ("mae", "r2")
    elif kind == "targets":
        name, others = "recall_macro", ("accuracy",)
    elif kind == "multi":
        name, others = ("auc", ("log_loss",)) if columns > 1 else ("f1_micro", ("f1_macro", "f1_samples"))
    elif form == "ranked":
        name, others = "map5", ("map3",)
    elif form == "confident":
        name, others = "gap", ()
    elif form == "positive":
        name, others = "auc", ("log_loss",)
    elif columns > 1:
        name, others = "log_loss", ("auc",)
    else:
        name, others = "accuracy", ("auc", "f1_macro", "balanced_accuracy", "qwk")
    why = "none is given; give competition.metric= (init: metric=) as the competition's page has it"
    return Finding("metric", name, "usual for such a submission", why, others)
