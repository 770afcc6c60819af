"""A run is its data and its start, wherever they lie; and what is not ours is never written to."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from src import cli
from src.cli import main
from src.config import Config
from src.errors import UserError
from src.files import read_json
from src.fold import train_fold as fold
from src.fold import train_run as training
from src.fold.train_run import train_run
from src.recipes.features import made_from
from src.runs.opening import open_competition, open_folds
from src.runs.start import check_data
from tests.conftest import tree

pytestmark = pytest.mark.fold
Command = Callable[..., list[str]]


def composed(words: list[str]) -> Config:
    """What the words of a command line make of the defaults."""
    found: list[Config] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "run", lambda verb, config, began: found.append(config) or 0)
        assert main(words) == 0
    return found[0]


@pytest.fixture(scope="module")
def trained(mini_digits: Path, command_in: Command, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The configuration of a run of which fold 0 is finished."""
    place = tmp_path_factory.mktemp("same")
    shutil.copytree(mini_digits, place / "first" / "mini")
    words = ["competition=folder", "preset=scratch", f"competition.root={place / 'first' / 'mini'}", "epochs=0.3"]
    config = composed(command_in(place, *words, "fold=0", "average.swa=false", "average.ema=0", "tta=none"))
    train_run(config, time.time())
    return config


@pytest.fixture(autouse=True)
def begun(monkeypatch: pytest.MonkeyPatch, trained: Config) -> list[str]:
    """The runs of which a fold would now be trained."""
    found: list[str] = []

    def instead(config: Config, competition: Any, rows: Any, k: int, run: Path, *more: Any) -> bool:
        found.append(f"{run.name}/fold{k}")
        return False

    monkeypatch.setattr(training, "train_fold", instead)
    return found


def elsewhere(trained: Config, root: Path) -> Config:
    shutil.copytree(trained.competition.root, root)
    return dataclasses.replace(trained, competition=dataclasses.replace(trained.competition, root=str(root)))


def inverted(folder: Path, count: int | None = None) -> None:
    for path in sorted(folder.iterdir())[:count]:
        cv2.imwrite(str(path), 255 - cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


def touched(root: Path) -> None:
    for path in root.rglob("*"):
        os.utime(path, (1, 1))


def relabelled(root: Path) -> None:
    lines = (
        (root / "train.csv").read_text().replace("digit-1", "x").replace("digit-2", "digit-1").replace("x", "digit-2")
    )
    (root / "train.csv").write_text(lines)


def crlf(root: Path) -> None:
    (root / "train.csv").write_bytes((root / "train.csv").read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))


DATA: dict[str, tuple[Callable[[Path], Any], str | None]] = {
    "moved": (lambda root: None, None),
    "with other times": (touched, None),
    "with other line ends": (crlf, None),
    "without its hidden labels": (lambda root: (root / "solution.csv").unlink(), None),
    "with a file that nobody reads": (lambda root: (root / "notes.txt").write_text("mine"), None),
    "other pictures": (
        lambda root: [inverted(root / part) for part in ("train", "test")],
        "other training pictures and test pictures than those of",
    ),
    "one other picture": (lambda root: inverted(root / "train", 1), "other training pictures than those of"),
    "other test pictures": (lambda root: inverted(root / "test"), "other test pictures than those of"),
    "other labels": (relabelled, r"mini\.csv was made for other data: 48 targets changed"),
}


@pytest.mark.parametrize("name", DATA)
def test_data(name: str, trained: Config, begun: list[str], tmp_path: Path, capsys) -> None:
    change, says = DATA[name]
    config = elsewhere(trained, tmp_path / "second" / "mini")
    change(Path(config.competition.root))
    before = tree(tmp_path)
    if says is None:
        train_run(config, time.time())
        assert "fold0 is finished already: skipped" in capsys.readouterr().out
    else:
        with pytest.raises(UserError, match=says) as caught:
            train_run(config, time.time())
        followed(str(caught.value), config, trained, begun)
    assert tree(tmp_path) == before


