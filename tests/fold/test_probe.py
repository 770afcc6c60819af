"""A classifier that starts as a linear model, held statistics, and `frozen`, from the command line: against
scikit-learn on the features that `./run.sh features` makes of the same weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression, Ridge

from src.cli import main
from src.model.packaged_weights import packaged_file
from src.predictions import Predictions, load_features, load_predictions
from src.training.learner import Learner
from src.training.objective import Objective
from tests.fold.shades import KINDS, Place, make

pytestmark = pytest.mark.fold
# Nothing moves: neither weights nor, as they are held, statistics. What is predicted is the start.
STILL = ["model.start=probe", "model.hold_norms=true", "optimizer.lr=0", "epochs=0.1", "eval.crop=1.0", "stages=[{}]"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network whose features tell pictures apart, with statistics as of a training."""
    torch.manual_seed(3)
    model = timm.create_model("test_resnet", num_classes=7, zero_init_last=False).train()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    with torch.no_grad():
        for _ in range(30):
            model(torch.randn(8, 3, 28, 28) + torch.randn(8, 3, 1, 1))
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(model.state_dict(), file)
    return file


def strength(out: str) -> float:
    return float(re.search(r"model\.start=probe: .* on inner folds with C=(\S+),", out)[1])  # type: ignore[index]


def rows_of(place: Path, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, pd.DataFrame, Predictions]:
    """Features of the rows that run r learnt from and of those it held out, by their own scale or half the usual one,
    the former's cells, and what it predicts of the latter."""
    features, oof = (
        load_features(place / "runs" / "plain" / "features.npz"),
        load_predictions(place / "runs" / "r" / "fold0" / "oof.npz"),
    )
    by_id = dict(zip(features.ids.tolist(), features.x, strict=True))
    learnt = table.index.difference(oof.ids.tolist())
    x, held = (np.stack([by_id[name] for name in names]) for names in (learnt, oof.ids))
    mean, std = x.mean(axis=0), x.std(axis=0)
    std = np.maximum(std, 0.5 * np.sqrt(np.square(std[std > 1e-6]).mean()))
    return (x - mean) / std, (held - mean) / std, table.loc[learnt], oof


def logistic(x: np.ndarray, y: np.ndarray, other: np.ndarray, c: float) -> np.ndarray:
    own = 2 * c if len(np.unique(y)) == 2 else c  # a column for each of two classes shares the penalty between them
    return LogisticRegression(C=own, max_iter=2000, tol=1e-8).fit(x, y).predict_proba(other)


def test_labels(command: Callable[..., list[str]], mini_digits: Path, weights: Path, tmp_path: Path, capsys) -> None:
    own = ["competition=folder", f"model.weights={weights}", "tta=none"]
    assert main(command(*own, *STILL)) == 0
    c = strength(capsys.readouterr().out)
    assert main(["features", *command(*own, "eval.crop=1.0", "run=plain")]) == 0
    table = pd.read_csv(mini_digits / "train.csv", dtype=str).set_index("id")
    x, held, learnt, oof = rows_of(tmp_path, table)
    assert oof.classes.tolist() == sorted(table["label"].unique())
    expected = logistic(x, learnt["label"].to_numpy(), held, c)
    np.testing.assert_allclose(oof.pred, expected, rtol=0, atol=0.01)
    assert np.ptp(expected, axis=0).min() > 0.2, "that tell rows apart"


@pytest.mark.parametrize("name", ["numbers", "targets"])
def test_other_kinds(name: str, weights: Path, tmp_path: Path, capsys) -> None:
    kind = KINDS[name]
    make(tmp_path / "data", kind)
    own = [f"model.weights={weights}", "eval.crop=1.0"]
    place = Place(tmp_path, kind)
    assert place.start("train", *own, *STILL[:-2], "fold=0", "run=r") == 0
    c = strength(capsys.readouterr().out)
    task = [f"competition.root={tmp_path / 'data'}", "competition.name=shades", "competition=folder"]
    task += [f"competition.kind={kind.name}", f"competition.metric={kind.metric}", "model=test_resnet", "size=24"]
    assert place.start("features", *task, *own, "workers=0", "precision=fp32", "run=plain") == 0
    table = pd.read_csv(tmp_path / "data" / "train.csv", dtype={"id": str}).set_index("id")
    x, held, learnt, oof = rows_of(tmp_path, table)
    if name == "numbers":  # the mean over both of them
        expected = Ridge(alpha=2 / (2 * c)).fit(x, learnt[kind.columns].to_numpy()).predict(held)
        spread = learnt[kind.columns].to_numpy().std(axis=0)
        np.testing.assert_allclose(oof.pred / spread, expected / spread, rtol=0, atol=0.02)
    else:
        each = [logistic(x, learnt[column].to_numpy(), held, c / 2) for column in kind.columns]
        np.testing.assert_allclose(oof.pred, np.concatenate(each, axis=1), rtol=0, atol=0.02)


def test_a_head_that_is_no_linear_layer(command: Callable[..., list[str]], weights: Path, capsys) -> None:
    own = ["competition=folder", f"model.weights={weights}", "model.head=arcface", "tta=none", *STILL]
    assert main(command(*own)) == 0
    assert "model.start=probe: ResNet ends in CosineHead, not in one linear layer" in capsys.readouterr().out


