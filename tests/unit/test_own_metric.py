"""The user's own metric: what it is given, what it may say of itself, and one line for each mistake."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk

from src.competition.kinds.multi import Multi
from src.competition.kinds.single import Single
from src.competition.metrics.own import is_own, own_metric, score_files
from src.competition.sample import Sample
from src.competition.task import Task
from src.errors import UserError

IDS = np.array(["a"])
LABELS, POSITIVE = Sample(("id", "label"), IDS, "labels"), Sample(("id", "target"), IDS, "positive")
COLUMNS = Sample(("id", "0", "1", "2"), IDS, "probabilities")
TWO, THREE = Single(np.array(["0", "1"])), Single(np.array(["0", "1", "2"]))
Y, PRED = np.array([0, 2, 1, 2]), np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.5, 0.2, 0.3], [0.3, 0.3, 0.4]])


def metric(place: Path, text: str, task: Task = THREE, sample: Sample = LABELS, name: str = "mine.py:score", said=None):
    (place / "mine.py").write_text(text)
    return own_metric(name, [place], task, sample, (said if said is not None else []).append)


def test_what_is_a_file_and_what_a_name() -> None:
    assert is_own("my_metric.py:score") and is_own("/a/b.py:f") and is_own("b.py") and not is_own("f1.5")


def test_labels_and_probabilities_as_the_sample_asks(tmp_path: Path) -> None:
    text = "from sklearn.metrics import {0}\ndef score(y_true, y_pred):\n    return {0}(y_true, y_pred)\n"
    said: list[str] = []
    found = metric(tmp_path, text.format("accuracy_score"), said=said)
    assert found.name == "mine:score" and found.of == "labels" and found.greater_is_better
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"], "nothing is left beside the user's file"
    assert found.function(Y, PRED) == 0.75
    assert len(said) == 1 and "score.greater_is_better = False" in said[0]
    y, pred = np.array([0, 1, 1, 0]), np.array([[0.7, 0.3], [0.2, 0.8], [0.9, 0.1], [0.6, 0.4]])
    found = metric(tmp_path, text.format("roc_auc_score"), TWO, POSITIVE)
    assert found.of == "probabilities" and found.function(y, pred) == sk.roc_auc_score(y, pred[:, 1])
    found = metric(tmp_path, text.format("log_loss") + "score.greater_is_better = False\n", THREE, COLUMNS)
    assert not found.greater_is_better and found.function(Y, PRED) == sk.log_loss(Y, PRED)


def test_what_the_function_says_of_itself(tmp_path: Path) -> None:
    said: list[str] = []
    text = "def score(y, p):\n    return p.shape[1]\nscore.of = 'probabilities'\nscore.greater_is_better = True\n"
    found = metric(tmp_path, text, said=said)
    assert found.of == "probabilities" and found.function(Y, PRED) == 3 and not said
    with pytest.raises(UserError, match=r"\.of is 'logits'; choose labels"):
        metric(tmp_path, "def score(y, p):\n    return 1\nscore.of = 'logits'\n")


def test_several_labels(tmp_path: Path) -> None:
    task, words = Multi(np.array(["ant", "bee"])), Sample(("id", "labels"), IDS, "labels")
    y, pred = np.array([[True, False], [True, True]]), np.array([[0.9, 0.6], [0.2, 0.5]])
    text = "def score(y, p):\n    return float((y == p).mean())\n"
    assert metric(tmp_path, text, task, words).function(y, pred) == 0.5
    columns = Sample(("id", "ant", "bee"), IDS, "probabilities")
    assert metric(tmp_path, "def score(y, p):\n    return p[0, 1]\n", task, columns).function(y, pred) == 0.6


@pytest.mark.parametrize(
    ("sample", "solution", "submission"),
    [
        (LABELS, {"label": [0, 2, 1, 2]}, {"label": [0, 2, 0, 2]}),
        (
            Sample(("id", "2", "0", "1"), IDS, "probabilities"),
            {"2": [0, 1, 0, 1], "0": [1, 0, 0, 0], "1": [0, 0, 1, 0]},
            {"2": PRED[:, 2], "0": PRED[:, 0], "1": PRED[:, 1]},
        ),
    ],
)
def test_tables_as_in_kaggles_notebooks(tmp_path: Path, sample: Sample, solution: dict, submission: dict) -> None:
    text = (
        "import pandas as pd\n"
        "class ParticipantVisibleError(Exception):\n    pass\n"
        "def score(solution: pd.DataFrame, submission: pd.DataFrame, row_id_column_name: str, k: float = 1) -> float:\n"
        "    seen.append((solution.copy(), submission.copy(), row_id_column_name))\n"
        "    return 0.25\n"
        "seen = []\n"
        "score.seen = seen\n"
    )
    found = metric(tmp_path, text, sample=sample)
    assert found.function(Y, PRED) == 0.25
    from src.competition.metrics.own import load_function

    ((one, two, column),) = load_function("mine.py:score", tmp_path / "mine.py").seen  # type: ignore[attr-defined]
    assert column == "id"
    pd.testing.assert_frame_equal(one, pd.DataFrame({"id": range(4), **solution}))
    pd.testing.assert_frame_equal(two, pd.DataFrame({"id": range(4), **submission}))


@pytest.mark.parametrize(
    ("text", "name", "line"),
    [
        ("def score(y, p):\n    return 1\n", "other.py:score", "there is no file other.py (looked in "),
        (
            "def score(y, p):\n    return 1\n",
            "mine.py:scores",
            "no function 'scores'; did you mean 'score'?; it has",
        ),
        ("def score(y, p):\n    return 1\n", "mine.py", "which function? Give competition.metric=mine.py:NAME"),
        ("import nothing_such\n", "mine.py:score", "mine.py, line 1: ModuleNotFoundError"),
        ("def score(y, p)\n    return 1\n", "mine.py:score", "mine.py, line 1: SyntaxError"),
        ("def score(y):\n    return 1\n", "mine.py:score", "takes other parameters than (y_true, y_pred)"),
        ("def score(y, p, w):\n    return 1\n", "mine.py:score", "give the further ones defaults"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, text: str, name: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        metric(tmp_path, text, name=name)
    assert line in str(caught.value)


def test_what_it_raises_and_returns_names_its_line(tmp_path: Path) -> None:
    found = metric(
        tmp_path, "def score(y, p):\n    table = {}\n    return help(table)\ndef help(t):\n    return t['x']\n"
    )
    with pytest.raises(UserError, match=r"mine\.py, line 5: KeyError: 'x'"):
        found.function(Y, PRED)
    found = metric(tmp_path, "def score(y, p):\n    return float('nan')  # not a score\n")
    with pytest.raises(UserError, match="score returned nan for 4 rows"):
        found.function(Y, PRED)


def test_files_are_scored_by_a_function_of_tables(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def score(solution, submission, row_id_column_name):\n"
        "    assert list(solution) == list(submission) == [row_id_column_name, 'label']\n"
        "    return (solution['label'] == submission['label']).mean()\n"
        "def other(y_true, y_pred):\n    return 1\n"
    )
    solution, submission = tmp_path / "solution.csv", tmp_path / "submission.csv"
    solution.write_text("id,label,Usage\n1,a,Private\n2,b,Public\n3,a,Public\n")
    submission.write_text("id,label\n3,a\n1,b\n2,b\n")
    found = score_files("mine.py:score", [tmp_path], submission, solution)
    assert found == ("mine:score", pytest.approx(2 / 3))
    with pytest.raises(UserError, match="a file is scored by"):
        score_files("mine.py:other", [tmp_path], submission, solution)
    submission.write_text("id,label\n3,a\n1,b\n")
    with pytest.raises(UserError, match="have different ids in column 'id'"):
        score_files("mine.py:score", [tmp_path], submission, solution)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    assert metric(tmp_path, "def score(y, p):\n    return 1\n").function(Y, PRED) == 1
    import os

    (tmp_path / "mine.py").write_text("def score(y, p):\n    return 2\n")
    os.utime(tmp_path / "mine.py", (1, 1))
    assert own_metric("mine.py:score", [tmp_path], THREE, LABELS, print).function(Y, PRED) == 2