def followed(message: str, config: Config, trained: Config, begun: list[str]) -> None:
    """Each cure of the message, to the letter."""
    begun.clear()
    assert "delete" not in message
    if match := re.search(r"run=NAME", message):
        train_run(dataclasses.replace(config, run=match[0].partition("=")[2]), time.time())
        assert begun == ["NAME/fold0"]
        shutil.rmtree(Path(config.paths.runs) / "NAME")
    if match := re.search(r"set competition\.root=(\S+), or", message):
        keys = dataclasses.replace(config.competition, root=match[1])
        train_run(dataclasses.replace(config, competition=keys), time.time())
    if match := re.search(r"\./run\.sh (predict run=r competition\.root=\S+),", message):
        places = [f"paths.{name}={getattr(config.paths, name)}" for name in ("runs", "cache", "submissions")]
        assert main([*match[1].split(), *places]) == 0
    if match := re.search(r"set folds\.file=(\S+) to", message):
        renewed = dataclasses.replace(config, folds=dataclasses.replace(config.folds, file=match[1]), run="fresh")
        train_run(renewed, time.time())
        assert begun[-1] == "fresh/fold0" and Path(match[1]).is_file()
        Path(match[1]).unlink()
        shutil.rmtree(Path(config.paths.runs) / "fresh")


KEYS: dict[str, tuple[dict[str, Any], str | None]] = {
    "precision": ({"precision": "bf16"}, None),
    "eval.batch_size": ({"eval": {"batch_size": 5}}, None),
    "eval.every": ({"eval": {"every": 9}}, None),
    "eval.rows": ({"eval": {"rows": 9}}, None),
    "cache_gb": ({"cache_gb": 5.0}, None),
    "model.compile": ({"model": {"compile": True}}, None),
    "optimizer.fused": ({"optimizer": {"fused": True}}, None),
    "workers": ({"workers": 1}, None),
    "cache": ({"cache": False}, None),
    "wandb": ({"wandb": {"project": "other"}}, None),
    "competition.name": ({"competition": {"name": "renamed"}}, None),
    "seed": ({"seed": 1}, r"seed: 0 -> 1"),
    "size": ({"size": 24}, r"size: 28 -> 24"),
    "batch_size": ({"batch_size": 8}, r"batch_size: 16 -> 8"),
    "eval.crop": ({"eval": {"crop": 0.9}}, r"eval.crop: 1.0 -> 0.9"),
    "tta": ({"tta": "flip"}, r"tta: none -> flip"),
}


def changed(config: Any, values: dict[str, Any]) -> Any:
    fields = {
        key: changed(getattr(config, key), value) if isinstance(value, dict) else value for key, value in values.items()
    }
    return dataclasses.replace(config, **fields)


@pytest.mark.parametrize("name", KEYS)
def test_keys(name: str, trained: Config, begun: list[str], capsys) -> None:
    values, says = KEYS[name]
    config = changed(trained, values)
    if says is None:
        train_run(config, time.time())
        assert "fold0 is finished already: skipped" in capsys.readouterr().out
        return
    with pytest.raises(UserError, match=says):
        train_run(config, time.time())
    train_run(dataclasses.replace(config, run="NAME"), time.time())
    assert begun == ["NAME/fold0"]
    shutil.rmtree(Path(config.paths.runs) / "NAME")


def test_folds_may_move_but_not_change(trained: Config, tmp_path: Path) -> None:
    text = (Path(trained.paths.folds) / "mini.csv").read_text()
    (tmp_path / "same.csv").write_text(text)
    (tmp_path / "other.csv").write_text(re.sub(r",([01])$", lambda m: f",{1 - int(m[1])}", text, flags=re.M))
    train_run(changed(trained, {"folds": {"file": str(tmp_path / "same.csv")}}), time.time())
    with pytest.raises(UserError, match=r"^run=r: was started with other folds than .*; restore the fold file, or"):
        train_run(changed(trained, {"folds": {"file": str(tmp_path / "other.csv")}}), time.time())


def test_what_is_made_from_pictures_moves_with_them(trained: Config, tmp_path: Path) -> None:
    moved, other = (elsewhere(trained, tmp_path / name / "mini") for name in ("a", "b"))
    inverted(tmp_path / "b" / "mini" / "train", 3)
    touched(tmp_path / "a" / "mini")
    first, second, third = (
        made_from(config, open_competition(config), tmp_path, -1)["data"] for config in (trained, moved, other)
    )
    assert first == second != third
    check_data(Path(trained.paths.runs), "r", "runs", open_competition(moved))
    with pytest.raises(UserError, match=r"^runs: run 'r' was started with other training pictures .* set compe"):
        check_data(Path(trained.paths.runs), "r", "runs", open_competition(other))


