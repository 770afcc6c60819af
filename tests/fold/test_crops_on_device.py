"""A tiny fold whose crops are made on the device, here a CPU: trained, stopped, gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.cli import main
from src.predictions import load_predictions

pytestmark = pytest.mark.fold
STAGES = "stages=[{length: 3 steps, size: 0.75, rows: 0.5}, {length: 3 steps}]"
OWN = ["competition=folder", STAGES, "augment.rotate=10", "augment.erase=0.3"]


def outcome(place: Path, run: str) -> tuple[np.ndarray, str, list[float]]:
    """Predictions of the held-out rows, who made the crops, and the losses on them."""
    folder = place / "runs" / run / "fold0"
    manifest = json.loads((folder / "manifest.json").read_text())
    losses = pd.read_csv(folder / "history.csv")["loss"].tolist()
    return load_predictions(folder / "oof.npz").pred, manifest["augment_on"], losses


def test_a_fold_on_the_device_is_the_same_when_stopped_and_close_to_the_workers(
    command: Callable[..., list[str]], tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit by bit, with the images of all stages there; pixels that are rounded otherwise move little in six steps."""
    assert main(command(*OWN, "augment_on=device", "run=whole")) == 0
    assert "crops are made on cpu: 60 images take 0.14 MB there" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr("src.training.interrupt.StopWish.__init__", lambda wish: setattr(wish, "signum", 15))
        with pytest.raises(SystemExit, match="143"):
            main(command(*OWN, "augment_on=device", "run=stopped"))
    assert main(command(*OWN, "augment_on=device", "run=stopped")) == 0
    assert "going on at step 2 of 6" in capsys.readouterr().out
    assert main(command(*OWN, "run=workers")) == 0
    whole, stopped, workers = (outcome(tmp_path, run) for run in ("whole", "stopped", "workers"))
    np.testing.assert_array_equal(whole[0], stopped[0])
    assert (whole[1], stopped[1], workers[1]) == ("device", "device", "workers")
    np.testing.assert_allclose(whole[0], workers[0], atol=0.02)
    assert whole[2] == stopped[2] != workers[2] == pytest.approx(whole[2], abs=0.02), "the device was used"


def test_a_fold_may_go_on_where_there_is_no_card(
    command: Callable[..., list[str]], tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the same run; its manifest says from which step on workers made the crops."""
    with monkeypatch.context() as patch:
        patch.setattr("src.training.interrupt.StopWish.__init__", lambda wish: setattr(wish, "signum", 15))
        with pytest.raises(SystemExit, match="143"):
            main(command(*OWN, "augment_on=device"))
    assert main(command(*OWN)) == 0
    assert outcome(tmp_path, "r")[1] == "device, from step 2 on workers"
    assert "augment_on: device, from step 2 on workers" in capsys.readouterr().out
