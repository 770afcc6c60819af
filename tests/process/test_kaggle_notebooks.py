"""Both notebooks of `./run.sh kaggle build` on a machine like Kaggle's: wheels attached, no index, inputs read-only.

The training's output is attached to the inference notebook, whose test set is larger than what everybody sees.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from src.cli import main
from src.recipes.kaggle import kaggle
from tests.conftest import write
from tests.process.image import attach, make_image, repack, run_notebook
from tests.process.namespaces import may_mount

pytestmark = pytest.mark.process

# What the inference notebook does not get: it predicts with what the run has kept.
WITHHELD = ("solution.csv", "train", "train.csv")
ZOO = Path(os.environ.get("ZOO", "../shared/zoo/zoo.py"))  # competitions and their graders
ASK_ZOO = [sys.executable, str(ZOO)]
PUBLIC = 6  # test rows that everybody sees; the hidden test set has all of them
SLUG = "mini-digits"
WORDS = ["model=test_resnet", "model.pretrained=never", "epochs=1", "batch_size=16", "size=28", "folds.n=2"]
WORDS += ["workers=0", "precision=fp32", "tta=none", "competition.metric=accuracy", "optimizer.lr=0.2"]
WORDS += ["report=false"]  # the training's own: a cell of its own makes it


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """notebooks/mini, with wheels of what the image lacks."""
    place = tmp_path_factory.mktemp("built")
    for name in ("hydra-core", "omegaconf", "antlr4-python3-runtime"):
        repack(name, place / "wheels")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        # without namespaces, the session is as old as this machine
        limit = [] if may_mount() else ["session.limit=10000h"]
        kaggle("build", f"competition={SLUG}", "name=mini", "user=me", f"wheels={place / 'wheels'}", *WORDS, *limit)
    return place / "notebooks" / "mini"


def public(source: Path, target: Path) -> Path:
    """The competition as everybody sees it: the first test rows only."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("solution.csv"))
    for name in ("test.csv", "sample_submission.csv"):
        head, *rows = read(target / name)
        write(target / name, head, sorted(rows)[:PUBLIC])
    kept = {row[0] for row in read(target / "test.csv")[1:]}
    for image in (target / "test").iterdir():
        if image.stem not in kept:
            image.unlink()
    return target


def hidden(source: Path, target: Path) -> Path:
    """As the inference notebook gets it when it is graded: all test rows."""
    return Path(shutil.copytree(source, target, ignore=shutil.ignore_patterns(*WITHHELD)))


def read(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))


def done(ended: subprocess.CompletedProcess[str]) -> str:
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


def train_and_infer(seen: Path, graded: Path, built: Path, tmp_path: Path) -> Path:
    """The submission for the data in `graded`, by the inference notebook with what the training notebook made of those
    in `seen`."""
    python, inputs, output = make_image(tmp_path / "image"), tmp_path / "input", tmp_path / "working"
    attach(seen, inputs, f"competitions/{SLUG}")
    attach(built / "wheels", inputs, "datasets/me/mini-wheels")
    text = done(run_notebook(built / "training" / "mini-training.ipynb", python, inputs, output))
    assert "adding to this notebook's Python: hydra-core" in text
    assert sorted(path.name for path in output.iterdir()) == ["folds", "runs", "submission.csv", "submissions"]
    assert len(read(output / "submission.csv")) == len(read(seen / "sample_submission.csv"))
    assert sorted(path.name for path in (output / "runs" / "mini").glob("fold*")) == ["fold0", "fold1"]
    assert (output / "runs" / "mini" / "report.html").is_file()

    python, inputs, last = make_image(tmp_path / "image2"), tmp_path / "input2", tmp_path / "graded"
    attach(graded, inputs, SLUG)  # the older way of mounting
    attach(built / "wheels", inputs, "mini-wheels")
    attach(output, inputs, "mini-training")
    done(run_notebook(built / "inference" / "mini-inference.ipynb", python, inputs, last))
    assert not (last / "runs" / "mini" / "fold0").exists(), "weights are read where they lie"
    return last / "submission.csv"


class Given(NamedTuple):
    """A competition: as everybody sees it, as the inference notebook gets it, and what it is graded by."""

    seen: Path
    graded: Path
    sample: Path
    answers: Path


def digits(data: Path, place: Path) -> Given:
    seen, graded = public(data, place / "public"), hidden(data, place / "hidden")
    return Given(seen, graded, data / "sample_submission.csv", data / "solution.csv")


def with_a_grader(place: Path) -> Given:
    """Labels 0 to 4, ids with an extension, no test table."""
    subprocess.run([*ASK_ZOO, "make", "cassava", str(place), "--rows", "60"], check=True, capture_output=True)
    data = place / "cassava" / "public"
    seen = Path(shutil.copytree(data, place / "seen"))
    head, *rows = read(seen / "sample_submission.csv")
    write(seen / "sample_submission.csv", head, rows[:PUBLIC])
    for name, _ in rows[PUBLIC:]:
        (seen / "test_images" / name).unlink()
    graded = Path(shutil.copytree(data, place / "hidden", ignore=shutil.ignore_patterns("train.csv", "train_images")))
    return Given(seen, graded, data / "sample_submission.csv", place / "cassava" / "private" / "answers.csv")


def test_training_then_inference_on_a_hidden_test_set(
    mini_digits: Path, built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hidden labels say the same of it as `score` does; so does the competition's grader, which refuses other
    columns and ids, where there is one."""
    given = with_a_grader(tmp_path) if ZOO.is_file() else digits(mini_digits, tmp_path)
    made = train_and_infer(given.seen, given.graded, built, tmp_path)
    rows, sample = read(made), read(given.sample)
    assert rows[0] == sample[0] and [row[0] for row in rows] == [row[0] for row in sample]
    truth = {row[0]: row[1] for row in read(given.answers)[1:]}
    assert len(rows) == len(truth) + 1 > PUBLIC + 1 and {row[1] for row in rows[1:]} <= set(truth.values())
    assert main(["score", f"submission={made}", f"solution={given.answers}"]) == 0
    hits = np.mean([truth[name] == label for name, label in rows[1:]])
    assert capsys.readouterr().out == f"accuracy {hits:.4f}\n"
    if ZOO.is_file():
        grade = [*ASK_ZOO, "grade", "cassava", str(tmp_path), str(made)]
        graded = subprocess.run(grade, capture_output=True, text=True)
        assert graded.returncode == 0 and f"accuracy {hits:.4f} " in graded.stdout, graded.stdout + graded.stderr


def test_a_failing_command_fails_the_notebook(built: Path, tmp_path: Path) -> None:
    python, inputs = make_image(tmp_path / "image"), tmp_path / "input"
    inputs.mkdir()
    attach(built / "wheels", inputs, "mini-wheels")
    ended = run_notebook(built / "inference" / "mini-inference.ipynb", python, inputs, tmp_path / "out")
    assert ended.returncode == 1
    assert "RuntimeError: ./run.sh predict run=mini" in ended.stderr and "exit code 2" in ended.stderr
    assert "error: predict: run=mini: no such run" in ended.stdout
    assert not (tmp_path / "out" / "submission.csv").exists()
