"""Every benchmark on a tiny input: it runs, and its json holds the promised names. No times are judged."""

from __future__ import annotations

import csv
import importlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from benchmarks import emoji, rounds, scale
from benchmarks.accuracy import interval, time_share
from benchmarks.training import run_command
from src import cli
from src.errors import UserError
from tests.process.starts import Start


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 training and 10 test JPEGs of two classes in Kaggle layout, with the hidden labels."""
    place, rng = tmp_path_factory.mktemp("bench"), np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 10)):
        (place / part).mkdir()
        for i in range(count):
            image = rng.integers(0, 255, (40 + i % 7, 50, 3), np.uint8) // (1 + i % 2)
            cv2.imwrite(str(place / part / f"{part}{i}.jpg"), image)
    tables = {
        "train.csv": [["id", "label"], *([f"train{i}", f"c{i % 2}"] for i in range(40))],
        "test.csv": [["id"], *([f"test{i}"] for i in range(10))],
        "solution.csv": [["id", "label"], *([f"test{i}", f"c{i % 2}"] for i in range(10))],
        "sample_submission.csv": [["id", "label"], *([f"test{i}", "c0"] for i in range(10))],
    }
    for name, rows in tables.items():
        with open(place / name, "w", newline="") as file:
            csv.writer(file).writerows(rows)
    return place


@pytest.fixture(autouse=True)
def _same_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("loader", "training", "inference", "accuracy", "finetune", "profile_loader", "gpu"):
        monkeypatch.setattr(importlib.import_module(f"benchmarks.{name}"), "pin", lambda cores: None)


@pytest.fixture
def forked(start_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Command lines of the benchmarks are forked from what has torch loaded, instead of new interpreters."""

    def run(words: Sequence[str], cores: int) -> float:
        began = time.perf_counter()
        code, output = Start(start_server, [*words], tmp_path / "log").end()
        assert code == 0, output
        return time.perf_counter() - began

    for name in ("training", "accuracy", "finetune"):
        monkeypatch.setattr(f"benchmarks.{name}.run_command", run)


def test_a_command_line_is_timed_and_shown_if_it_fails() -> None:
    assert run_command(["help", "seed"], 1) > 0
    with pytest.raises(RuntimeError, match=r"nonsense: exit code 2\nerror: nonsense: no such verb"):
        run_command(["nonsense"], 1)


def ratios(name: str, root: Path, results: Path, *more: str) -> dict[str, Any]:
    path = importlib.import_module(f"benchmarks.{name}").main([f"root={root}", f"results={results}", *more])
    assert path == results / f"{name}.json"
    written = json.loads(path.read_text())
    assert written["machine"]["cores"] and written["machine"]["versions"]["torch"] and written["rounds"]
    for values in written["ratios"].values():
        assert set(values) in ({"median", "min", "max"}, {"value", "low", "high"})
        assert all(value is None or np.isfinite(value) for value in values.values())
    return written["ratios"]


def test_loader(root: Path, tmp_path: Path) -> None:
    found = ratios("loader", root, tmp_path, "images=16", "batch=8", "rounds=1", "sizes=16,24")
    assert {f"loader_{kind}_{size}" for kind in ("cached", "cold", "eval") for size in (16, 24)} <= set(found)


def test_inference(root: Path, tmp_path: Path) -> None:
    words = ("images=8", "batch=8", "rounds=1", "size=32", "model=test_resnet")
    assert set(ratios("inference", root, tmp_path, *words)) == {"tta8"}