def test_statistics_are_held_while_weights_learn(
    command: Callable[..., list[str]], weights: Path, tmp_path: Path, capsys
) -> None:
    """In whatever is kept: raw, EMA or SWA."""
    own = ["competition=folder", f"model.weights={weights}", "model.hold_norms=true", "average.compare=false"]
    first = load_file(weights)
    for run, average in (("raw", "swa=false"), ("ema", "swa=false"), ("swa", "swa=true")):
        more = [f"run={run}", f"average.ema={0.9 if run == 'ema' else 0}", f"average.{average}", "optimizer.lr=0.1"]
        assert main(command(*own, *more)) == 0
        assert f"{run} kept" in capsys.readouterr().out
        last = load_file(tmp_path / "runs" / run / "fold0" / "weights.safetensors")
        for name, value in first.items():
            if "running" in name or "tracked" in name:
                assert torch.equal(last[name], value), name
            elif not name.startswith("fc."):
                assert not torch.equal(last[name], value), name


def test_where_there_is_nothing_to_hold(command: Callable[..., list[str]], capsys) -> None:
    assert main(command("competition=folder", "model.hold_norms=true", "epochs=0.1", "model.start=probe")) == 0
    out = capsys.readouterr().out
    assert "model.hold_norms=true: there are none to hold in training from scratch" in out
    assert "model.start=probe:" not in out


def test_a_run_that_goes_on_does_not_probe_again(
    command: Callable[..., list[str]], weights: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with the very predictions of one that was not stopped, whose probe was the same."""
    own = ["competition=folder", f"model.weights={weights}", "model.start=probe", "model.hold_norms=true"]
    assert main(command(*own, "run=whole")) == 0
    with monkeypatch.context() as patch:
        patch.setattr("src.training.interrupt.StopWish.__init__", lambda wish: setattr(wish, "signum", 15))
        with pytest.raises(SystemExit, match="143"):
            main(command(*own, "run=stopped"))
    stopped = capsys.readouterr().out
    assert stopped.count("model.start=probe: 60 rows") == 2
    assert main(command(*own, "run=stopped")) == 0
    again = capsys.readouterr().out
    assert "going on at step 2" in again and "model.start=probe" not in again
    whole, other = (load_predictions(tmp_path / "runs" / run / "fold0" / "oof.npz") for run in ("whole", "stopped"))
    np.testing.assert_array_equal(whole.pred, other.pred)


@pytest.mark.skipif(packaged_file("tf_efficientnet_lite0") is None, reason="the package of weights is not installed")
def test_frozen(command: Callable[..., list[str]], tmp_path: Path, capsys) -> None:
    """Real weights at 32 px know digits far above chance, in one command; the second time nothing is extracted."""
    words = ["competition=folder", "size=32", "model=tf_efficientnet_lite0", "model.pretrained=auto"]
    own = [word for word in command(*words) if not word.startswith("run=")]
    assert main(["frozen", *own]) == 0
    cv = json.loads((tmp_path / "runs" / "mini-tf_efficientnet_lite0-frozen" / "cv.json").read_text())
    assert list(cv["folds"]) == ["0", "1"] and cv["oof"] > 0.5 and cv["test"] > 0.5
    assert "nested" in capsys.readouterr().out
    assert (tmp_path / "submissions" / "mini-tf_efficientnet_lite0-frozen.csv").is_file()
    assert main(["frozen", *own]) == 0
    assert "made before, used again" in capsys.readouterr().out
    assert main(["frozen", *command("competition=folder", "size=32")]) == 2
    assert "frozen: training from scratch" in capsys.readouterr().err


def test_a_ladder_begins_with_what_is_to_beat(
    command: Callable[..., list[str]], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.recipes.ablate.compare", lambda *args, **keys: ({}, 1))  # no rung is trained
    own = ["competition=folder", f"model.weights={weights}", "tricks=[mixup]", "run=study"]
    assert main(["ladder", *command(*own)]) == 0
    cv = json.loads((tmp_path / "runs" / "study" / "study-frozen" / "cv.json").read_text())
    assert list(cv["folds"]) == ["0", "1"] and cv["oof"] > 0.2, "ten classes"


@pytest.mark.skipif(packaged_file("tf_efficientnet_lite0") is None, reason="the package of weights is not installed")
@pytest.mark.parametrize("batch", [8, 32])
def test_the_first_loss_of_a_fine_tuning_is_no_worse_than_a_guess(
    command: Callable[..., list[str]], batch: int, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """timm starts a new classifier of an EfficientNet so that the first loss is 6 of ten classes, not ln 10."""
    losses: list[float] = []
    step = Learner.step

    def noted(self: Learner, x: torch.Tensor, y: torch.Tensor, objective: Objective) -> torch.Tensor:
        losses.append(float(loss := step(self, x, y, objective)))
        return loss

    monkeypatch.setattr(Learner, "step", noted)
    words = ["competition=folder", "preset=finetune", "model=tf_efficientnet_lite0", "model.pretrained=auto", "size=32"]
    assert main(command(*words, "epochs=1", f"batch_size={batch}", "stages=[{}]")) == 0
    assert losses[0] < 1.1 * np.log(5)
