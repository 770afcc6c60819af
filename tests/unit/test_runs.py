"""The table of all runs: best first within a competition, each with its metric and what differs from the defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.config import build, plain
from src.errors import UserError
from src.files import read_json, write_config, write_json
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
    list_runs(**{"paths.runs": str(tmp_path)})
    assert "no finished run" in capsys.readouterr().out
    add(tmp_path, "a", 0.81, mix={"mixup": 0.2}, optimizer={"name": "adamw", "lr": 0.016})
    add(tmp_path, "b", 0.93, model={"name": "resnet50"})
    add(tmp_path, "c", 0.5, "log_loss", greater=False, size=96)
    add(tmp_path, "d", 0.4, "log_loss", greater=False)
    (tmp_path / "unfinished").mkdir()
    list_runs(**{"paths.runs": str(tmp_path)})
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


@pytest.fixture
def three(tmp_path: Path) -> dict[str, str]:
    add(tmp_path, "a", 0.81, mix={"mixup": 0.2}, size=96)
    add(tmp_path, "b", 0.93, model={"name": "resnet50"})
    add(tmp_path, "c", 0.85, model={"name": "resnet18"}, size=224)
    write_json(tmp_path / "c" / "cv.json", {**read_json(tmp_path / "c" / "cv.json"), "test": 0.84})
    return {"paths.runs": str(tmp_path)}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ({"filter": "model=resnet50"}, ["b"]),
        ({"filter": "model=resnet*"}, ["b", "c", "a"]),
        ({"filter": "[model=resnet18,size>=128]"}, ["c"]),
        ({"filter": "[oof<0.9,oof>0.82]"}, ["c"]),
        ({"filter": "test!=null"}, ["c"]),
        ({"filter": "run=a|b"}, ["b", "a"]),
        ({"filter": "mix.mixup=0.2"}, ["a"]),
        ({"sort": "size"}, ["a", "b", "c"]),
        ({"sort": "-size"}, ["c", "b", "a"]),
        ({"sort": "oof"}, ["b", "c", "a"]),
        ({"sort": "test"}, ["c", "b", "a"]),
        ({"sort": "run"}, ["a", "b", "c"]),
    ],
)
def test_filters_and_orders(
    words: dict[str, str], names: list[str], three: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    list_runs(**words, **three)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == names


def test_runs_side_by_side(three: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    list_runs(diff="[a,b]", **three)
    rows = {line[:14].strip(): line[14:].split() for line in capsys.readouterr().out.splitlines()}
    assert rows["oof"] == ["0.8100", "0.9300"] and rows["mix.mixup"] == ["0.2000", "0.0000"]
    assert rows["model.name"] == ["resnet18", "resnet50"] and rows["size"] == ["96", "128"]
    assert rows["gains by fold"][1] == "+0.1200"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"filter": "modl.name=x"}, "did you mean 'model.name'"),
        ({"filter": "resnet18"}, "expected KEY=VALUE"),
        ({"sort": "lr"}, "did you mean 'optimizer.lr'"),
        ({"diff": "[a]"}, "at least two"),
        ({"diff": "[a,bb]"}, "no finished run 'bb'"),
    ],
)
def test_what_is_not_there_is_refused(words: dict[str, str], complaint: str, three: dict[str, str]) -> None:
    with pytest.raises(UserError, match=complaint):
        list_runs(**words, **three)
