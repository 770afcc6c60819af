"""The table of all runs: best first within a competition, each with its metric and what differs from the defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.config import build, plain
from src.files import write_config, write_json
from src.recipes.runs import list_runs


def add(runs: Path, name: str, oof: float, metric: str = "accuracy", greater: bool = True, **values: object) -> None:
    competition = "birds" if greater else "fish"
    write_json(
        runs / name / "cv.json",
        {
            "run": name, "competition": competition, "metric": metric, "greater_is_better": greater, "oof": oof,
            "mean": oof - 0.01, "std": 0.02, "folds": {"0": oof, "1": oof}, "seconds": 12.3,
        },
    )  # fmt: skip
    write_config(runs / name / "config.yaml", plain(build(values)))


def test_the_table_is_sorted_and_names_the_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = build({"paths": {"runs": str(tmp_path)}})
    list_runs(config)
    assert "no finished run" in capsys.readouterr().out
    add(tmp_path, "a", 0.81, mix={"mixup": 0.2}, optimizer={"name": "adamw", "lr": 0.016})
    add(tmp_path, "b", 0.93, model={"name": "resnet50"})
    add(tmp_path, "c", 0.5, "log_loss", greater=False, size=96)
    add(tmp_path, "d", 0.4, "log_loss", greater=False)
    (tmp_path / "unfinished").mkdir()
    list_runs(config)
    head, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["b", "accuracy", "0.9300"], ["a", "accuracy", "0.8100"], ["d", "log_loss", "0.4000"],
        ["c", "log_loss", "0.5000"],
    ]  # fmt: skip
    settings = [set(line[head.index("settings") :].split()) for line in lines]
    assert settings == [
        {"model.name=resnet50"},
        {"mix.mixup=0.2", "optimizer.name=adamw", "optimizer.lr=0.016"},
        set(),
        {"size=96"},
    ]
    assert lines[0].split()[3:8] == ["0.9200", "0.0200", "-", "2", "12s"]
