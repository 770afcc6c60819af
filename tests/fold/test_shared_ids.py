"""Training and test rows with the same ids, and trials on a few rows with hidden labels of all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file

from src.cli import main
from src.predictions import load_features, load_predictions
from tests.conftest import write

pytestmark = pytest.mark.fold


@pytest.fixture(scope="module")
def shared(mini_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mini digits with ids that count from 0 on both sides."""
    root = tmp_path_factory.mktemp("shared")
    for part, table in (("train", "train.csv"), ("test", "solution.csv")):
        rows = pd.read_csv(mini_digits / table, dtype=str)
        (root / part).mkdir()
        for number, old in enumerate(rows["id"]):
            shutil.copy(mini_digits / part / f"{old}.png", root / part / f"{number}.png")
        cells = [[str(number), label] for number, label in enumerate(rows["label"])]
        write(root / table, ["id", "label"], cells)
    write(root / "sample_submission.csv", ["id", "label"], [[str(number), "digit-0"] for number in range(30)])
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=7, zero_init_last=False).state_dict(), file)
    return file


def words_of(command: Callable[..., list[str]], root: Path, *more: str) -> list[str]:
    return command("competition=folder", f"competition.root={root}", "tta=none", *more)


def test_features_of_each_side_are_its_own(
    command: Callable[..., list[str]], shared: Path, weights: Path, tmp_path: Path
) -> None:
    """Of the network as it comes and in `frozen`, which stacks on them."""
    assert main(["frozen", *words_of(command, shared, f"model.weights={weights}", "run=f")]) == 0
    file = load_features(tmp_path / "runs" / "f" / "features.npz")
    (train, x), (test, z) = file.side(test=False), file.side(test=True)
    assert train.tolist() == [str(n) for n in range(120)] and test.tolist() == [str(n) for n in range(30)]
    assert not np.allclose(x[:30], z), "other pictures"
    parts = [load_predictions(tmp_path / "runs" / "f" / f"fold{k}" / "oof.npz") for k in range(2)]
    assert sorted(np.concatenate([part.ids for part in parts]).tolist()) == sorted(train.tolist())
    scores = json.loads((tmp_path / "runs" / "f" / "cv.json").read_text())
    assert scores["oof"] > 0.4 and scores["test"] > 0.4, "chance is 0.2; a test row with a training row's features"
    assert pd.read_csv(tmp_path / "submissions" / "f.csv", dtype=str)["id"].tolist() == test.tolist()


def test_the_smoke_test_passes(command: Callable[..., list[str]], shared: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["smoke", *words_of(command, shared)]) == 0
    assert "smoke test passed" in capsys.readouterr().out


def test_a_trial_is_graded_by_the_hidden_labels_of_its_rows(
    command: Callable[..., list[str]], shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Of 30 test rows 20 are predicted, and the solution has all; a metric that these 20 lack is left out."""
    words = words_of(command, shared, "competition.few=8", "epochs=1", "fold=all")
    assert main(words) == 0
    out = capsys.readouterr().out
    made, truth = (
        pd.read_csv(path, dtype=str).set_index("id")["label"]
        for path in (tmp_path / "submissions" / "r.csv", shared / "solution.csv")
    )
    assert len(made) == 20
    score = float((truth[made.index] == made).mean())
    assert json.loads((tmp_path / "runs" / "r" / "cv.json").read_text())["test"] == pytest.approx(score)
    assert f"test     {score:.4f}" in out and "solution.csv, of 20 rows)" in out


def test_a_trial_whose_rows_have_no_score_is_not_graded(
    command: Callable[..., list[str]], shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The first 20 test rows are all of one class, which has no area under the curve."""
    root = Path(shutil.copytree(shared, tmp_path / "task"))
    for name in ("train.csv", "solution.csv"):
        table = pd.read_csv(root / name, dtype=str)
        table["label"] = np.where(table["label"] == "digit-4", "yes", "no")
        table.to_csv(root / name, index=False)
    write(root / "sample_submission.csv", ["id", "label"], [[str(number), "0.5"] for number in range(30)])
    words = words_of(command, root, "competition.few=8", "epochs=1", "competition.metric=auc", "run=one")
    assert main([*words, "competition.submission=positive"]) == 0
    assert "no test score of so few rows (competition.few=8): metric auc" in capsys.readouterr().out
    assert "test" not in json.loads((tmp_path / "runs" / "one" / "cv.json").read_text())
