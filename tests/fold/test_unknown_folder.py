"""A folder that nothing is known of, from one command to a submission that has the sample's rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.cli import main
from tests.conftest import TINY
from tests.unit.test_guess import (
    LAYOUTS,
    arrays_in_json,
    channels_in_files,
    hidden_answers,
    long_tables,
    pixel_columns,
    several_pictures_a_row,
)

WAYS = {
    "several pictures a row": (several_pictures_a_row, "auc", "prediction_id"),
    "long tables": (long_tables, "log_loss", "ID"),
    "pixel columns": (pixel_columns, "accuracy", "ImageId"),
    "channels in files": (channels_in_files, "f1_macro", "Id"),
    "arrays in JSON": (arrays_in_json, "log_loss", "id"),
}


def start(place: Path, verb: str, *words: str) -> int:
    places = [f"paths.{name}={place / name}" for name in ("runs", "cache", "folds", "submissions", "input")]
    return main([verb, *places, *words])


def train(place: Path, metric: str, *words: str, folds: int = 2) -> int:
    plan = [
        "preset=scratch",
        f"folds.n={folds}",
        "size=16",
        "epochs=1",
        "batch_size=8",
        "stages=[{}]",
        "tta=none",
        *TINY,
    ]
    return start(place, "train", f"competition.root={place / 'data'}", f"competition.metric={metric}", *plan, *words)


@pytest.mark.parametrize("name", WAYS)
def test_from_a_folder_to_a_submission(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, metric, id_column = WAYS[name]
    make(tmp_path / "data")
    assert train(tmp_path, metric, "fold=0", "run=first") == 0
    said = capsys.readouterr().out
    assert all(f"{key} " in said for key in LAYOUTS[name][2] if key != "pool")  # what was found is printed
    sample = pd.read_csv(next((tmp_path / "data").glob("*ample*ubmission*.csv")), dtype={id_column: str})
    made = pd.read_csv(tmp_path / "submissions" / "first.csv", dtype={id_column: str})
    assert list(made.columns) == list(sample.columns) and made[id_column].tolist() == sample[id_column].tolist()
    if metric in ("auc", "log_loss"):
        values = made.iloc[:, 1:].to_numpy(float)
        assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1
    assert start(tmp_path, "predict", "run=first") == 0  # the run remembers what was found
    again = pd.read_csv(tmp_path / "submissions" / "first.csv", dtype={id_column: str})
    pd.testing.assert_frame_equal(again, made)


def test_columns_beside_the_pictures_join_a_stack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hidden_answers(tmp_path / "data")
    assert train(tmp_path, "log_loss", "fold=all", "run=first", folds=3) == 0
    given = ["runs=[first]", "run=second", "features=[columns:patient_id]"]
    assert start(tmp_path, "stack", *given) == 0
    notes = json.loads((tmp_path / "runs" / "second" / "fold0" / "manifest.json").read_text())
    assert set(notes["weights"]) == {"members", "columns:patient_id"}
    capsys.readouterr()
    assert start(tmp_path, "stack", "runs=[first]", "run=third", "features=[columns:diagnosis]") == 2
    assert "column 'diagnosis' is not in test.csv" in capsys.readouterr().err


def test_a_root_that_is_given_is_never_ignored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    assert train(tmp_path, "auc", "fold=0") == 2
    assert "no image below it" in capsys.readouterr().err
