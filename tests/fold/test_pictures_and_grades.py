"""Folds through the command line whose pictures or whose losses are not the usual ones."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from src.cli import main
from src.predictions import load_predictions

pytestmark = pytest.mark.fold
Command = Callable[..., list[str]]


@pytest.fixture(scope="module")
def six_channels(mini_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mini digits as .npy files of six channels of 16 bits: noise in the first three, the digit in the others."""
    root = tmp_path_factory.mktemp("six")
    for part in ("train", "test"):
        (root / part).mkdir()
        for number, file in enumerate(sorted((mini_digits / part).glob("*.png"))):
            digit = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE).astype(np.uint16) * 257
            noise = np.random.default_rng(number).integers(0, 65536, (28, 28, 3)).astype(np.uint16)
            np.save(root / part / f"{file.stem}.npy", np.concatenate([noise, *[digit[..., None]] * 3], axis=2))
    for name in ("train.csv", "test.csv", "sample_submission.csv", "solution.csv"):
        shutil.copy(mini_digits / name, root / name)
    return root


def test_six_channels_through_every_verb(
    command: Command, six_channels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = ["competition.channels=6", "competition.samples=uint16", f"competition.root={six_channels}"]
    more = ["epochs=12", "tta=flip", "normalise=data", "stages=[{}]", "mix.mixup=0.2", "average.swa=true"]
    assert main(command("competition=digits", *kinds, *more)) == 0
    run = tmp_path / "runs" / "r"
    weights = load_file(run / "fold0" / "weights.safetensors")
    assert weights["conv1.0.weight"].shape[1] == 6
    manifest = json.loads((run / "fold0" / "manifest.json").read_text())
    mean = manifest["normalisation"]["mean"]
    assert len(mean) == 6 and mean[:3] == pytest.approx([0.5] * 3, abs=0.02) and max(mean[3:]) < 0.2
    oof = load_predictions(run / "fold0" / "oof.npz")
    right = oof.classes[oof.pred.argmax(1)] == oof.target
    assert len(right) == 60 and right.mean() > 0.4, "chance is 0.2"
    assert (run / "fold0" / "figures" / "grad-cam.png").is_file()

    submission = tmp_path / "submissions" / "r.csv"
    first = submission.read_text()
    submission.unlink()
    assert main(["predict", f"paths.runs={tmp_path / 'runs'}", "run=r"]) == 0
    assert submission.read_text() == first, "the saved weights predict the same"
    assert main(["features", f"paths.runs={tmp_path / 'runs'}", "run=r"]) == 0
    student = ["teacher=r", "run=s", "fold=0", "epochs=1"]
    assert main(command("competition=digits", *kinds, *student)) == 0
    assert "taught by fold 0 of r" in capsys.readouterr().out
    test = ["lr_find", *command("competition=digits", *kinds, "run=l")]
    assert main(test) == 0


@pytest.fixture(scope="module")
def decibels(mini_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mini digits as (2, H, W) negative numbers: the digit in the second band."""
    root = tmp_path_factory.mktemp("decibels")
    for part in ("train", "test"):
        (root / part).mkdir()
        for number, file in enumerate(sorted((mini_digits / part).glob("*.png"))):
            digit = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) / 255 * 20
            noise = np.random.default_rng(number).normal(-24, 3, (2, 28, 28))
            np.save(root / part / f"{file.stem}.npy", noise + np.stack([0 * digit, digit]))
    for name in ("train.csv", "test.csv", "sample_submission.csv", "solution.csv"):
        shutil.copy(mini_digits / name, root / name)
    return root


def test_negative_numbers_in_two_channels(command: Command, decibels: Path, tmp_path: Path) -> None:
    """Without a range all of them are black."""
    kinds = ["competition.channels=2", "competition.samples=uint16", f"competition.root={decibels}"]
    more = ["epochs=12", "normalise=data", "stages=[{}]", "fold=0"]
    assert main(command("competition=digits", *kinds, "competition.range=[-33,6]", *more)) == 0
    fold = tmp_path / "runs" / "r" / "fold0"
    assert load_file(fold / "weights.safetensors")["conv1.0.weight"].shape[1] == 2
    mean = json.loads((fold / "manifest.json").read_text())["normalisation"]["mean"]
    assert mean[0] == pytest.approx(9 / 39, abs=0.01) and mean[1] > mean[0] + 0.05
    part = load_predictions(fold / "oof.npz")
    assert (part.classes[part.pred.argmax(1)] == part.target).mean() > 0.4, "chance is 0.2"


def test_a_range_that_is_none(command: Command, decibels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = command("competition=digits", f"competition.root={decibels}", "competition.range=[6,-33]", "fold=0")
    assert main(words) == 2
    assert "competition.range" in capsys.readouterr().err
    words = command("competition=digits", f"competition.root={decibels}", "competition.alpha=keep", "fold=0")
    assert main(words) == 2
    assert "competition.alpha=keep: is the last of 2 or 4 channels" in capsys.readouterr().err


def test_one_channel(command: Command, tmp_path: Path) -> None:
    assert main(command("competition=digits", "competition.channels=1", "fold=0", "augment.hue=0.1")) == 0
    assert load_file(tmp_path / "runs" / "r" / "fold0" / "weights.safetensors")["conv1.0.weight"].shape[1] == 1


def test_arrays_of_another_number_of_channels_get_one_line(
    command: Command, six_channels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(f"competition.root={six_channels}", "competition.channels=4", "fold=0")
    assert main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "28 x 28 x 6, but competition.channels=4" in lines[0] and ".npy" in lines[0]


def test_an_extension_in_the_ids_is_not_needed(command: Command, six_channels: Path, tmp_path: Path) -> None:
    with open(six_channels / "train.csv", newline="") as file:
        assert "." not in next(csv.DictReader(file))["id"]
    words = command(f"competition.root={six_channels}", "competition.channels=6", "fold=0", "epochs=1")
    assert main(words) == 0


@pytest.mark.parametrize("loss", ["ordinal", "bce"])
def test_a_loss_whose_outputs_are_read_another_way(
    command: Command, tmp_path: Path, loss: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fold, its features and predictions, a student of it, and an ensemble with one."""
    runs, metric = tmp_path / "runs", ["competition.metric=qwk"] if loss == "ordinal" else []
    words = command("competition=digits", "epochs=6", "average.ema=0", *metric)
    assert main([*words, f"loss.name={loss}", "mix.mixup=0.2"]) == 0
    weights = load_file(runs / "r" / "fold0" / "weights.safetensors")
    assert weights["fc.weight"].shape[0] == (4 if loss == "ordinal" else 5)
    test = load_predictions(runs / "r" / "fold0" / "test.npz")
    oof = load_predictions(runs / "r" / "fold0" / "oof.npz")
    assert (runs / "r" / "fold0" / "figures" / "grad-cam.png").is_file()
    np.testing.assert_allclose(oof.pred.sum(1), 1, atol=1e-5)
    assert oof.pred.shape[1] == 5 and (oof.classes[oof.pred.argmax(1)] == oof.target).mean() > 0.4

    # what it says of the test rows is what its features and its last layer say
    assert main(["features", f"paths.runs={runs}", "run=r", "tta=none"]) == 0
    from src.model.outputs import outputs_of
    from src.predictions import load_features

    features = load_features(runs / "r" / "fold0" / "features.npz")
    place = [features.ids.tolist().index(name) for name in test.ids.tolist()]
    logits = torch.from_numpy(features.x[place]) @ weights["fc.weight"].T + weights["fc.bias"]
    np.testing.assert_allclose(outputs_of("single", loss, 5).predict(logits), test.pred, atol=1e-3)

    # a student with another loss, and an ensemble of both that teaches in turn
    student = command("competition=digits", "epochs=2", "teacher=r", "run=s")
    assert main([*student, "distill.targets=precomputed", *metric]) == 0
    assert "taught by fold 0 of r" in capsys.readouterr().out
    assert load_file(runs / "s" / "fold0" / "weights.safetensors")["fc.weight"].shape[0] == 5
    assert main(["ensemble", f"paths.runs={runs}", "runs=[r,s]", "ensemble.method=soft", "run=both"]) == 0
    again = command("competition=digits", "fold=0", "epochs=1", "teacher=both", "run=again")
    assert main([*again, f"loss.name={loss}", *metric]) == 0


@pytest.mark.parametrize("loss", ["bce", "ordinal"])
def test_what_the_saved_network_says_is_what_it_teaches(command: Command, tmp_path: Path, loss: str) -> None:
    from src.competition.kinds import task_of
    from src.data.spec import RGB, Normalisation, example_input
    from src.fold.predictor import load_network
    from src.fold.teacher import load_teacher

    assert main(command("competition=digits", "fold=0", "epochs=1", f"loss.name={loss}")) == 0
    runs = tmp_path / "runs"
    oof = load_predictions(runs / "r" / "fold0" / "oof.npz")
    own = load_network(runs, "r", 0)
    task = task_of("single", oof.classes)
    inputs = Normalisation(own.normalisation.mean, own.normalisation.std)
    teacher = load_teacher(runs, "r", 0, inputs=inputs, task=task, held_out=oof.ids)
    x = example_input(RGB, 3, 28) + torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(teacher(x).exp(), own.outputs.predict(own.network(x)), atol=1e-5, rtol=1e-4)
    assert own.outputs.predict.__name__ == {"bce": "one_of_sigmoids", "ordinal": "steps"}[loss]
