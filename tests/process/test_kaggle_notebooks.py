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

import numpy as np
import pytest

from src.cli import main
from src.recipes.kaggle import kaggle
from tests.conftest import write
from tests.process.image import attach, make_image, repack, run_notebook

pytestmark = pytest.mark.process

# What the inference notebook does not get: it predicts with what the run has kept.
WITHHELD = ("solution.csv", "train", "train.csv")
ZOO = Path(os.environ.get("ZOO", "../shared/zoo/zoo.py"))
PUBLIC = 6  # test rows that everybody sees; the hidden test set has all of them
SLUG = "mini-digits"
WORDS = ["model=test_resnet", "model.pretrained=never", "epochs=1", "batch_size=16", "size=28", "folds.n=2"]
WORDS += ["workers=0", "precision=fp32", "tta=none", "competition.metric=accuracy", "optimizer.lr=0.2"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """notebooks/mini, with wheels of what the image lacks."""
    place = tmp_path_factory.mktemp("built")
    for name in ("hydra-core", "omegaconf", "antlr4-python3-runtime"):
        repack(name, place / "wheels")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        kaggle("build", f"competition={SLUG}", "name=mini", "user=me", f"wheels={place / 'wheels'}", *WORDS)
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

    python, inputs, last = make_image(tmp_path / "image2"), tmp_path / "input2", tmp_path / "graded"
    attach(graded, inputs, SLUG)  # the older way of mounting
    attach(built / "wheels", inputs, "mini-wheels")
    attach(output, inputs, "mini-training")
    done(run_notebook(built / "inference" / "mini-inference.ipynb", python, inputs, last))
    assert not (last / "runs" / "mini" / "fold0").exists(), "weights are read where they lie"
    return last / "submission.csv"


def test_training_then_inference_on_a_hidden_test_set(
    mini_digits: Path, built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hidden labels say the same of it as `score` does."""
    seen, graded = public(mini_digits, tmp_path / "public"), hidden(mini_digits, tmp_path / "hidden")
    made = train_and_infer(seen, graded, built, tmp_path)
    rows, sample = read(made), read(mini_digits / "sample_submission.csv")
    assert rows[0] == sample[0] and [row[0] for row in rows] == [row[0] for row in sample]
    truth = dict(row[:2] for row in read(mini_digits / "solution.csv")[1:])
    assert len(rows) == 31 and {row[1] for row in rows[1:]} <= set(truth.values())
    assert main(["score", f"submission={made}", f"solution={mini_digits / 'solution.csv'}"]) == 0
    hits = np.mean([truth[name] == label for name, label in rows[1:]])
    assert capsys.readouterr().out == f"accuracy {hits:.4f}\n"


@pytest.mark.skipif(not ZOO.is_file(), reason=f"no {ZOO} with competitions and their graders")
def test_a_competition_with_a_grader_of_its_own(built: Path, tmp_path: Path) -> None:
    """Labels 0 to 4, ids with an extension, no test table. Its grader refuses other columns and ids."""
    zoo = [sys.executable, str(ZOO)]
    subprocess.run([*zoo, "make", "cassava", str(tmp_path), "--rows", "60"], check=True, capture_output=True)
    given = tmp_path / "cassava" / "public"
    seen = Path(shutil.copytree(given, tmp_path / "seen"))
    head, *rows = read(seen / "sample_submission.csv")
    write(seen / "sample_submission.csv", head, rows[:PUBLIC])
    for name, _ in rows[PUBLIC:]:
        (seen / "test_images" / name).unlink()
    withheld = shutil.ignore_patterns("train.csv", "train_images")
    made = train_and_infer(seen, Path(shutil.copytree(given, tmp_path / "hidden", ignore=withheld)), built, tmp_path)
    graded = subprocess.run([*zoo, "grade", "cassava", str(tmp_path), str(made)], capture_output=True, text=True)
    answers = dict(read(tmp_path / "cassava" / "private" / "answers.csv")[1:])
    hits = np.mean([answers[name] == label for name, label in read(made)[1:]])
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