def test_gpu(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a card: all that does not need one, and the line that says so."""
    monkeypatch.setattr("benchmarks.gpu_steps.WARM", 1)
    small = ("model=test_resnet", "finetuned=test_resnet", "sizes=24", "batch=8", "images=8", "steps=1", "rounds=1")
    found = ratios("gpu", root, tmp_path, "device=cpu", "precisions=fp32", *small)
    names = (
        "loader_device_over_workers", "loop_over_bare", "loop_device_over_bare", "loop_workers_over_bare",
        "channels_last_over_contiguous", "finetune_over_timm", "predict_over_bare",
    )  # fmt: skip
    assert set(found) == {f"{name}_24_fp32" for name in names}
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no GPU on this machine"):
            importlib.import_module("benchmarks.gpu").main([f"root={root}"])


@pytest.mark.fold
@pytest.mark.usefixtures("forked")
def test_training(root: Path, tmp_path: Path) -> None:
    words = ("model=test_resnet", "size=32", "batch=8", "epochs=1", "steps=1", "rounds=1", "cores=1")
    assert set(ratios("training", root, tmp_path, *words)) == {"training_test_resnet_32"}


@pytest.mark.fold
@pytest.mark.usefixtures("forked")
def test_accuracy(root: Path, tmp_path: Path) -> None:
    extra = "extra=model=test_resnet size=32 epochs=1 batch_size=8 folds.n=2"
    found = ratios("accuracy", root, tmp_path, "seeds=1", "epochs=1", "cores=1", extra)
    written = json.loads((tmp_path / "accuracy.json").read_text())["rounds"]
    assert {"fixed_accuracy", "ours_accuracy"} <= set(written)
    assert {"progressive_time", "oof_accuracy_points_over_fixed"} <= set(found)


def test_emoji_of_one_group_are_in_one_part(tmp_path: Path) -> None:
    table = [{"short_name": f"e{i}", "category": "Flags", "image": f"{i}.png"} for i in range(10)]
    table[3]["skin_variations"] = {"tone": {"image": "3-tone.png"}}
    for vendor in ("apple", "google", "twitter", "facebook"):
        place = tmp_path / vendor / "package" / "img" / vendor / "64"
        place.mkdir(parents=True)
        for name in [*(f"{i}.png" for i in range(10)), "3-tone.png"][: 11 if vendor == "apple" else 5]:
            cv2.imwrite(str(place / name), np.zeros((64, 64, 4), np.uint8))
    (tmp_path / "apple" / "package" / "emoji.json").write_text(json.dumps(table))
    to = emoji.main([f"root={tmp_path}", f"to={tmp_path / 'made'}"])
    lines = {part: (to / f"{part}.csv").read_text().splitlines()[1:] for part in ("train", "solution")}
    assert len(lines["train"]) + len(lines["solution"]) == 10 + 1 + 3 * 5 == sum(1 for _ in to.rglob("*.jpg"))
    of = {line.split(",")[2] for line in lines["train"]}
    assert len(of) == 8 and len(lines["train"]) == sum({"e3": 5}.get(name, 4 if name < "e5" else 1) for name in of)
    assert cv2.imread(str(to / "train" / "train00000.jpg")).shape == (72, 72, 3)
    with pytest.raises(UserError, match="not there yet"):
        emoji.main([f"root={tmp_path}", f"to={to}"])


def test_the_time_after_which_progressive_runs_stay_above_the_fixed_ones() -> None:
    fixed = [(10.0, 0.1), (20.0, 0.5)]
    assert time_share([([(4.0, 0.6), (8.0, 0.4), (12.0, 0.5), (16.0, 0.7)], fixed)]) == 12 / 20  # 0.6 was luck
    late, early = [(5.0, 0.4), (15.0, 0.6)], [(5.0, 0.6), (15.0, 0.6)]
    assert time_share([(late, fixed), (early, fixed)]) == 5 / 20  # their means: 0.5 and 0.6
    assert time_share([([(1.0, 0.1), (2.0, 0.49)], fixed)]) == np.inf
    pairs = [(late, fixed), (early, fixed)]
    assert interval(pairs, time_share) == {"value": 0.25, "low": 0.25, "high": 0.75}
    assert interval([1.0, 1.0, 4.0], np.mean)["value"] == 2.0


@pytest.mark.fold
@pytest.mark.usefixtures("forked")
def test_finetune(root: Path, tmp_path: Path) -> None:
    (tmp_path / "timm-pace.json").write_text('{"epoch": 1.0, "rest": 0.0}')  # else by trial
    words = ("size=32", "batch=8", "budgets=1", "seeds=1", "cores=1", "peers=timm", f"place={tmp_path}")
    found = ratios("finetune", root, tmp_path, *words, "extra=epochs=0.1 tta=none folds.n=2")
    assert set(found) == {"points_over_timm_1s"}
    told = json.loads((tmp_path / "timm-1-0.json").read_text())
    assert told["epochs"] == 1 and set(told["labels"]) == {f"test{i}" for i in range(10)}


@pytest.mark.fold
def test_scale(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def alone(folder: str, what: str) -> dict[str, float]:
        return of_its_own(folder, what) if what == "--tables" else scale.first_step(Path(folder))

    of_its_own = scale.alone
    monkeypatch.setattr(scale, "alone", alone)  # one of them really in a process of its own is enough
    words = ("rows=100", "score_rows=", "tables_rows=120", "memory_rows=150", "classes=5", "workers=1", "epochs=3")
    found = ratios("scale", root, tmp_path, *words, f"picture={tmp_path / 'scale.png'}")
    assert (tmp_path / "scale.png").is_file()
    assert set(found) == {"resident_growth"}
    written = json.loads((tmp_path / "scale.json").read_text())["rounds"]
    assert {"tables_100", "folds_100", "first_step_100", "peak_mb_100", "resident_mb_after_epoch_3"} <= set(written)


def test_profile(root: Path) -> None:
    from benchmarks import profile_loader

    found = profile_loader.main([f"root={root}", "images=4", "batch=4", "rounds=1", "sizes=16"])
    assert {"16 fetch: pixels(row)", "16 resize: linear", "16 to_input: training"} <= set(found)


def test_what_averages_are_worth_is_compared_within_a_run(tmp_path: Path) -> None:
    """Paired over folds; of a metric of which less is better, the sign is turned."""
    from benchmarks.averages import table

    for k, (raw, ema) in enumerate([(0.50, 0.40), (0.60, 0.49), (0.55, 0.46)]):
        folder = tmp_path / "runs" / "r" / f"fold{k}"
        folder.mkdir(parents=True)
        values = {"metric": "log_loss", "greater_is_better": False, "weights": {"raw": raw, "ema": ema}}
        (folder / "manifest.json").write_text(json.dumps(values))
    text = table(tmp_path / "runs", ["r"])
    assert text.startswith("log_loss, held out, means of 3 folds: raw 0.5500 · ema 0.4500")
    assert "| ema - raw | +0.1000 | +0.0752 … +0.1248 | helps | +0.1000 · +0.1100 · +0.0900 |" in text
    assert "swa" not in text


def test_mutants_change_one_place_and_leave_messages_alone() -> None:
    from benchmarks.mutants import mutants

    source = """'''A text with 1 number.'''
@decorated(frozen=True)
def f(a: int = 0) -> bool:
    if a:
        raise ValueError(f"{a + 1} is no number")
    print("said", a + 1)
    a += g("ä", key=a, dtype=int)
    return a < 3
"""
    found = mutants("f.py", source.encode())
    changes = {(mutant.line, mutant.change(source.encode())) for mutant in found}
    assert len(changes) == len(found) == 7
    assert changes >= {
        (3, "0 -> (1)"), (4, "a -> (not a)"), (7, "g(…) without key="), (8, "return a < 3 -> return"),
        (8, "a < 3 -> (a <= 3)"), (8, "3 -> (4)"), (7, 'a += g("ä", key=a, dtype=int) -> pass'),
    }  # fmt: skip
    assert {line for line, _ in changes} == {3, 4, 7, 8}, "no message, decorator or annotation"
    applied = {mutant.apply(source.encode()).decode() for mutant in found}
    assert source.replace("""g("ä", key=a, dtype=int)""", "(g('ä', dtype=int))") in applied
    assert source.replace("a < 3", "(a <= 3)") in applied and len(applied) == 7


def test_rounds_go_in_turn_and_ratios_round_by_round() -> None:
    said: list[str] = []

    def measure(name: str, values: list[float]) -> Any:
        return lambda: said.append(name) or values.pop(0)

    found = rounds.in_turn({"a": measure("a", [2.0, 9.0, 4.0]), "b": measure("b", [1.0, 3.0, 1.0])}, 3)
    assert said == ["a", "b"] * 3
    assert rounds.ratio(found["a"], found["b"]) == {"median": 3.0, "min": 2.0, "max": 4.0}


@pytest.mark.parametrize("words", [["rot=x"], ["root=x", "rounds=many"], ["rounds=1"]])
def test_mistakes_are_named(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"root|rounds"):
        rounds.arguments(words, root="", rounds=3)


def test_an_unknown_benchmark_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "loadr"]) == 2
    assert "did you mean 'loader'" in capsys.readouterr().err
