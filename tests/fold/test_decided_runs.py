"""Runs whose metric takes labels: the decision is written, quoted nested, and what is submitted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from src.competition.decisions import Decision
from src.competition.kinds.multi import Multi, split
from src.competition.metrics.multi import METRICS
from src.predictions import concatenate, fold_mean, load_predictions
from tests.fold.test_multi import make, start

# too short to be right at 0.5, long enough to know something
SHORT = ("epochs=4", "average.swa=false", "average.ema=0")
TRAIN = ("train", "competition=folder", "competition.metric=F2 of words", "competition.metrics=[f1_macro]", *SHORT)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("decided")
    make(place / "data", columns=False)
    assert start(place, *TRAIN, "fold=all", "run=a") == 0
    return place


def cv(place: Path, run: str) -> dict[str, Any]:
    return json.loads((place / "runs" / run / "cv.json").read_text())


def submitted(place: Path, run: str) -> pd.Series:
    table = pd.read_csv(place / "submissions" / f"{run}.csv", dtype=str, keep_default_na=False)
    return table.set_index("id")["labels"]


def test_a_run_writes_its_decision_and_submits_with_it(place: Path) -> None:
    found, folder = cv(place, "a"), place / "runs" / "a"
    decision = Decision.from_json(json.loads((folder / "decision.json").read_text()))
    assert found["metric"] == "f2_micro" and found["decision"] == decision.to_json()
    parts = [load_predictions(folder / f"fold{k}" / "oof.npz") for k in (0, 1)]
    oof, task = concatenate(parts), Multi(parts[0].classes)
    assert oof.target is not None
    y, metric = task.encode(oof.target), METRICS.find("f2_micro")
    assert found["plain"] == pytest.approx(metric.function(y, oof.pred)), "oof.npz is not decided"
    assert found["oof"] == found["scores"]["f2_micro"] > found["plain"] == found["scores"]["plain_f2_micro"]
    on_its_own = metric.function(y, decision.apply(oof.pred))
    assert found["oof"] <= on_its_own + 1e-9, "the nested score is not that on the rows that were fitted"

    test = fold_mean([load_predictions(folder / f"fold{k}" / "test.npz") for k in (0, 1)])
    expected = dict(zip(test.ids.tolist(), task.cells(decision.apply(test.pred) >= 0.5).tolist(), strict=True))
    assert submitted(place, "a").to_dict() == expected
    assert (decision.apply(test.pred) >= 0.5).sum() > (test.pred >= 0.5).sum(), "F2 wants more words than 0.5 gives"
    for k in (0, 1):
        manifest = json.loads((folder / f"fold{k}" / "manifest.json").read_text())
        assert manifest["score"] == manifest["scores"]["f2_micro"] and "plain" in manifest


def test_predict_decides_again_or_not(place: Path) -> None:
    before = submitted(place, "a")
    assert start(place, "predict", "run=a") == 0
    assert submitted(place, "a").equals(before)
    assert start(place, "predict", "run=a", "competition.decide=none") == 0
    assert not submitted(place, "a").equals(before)
    assert start(place, "predict", "run=a") == 0


def test_an_ensemble_decides_on_its_own_rows(place: Path) -> None:
    assert start(place, *TRAIN, "fold=all", "run=b", "seed=1") == 0
    assert start(place, "ensemble", "runs=[a,b]", "method=soft", "run=e") == 0
    own = json.loads((place / "runs" / "e" / "decision.json").read_text())
    assert own["kind"] == "thresholds" and own["fitted_on_folds"] == [0, 1]
    assert cv(place, "e")["oof"] > cv(place, "e")["plain"]


def test_without_a_decision(place: Path) -> None:
    assert start(place, *TRAIN, "fold=0", "run=plain", "competition.decide=none") == 0
    found = cv(place, "plain")
    assert found["oof"] == found["plain"] and found["decision"] is None
    assert not (place / "runs" / "plain" / "decision.json").exists()


def test_the_users_own_metric_of_words(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is kept in the run; changed, it is another run."""
    file = place / "mine.py"
    file.write_text(
        "def score(solution, submission, row_id_column_name):\n"
        "    words = [column['labels'].fillna('').str.split().map(set) for column in (solution, submission)]\n"
        "    return sum(a == b for a, b in zip(*words)) / len(solution)\n"
        "score.greater_is_better = True\n"
    )
    words = ("train", "competition=folder", f"competition.metric={file}:score", *SHORT, "run=own")
    assert start(place, *words, "fold=0") == 0
    found, oof = cv(place, "own"), load_predictions(place / "runs" / "own" / "fold0" / "oof.npz")
    assert oof.target is not None
    truth = [set(split(cell)) for cell in oof.target.tolist()]
    guess = [set(oof.classes[row].tolist()) for row in oof.pred >= 0.5]
    right = np.mean([a == b for a, b in zip(truth, guess, strict=True)])
    assert found["metric"] == "mine:score" and found["plain"] == pytest.approx(right)
    assert (place / "runs" / "own" / "mine.py").read_text() == file.read_text()
    assert 0 <= found["test"] <= 1
    file.write_text(file.read_text() + "# better\n")
    assert start(place, *words, "fold=1") == 2
    assert "has changed since run=own was started with it" in capsys.readouterr().err
