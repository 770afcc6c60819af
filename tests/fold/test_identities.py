"""Many classes with few pictures each: those that no fold can hold out, a margin head, and its embeddings."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from src.cli import main
from src.predictions import load_features, load_predictions
from tests.conftest import TINY, write

pytestmark = pytest.mark.fold
FREQUENT, RARE = [f"w_{n:02d}" for n in range(10)], ["once", "twice", "new"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten whales with eight pictures, three "classes" with one or two; each whale is a colour. Groups of two pictures,
    one of which a rare class shares with a frequent one."""
    place = tmp_path_factory.mktemp("whales")
    root, rng = place / "data", np.random.default_rng(0)
    names = [*np.repeat(FREQUENT, 8).tolist(), "once", "twice", "twice", "new", "new"]
    colours = {name: rng.integers(0, 200, 3) for name in [*FREQUENT, *RARE]}
    rows: dict[str, list[list[str]]] = {"train": [], "test": []}
    for part, labels in (("train", names), ("test", [*FREQUENT, "new"])):
        (root / part).mkdir(parents=True)
        for number, label in enumerate(labels):
            image = colours[label] + rng.integers(0, 50, (24, 24, 3))
            cv2.imwrite(str(root / part / f"{part}{number:03d}.png"), image.astype(np.uint8))
            rows[part].append([f"{part}{number:03d}", label, f"g{number // 2}"])
    rows["train"][-1][2] = "g0"  # of w_00
    write(root / "train.csv", ["id", "whale", "dive"], rows["train"])
    write(root / "solution.csv", ["id", "whale"], [row[:2] for row in rows["test"]])
    write(root / "sample_submission.csv", ["id", "whale"], [[row[0], "new"] for row in rows["test"]])
    return place


def start(place: Path, verb: str, *words: str) -> int:
    places = [f"paths.{name}={place / name}" for name in ("runs", "cache", "folds", "submissions", "input")]
    if verb not in ("train", "prepare", "smoke"):
        return main([verb, *places, *words])
    task = [f"competition.root={place / 'data'}", "competition.name=whales", "competition.solution=solution.csv"]
    task += ["competition=folder", "competition.metric=map5", "folds.n=4", "preset=scratch", "size=24", "epochs=14"]
    plan = ["batch_size=16", "stages=[{}]", "optimizer.lr=0.1", "optimizer.name=sgd", "tta=none", "average.ema=0"]
    calm = ["augment.crop_area=[0.8,1]", "augment.brightness=0", "augment.saturation=0", "model.head=arcface"]
    given = {word.partition("=")[0] for word in words}
    own = [*task, *plan, *calm, "model.scale=12", *TINY]
    return main([verb, *places, *(word for word in own if word.partition("=")[0] not in given), *words])


def test_rare_identities_through_the_verbs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(place, "train", "fold=all", "run=a") == 0
    assert "3 classes have fewer rows than folds.n=4 (new, once, twice); 5 rows stay" in capsys.readouterr().out
    folds = pd.read_csv(place / "folds" / "whales.csv")
    assert set(folds.loc[folds["fold"] == -1, "target"]) == set(RARE)
    assert folds.loc[~folds["target"].isin(RARE), "fold"].min() == 0
    parts = [load_predictions(place / "runs" / "a" / f"fold{k}" / "oof.npz") for k in range(4)]
    assert parts[0].pred.shape[1] == 13 and sum(len(part.ids) for part in parts) == 80
    cv = json.loads((place / "runs" / "a" / "cv.json").read_text())
    assert cv["oof"] > 0.5, "chance is 0.18"
    assert (place / "runs" / "a" / "fold0" / "figures" / "confusion.png").is_file()

    assert start(place, "features", "run=a") == 0
    features = load_features(place / "runs" / "a" / "fold0" / "features.npz")
    assert len(features.ids) == 96 and features.x.shape[1] > 13, "embeddings of every row, those of fold -1 too"
    assert start(place, "ensemble", "runs=[a]", "method=climb", "run=e") == 0
    assert start(place, "stack", "runs=[a]", "features=[a]", "run=s") == 0
    assert start(place, "stack", "features=[a]", "run=f", "competition=folder", "competition.name=whales",
                 f"competition.root={place / 'data'}", "competition.metric=map5", "folds.n=4") == 0  # fmt: skip
    for run in "esf":
        scores = json.loads((place / "runs" / run / "cv.json").read_text())
        assert scores["oof"] > 0.5 and scores["test"] > 0 if run != "f" else scores["oof"] > 0.5
    assert start(place, "prepare") == 0
    assert "in training only: 5" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["group", "stratified_group"])
def test_groups_go_before_rarity(place: Path, kind: str) -> None:
    """A rare row in a group of others is held out with them, and its class may then be in no training row."""
    words = [f"folds.kind={kind}", "competition.group_column=dive", f"folds.file={place / kind}.csv", "epochs=1"]
    assert start(place, "train", "fold=all", f"run={kind}", *words) == 0
    folds = pd.read_csv(place / f"{kind}.csv").set_index("id")["fold"]
    table = pd.read_csv(place / "data" / "train.csv").set_index("id")
    assert (folds.groupby(table["dive"]).nunique() == 1).all()
    assert folds[table.index[-1]] == folds[table.index[0]] >= 0
    assert (folds == -1).sum() == 4


def test_a_class_without_a_training_row_breaks_nothing(place: Path) -> None:
    """Folds by hand in which a whale is held out as a whole."""
    table = pd.read_csv(place / "data" / "train.csv")
    fold = np.where(table["whale"] == "w_00", 0, np.where(table["whale"].isin(RARE), -1, np.arange(len(table)) % 2))
    pd.DataFrame({"id": table["id"], "target": table["whale"], "fold": fold}).to_csv(place / "hand.csv", index=False)
    words = [f"folds.file={place / 'hand.csv'}", "folds.n=2", "epochs=1", "loss.class_weights=balanced"]
    assert start(place, "train", "fold=all", "run=hand", *words) == 0
    part = load_predictions(place / "runs" / "hand" / "fold0" / "oof.npz")
    assert (part.target == "w_00").sum() == 8 and np.isfinite(part.pred).all()
    assert start(place, "stack", "runs=[hand]", "run=hs") == 0
