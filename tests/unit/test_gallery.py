"""Which predictions are shown, and that the picture shows them; the history's picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from src.reporting import gallery as module
from src.reporting.figures import history_picture
from src.reporting.gallery import Exhibit, gallery, surest


def read(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize("seed", range(5))
def test_the_surest_by_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pred = rng.dirichlet(np.ones(4), 60)
    labels = np.where(rng.random(60) < 0.6, pred.argmax(1), rng.integers(4, size=60))
    right, wrong = surest(pred, pred.argmax(1) == labels, 6)
    rows = sorted(range(60), key=lambda row: -pred[row].max())
    assert wrong.tolist() == [row for row in rows if pred[row].argmax() != labels[row]][:6]
    good = [row for row in rows if pred[row].argmax() == labels[row]]
    best = {int(labels[row]): row for row in reversed(good)}  # the surest of each class
    rest = [row for row in good if row not in best.values()]
    assert sorted(right.tolist()) == sorted([*best.values(), *rest][:6])
    assert (np.diff(pred[right].max(1)) <= 0).all() and len(best) == 4


def test_more_classes_than_places_and_nothing_wrong() -> None:
    pred = np.eye(9)[np.r_[:9, 0]] * np.linspace(0.5, 0.95, 10)[:, None]
    right, wrong = surest(pred, np.ones(len(pred), bool), 6)
    assert right.tolist() == [9, 8, 7, 6, 5, 4] and len(wrong) == 0
    assert [len(part) for part in surest(pred, np.zeros(len(pred), bool), 3)] == [0, 3]


def test_the_picture_has_images_with_heat_below(tmp_path: Path) -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    corner = np.zeros((4, 4), np.float32)
    corner[3, 3] = 7
    hot = Exhibit(grey, corner, "a very long name of a class $x$", "dog", 0.987)
    cold = Exhibit(grey, np.zeros((4, 4), np.float32), "cat", "dog", 0.6)
    picture = read(gallery(tmp_path / "figures" / "g.png", [("right", []), ("wrong", [hot, cold])], "title"))
    cell, top = module.CELL, 2 * module.HEADING
    lefts = [module.MARGIN + i * (cell + module.GAP) for i in range(2)]
    for left in lefts:
        assert (picture[top : top + cell, left : left + cell] == 128).all(), "the image as it is"
    below = [picture[top + cell + 2 : top + 2 * cell + 2, left : left + cell].astype(int) for left in lefts]
    assert (below[1] == 128).all(), "no heat, no colour"
    redness = below[0][..., 0] - below[0][..., 2]
    assert redness[-10:, -10:].min() > 0 > redness[: cell // 2].max()
    assert picture.shape[0] == module.HEADING + module.HEADING + 2 * cell + 2 * module.GAP, "one line"


def test_history_of_two_stages(tmp_path: Path) -> None:
    history = [{"step": 5 * (i + 1), "stage": 1 + i // 2, "loss": 2.0 - i, "accuracy": i / 4} for i in range(4)]
    first = read(history_picture(tmp_path / "h.png", history, "accuracy", "r/fold0"))
    assert first.shape[:2] == (600, 800)
    history[-1]["accuracy"] = 0.1
    other = read(history_picture(tmp_path / "h.png", history, "accuracy", "r/fold0"))
    changed = np.flatnonzero((first != other).any((1, 2)))
    assert len(changed) and changed.min() > 290, "the score is in the lower half"
    assert read(history_picture(tmp_path / "h.png", history[:1], "accuracy", "r/fold0")).shape == first.shape