def test_a_student_belongs_to_its_teacher(trained: Config, begun: list[str], tmp_path: Path) -> None:
    """Also where the teacher has been trained again under its name."""
    student = dataclasses.replace(trained, teacher="r", run="s")
    train_run(student, time.time())
    assert begun == ["s/fold0"]
    runs = Path(trained.paths.runs)
    (runs / "s" / "fold0" / "checkpoints").mkdir(parents=True)
    (runs / "s" / "fold0" / "checkpoints" / "step00000001.ckpt").touch()
    train_run(student, time.time())
    file = runs / "r" / "fold0" / "oof.npz"
    kept = file.read_bytes()
    try:
        file.write_bytes(kept + b"\0")
        with pytest.raises(UserError, match=r"^teacher=r: fold 0 of it has been made again since fold 0 of run=s"):
            train_run(student, time.time())
    finally:
        file.write_bytes(kept)
    moved = elsewhere(student, tmp_path / "mini")
    inverted(tmp_path / "mini" / "train")
    with pytest.raises(UserError, match=r"^teacher=r: run 'r' was started with other training pictures"):
        train_run(dataclasses.replace(moved, run="t"), time.time())


def test_folds_are_not_made_in_the_users_folder(trained: Config) -> None:
    root = Path(trained.competition.root)
    for file in (root / "folds.csv", root / "new" / "folds.csv"):
        config = changed(trained, {"folds": {"file": str(file)}})
        with pytest.raises(UserError, match=r"none is made in the competition's folder; set folds\.file=folds/folds-2"):
            open_folds(config, open_competition(config))
    assert not (root / "new").exists()


def test_our_own_advice_is_taken_on_the_way(trained: Config, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Predictions that are not finite, with a checkpoint behind them: precision=fp32 goes on from it, and says so."""
    monkeypatch.setattr(training, "train_fold", fold.train_fold)

    def broken(*_: Any) -> None:
        from src.competition.metrics.check import refuse_non_finite

        refuse_non_finite(np.full((3, 2), np.nan))

    config = dataclasses.replace(trained, run="half", precision="fp16")
    with monkeypatch.context() as patch:
        patch.setattr(fold, "choose_weights", broken)
        with pytest.raises(UserError, match="precision=fp32, or train again with a lower") as caught:
            train_run(config, time.time())
    advice = re.search(r"precision=(\w+)", str(caught.value))
    assert advice is not None
    train_run(changed(config, {"precision": advice[1], "optimizer": {"fused": True}}), time.time())
    manifest = read_json(Path(config.paths.runs) / "half" / "fold0" / "manifest.json")
    assert re.fullmatch(r"fp16, from step \d+ on fp32", manifest["precision"])
    assert f"precision: {manifest['precision']}" in capsys.readouterr().out


# ---- folders of the user --------------------------------------------------------------------------------------------


def folder(root: Path, name: str) -> Path:
    place = root / name
    if name in ("empty", "digits"):
        place.mkdir(parents=True)
    if name == "pictures":
        (place / "train").mkdir(parents=True)
        cv2.imwrite(str(place / "train" / "a.png"), np.zeros((4, 4, 3), np.uint8))
    return place


@pytest.mark.parametrize("name", ["missing", "empty", "digits", "pictures"])
@pytest.mark.parametrize("words", [["fold=0"], ["prepare"], ["smoke"], ["fold=0", "competition=digits"]])
def test_nothing_is_written_into_a_users_folder(name: str, words: list[str], tmp_path: Path, capsys) -> None:
    root = folder(tmp_path / "theirs", name)
    before = tree(tmp_path / "theirs")
    assert (
        main([*words, f"competition.root={root}", f"paths.folds={tmp_path / 'folds'}", "model.pretrained=never"]) == 2
    )
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "delete" not in error and str(root) in error
    assert tree(tmp_path / "theirs") == before and not (tmp_path / "folds").exists()


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_run_is_predicted_from_a_folder_that_is_there(name: str, trained: Config, tmp_path: Path, capsys) -> None:
    root = folder(tmp_path / "theirs", name)
    before = tree(tmp_path / "theirs")
    words = [f"paths.{place}={getattr(trained.paths, place)}" for place in ("runs", "cache", "submissions")]
    assert main(["predict", "run=r", f"competition.root={root}", *words]) == 2
    assert str(root) in capsys.readouterr().err and tree(tmp_path / "theirs") == before
