"""Tiny ablations end to end: paired runs, a table, a picture; resumed, refused, cut short, with time made equal."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from src.cli import main
from src.competition.kinds import task_of
from src.files import held, read_config, read_json
from src.predictions import load_predictions

pytestmark = pytest.mark.fold
Command = Callable[..., list[str]]
QUICK = ["competition=digits", "preset=scratch", "stages=[{}]", "tta=none", "epochs=1", "average.swa=false"]


def ablate(command: Command, *words: str, verb: str = "ablate") -> int:
    return main([verb, *command(*QUICK, "run=study", *words)])


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_an_ablation_pairs_its_runs_and_goes_on_where_it_was(command: Command, tmp_path: Path, capsys) -> None:
    tricks = (
        "tricks=[mixup,planted_null_exact,'loss.name=focal mix.mixup=0.2','model.acnet=true model.separable=true',ema,"
        "swa]"
    )
    words = [tricks, "seeds=2", "folds=[0,1]"]
    place = tmp_path / "runs" / "study"
    with held(place / "runs" / "mixup-s0" / ".fold1.lock", 0, ""):  # as another process that trains this fold
        assert ablate(command, *words, "seeds=1") == 0
    printed = capsys.readouterr().out
    assert "[7/8]" in printed and "[8/8]" not in printed and "1 of the folds missing" in printed
    assert "| mixup | 1 | 1 | " in printed and "one fold: speaks of the rows of fold 0 only" in printed
    assert ablate(command, *words) == 0
    printed = capsys.readouterr().out
    assert "20 folds to train, 7 of them finished" in printed
    assert "[16/16]" in printed
    assert "stage 1" not in printed, "what runs print is in log.txt"
    assert "stage 1" in (place / "log.txt").read_text()

    # ---- what is written is what the runs say ----------------------------------------------------------------------
    pairs = rows(place / "pairs.csv")
    assert [(row["trick"], row["fold"], row["seed"]) for row in pairs if row["trick"] == "mixup"] == [
        ("mixup", "0", "0"), ("mixup", "1", "0"), ("mixup", "0", "1"), ("mixup", "1", "1"),
    ]  # fmt: skip
    for row in pairs:
        for arm, column in ((row["trick"], "score"), ("baseline", "baseline")):
            own = place / "runs" / f"{arm}-s{row['seed']}" / f"fold{row['fold']}"
            part = load_predictions(own / "oof.npz")
            truth = task_of(part.kind, part.classes).encode(part.target)
            assert float(row[column]) == np.mean(part.pred.argmax(1) == truth)
            manifest = read_json(own / "manifest.json")
            assert manifest["memory"] > 2**20
            # the kind is decided before anything is measured: one candidate, and no best of several
            assert manifest["weights"] == {"swa" if arm == "swa" else "ema": float(row[column])}
        assert float(row["difference"]) == float(row["score"]) - float(row["baseline"])
    table = {row["trick"]: row for row in rows(place / "ablate.csv")}
    assert (table["mixup"]["pairs"], table["mixup"]["folds"]) == ("4", "2")
    differences = [float(row["difference"]) for row in pairs if row["trick"] == "mixup"]
    assert float(table["mixup"]["mean"]) == pytest.approx(np.mean(differences))
    assert table["planted_null_exact"]["verdict"] == "changes nothing"
    assert table["ema"]["verdict"] == "refused: the baseline has it already"
    assert "tells easy images from hard ones" in table["loss.name=focal mix.mixup=0.2"]["verdict"]
    assert "leaves no 3x3 convolutions" in table["model.acnet=true model.separable=true"]["verdict"], (
        "found in training"
    )
    for name, row in table.items():
        assert f"| {name} | {row['pairs']} | {row['folds']} |" in printed
    assert cv2.imread(str(place / "ablate.png")) is not None

    # ---- an arm is an ordinary run, out of the way of the others ----------------------------------------------------
    config = read_config(place / "runs" / "mixup-s1" / "config.yaml")
    assert (config["seed"], config["mix"]["mixup"], config["time_budget"]) == (1, 0.2, None)
    assert len(list((place / "submissions").glob("*.csv"))) == 8
    assert main(["runs", f"paths.runs={tmp_path / 'runs'}"]) == 0
    assert "no finished run" in capsys.readouterr().out

    # ---- again: nothing is trained, the table is the same -----------------------------------------------------------
    before = {path: path.stat().st_mtime_ns for path in (place / "runs").rglob("manifest.json")}
    assert ablate(command, *words) == 0
    again = capsys.readouterr().out
    assert "[16/16]" not in again
    assert again[again.index("| technique") :] == printed[printed.index("| technique") :]
    assert {path: path.stat().st_mtime_ns for path in (place / "runs").rglob("manifest.json")} == before
    assert ablate(command, *words, "epochs=2") == 2
    assert "made with another configuration" in capsys.readouterr().err


def test_at_equal_time_an_arm_trains_as_long_as_the_factor_says(command: Command, tmp_path: Path, capsys) -> None:
    words = ["tricks=[model.acnet=true]", "folds=[1]", "equal=time", "mode=remove"]
    assert ablate(command, *words, "seeds=1") == 0
    place = tmp_path / "runs" / "study"
    name = next(path.name for path in (place / "runs").iterdir() if path.name.endswith("-s0") and path.name[0] == "m")

    def seconds(run: str) -> float:
        return read_json(place / "runs" / run / "fold1" / "manifest.json")["seconds"]["training"]

    factor = read_json(place / "equal_time.json")["model.acnet=true"]
    assert factor == seconds(f"{name}-equal-epochs") / seconds("baseline-s0")
    assert read_config(place / "runs" / "baseline-s0" / "config.yaml")["model"]["acnet"], "all tricks"
    config = read_config(place / "runs" / name / "config.yaml")
    assert (config["epochs"], config["model"]["acnet"]) == (pytest.approx(1 / factor), False)
    (pair,) = rows(place / "pairs.csv")
    assert float(pair["difference"]) == float(pair["baseline"]) - float(pair["score"]), "the worth of what is left out"
    # the factor is the same for what is trained later
    assert ablate(command, *words, "seeds=2") == 0
    assert read_config(place / "runs" / name.replace("-s0", "-s1") / "config.yaml")["epochs"] == config["epochs"]
    assert len(list((place / "runs").iterdir())) == 5


def test_a_ladder_sends_the_better_half_to_more_rows(command: Command, tmp_path: Path, capsys) -> None:
    words = ["tricks=[planted_null,planted_harm]", "seed=3", "folds=[0,1]", "seeds=1", "rungs=[0.5,1]", "keep=0.5"]
    assert ablate(command, *words, verb="ladder") == 0
    place = tmp_path / "runs" / "study"
    first, second = (rows(place / f"rung{number}" / "ablate.csv") for number in (1, 2))
    assert sorted(row["trick"] for row in first) == ["planted_harm", "planted_null"]
    assert [row["trick"] for row in second] == [first[0]["trick"]]
    config = read_config(place / "rung1" / "runs" / "planted_null-s7919" / "config.yaml")
    assert config["seed"] == 7919, "other seeds than the baseline's"
    small, whole = (read_config(place / f"rung{n}" / "runs" / f"baseline-s{n + 2}" / "config.yaml") for n in (1, 2))
    assert (small["seed"], whole["seed"]) == (3, 4) and not (place / "rung2" / "runs" / "baseline-s3").exists(), (
        "the last rung has seeds that chose nothing"
    )
    assert (small["epochs"], small["stages"][0]["rows"]) == (0.5, 0.5)
    assert (whole["epochs"], whole["stages"][0]["rows"]) == (1.0, 1.0)
    assert capsys.readouterr().out.count("Holm's correction over 2 techniques") == 2, "over all that started"
    assert ablate(command, *words, verb="ladder") == 0
    assert "[" not in capsys.readouterr().out.split("|")[0], "nothing is trained again"
