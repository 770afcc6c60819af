"""Which predictions are shown, and that the picture shows them; the history's picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from src.reporting import gallery as module
from src.reporting.figures import column_bars, confusion_matrix, history_picture, scatter
from src.reporting.gallery import Exhibit, closest, gallery, surest


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


@pytest.mark.parametrize("rows", [3, 40])
def test_the_closest_are_spread_over_the_values_and_the_farthest_come_as_they_are(rows: int) -> None:
    rng = np.random.default_rng(rows)
    off, values = rng.random(rows), rng.permutation(rows).astype(float)
    good, far = closest(off, values, 6)
    parts = np.array_split(np.argsort(values), min(6, rows))
    assert good.tolist() == [min(part.tolist(), key=lambda row: off[row]) for part in parts]
    rest = sorted(set(range(rows)) - set(good.tolist()), key=lambda row: -off[row])
    assert far.tolist() == rest[:6]


def test_pictures_of_other_kinds(tmp_path: Path) -> None:
    """A column that is better has a longer bar; of many classes the worst are shown, so that they can be read."""
    rng = np.random.default_rng(0)
    y = rng.random((80, 2)) < 0.5
    pred = np.stack([y[:, 0] * 0.8 + 0.1, rng.random(80)], 1)
    bars = read(column_bars(tmp_path / "c.png", y, pred, ["sure", "noise"], "t")).astype(int)
    blue = (np.abs(bars - [31, 119, 180]).sum(2) < 30).sum(axis=1)
    wide = blue[blue > 100]
    assert wide.max() > 1.5 * wide.min(), "an area of 1 against one of about a half"
    nothing = column_bars(
        tmp_path / "n.png", np.zeros((5, 50), bool), np.zeros((5, 50)), list(map(str, range(50))), "t"
    )
    assert nothing.is_file(), "columns without a true row"
    values = rng.normal(size=(50, 3)).astype(np.float32)
    exact = read(scatter(tmp_path / "s.png", values, values, list("abc"), "t"))
    off = read(scatter(tmp_path / "o.png", values, rng.permutation(values), list("abc"), "t"))
    assert exact.shape == off.shape and (exact != off).any()
    target = np.repeat(np.arange(300), 3)
    guess = np.where(target < 10, (target + 1) % 300, target)
    many = read(confusion_matrix(tmp_path / "m.png", target, np.eye(300)[guess], [f"k{n}" for n in range(300)], "t"))
    assert max(many.shape[:2]) < 2700


def test_history_of_two_stages(tmp_path: Path) -> None:
    history = [{"step": 5 * (i + 1), "stage": 1 + i // 2, "loss": 2.0 - i, "accuracy": i / 4} for i in range(4)]
    first = read(history_picture(tmp_path / "h.png", history, "accuracy", "r/fold0"))
    assert first.shape[:2] == (600, 800)
    history[-1]["accuracy"] = 0.1
    other = read(history_picture(tmp_path / "h.png", history, "accuracy", "r/fold0"))
    changed = np.flatnonzero((first != other).any((1, 2)))
    assert len(changed) and changed.min() > 290, "the score is in the lower half"
    assert read(history_picture(tmp_path / "h.png", history[:1], "accuracy", "r/fold0")).shape == first.shape
