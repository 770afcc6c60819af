"""What is attached, in both ways of mounting: competitions by name, runs of earlier sessions, and what goes on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from src.attached import find, find_competition, runs_folders, sources
from src.config import Config, PathsConfig, build, defaults, plain
from src.errors import UserError
from src.files import write_config, write_json
from src.runs.folder import Runs, finished_folds, fold_folder, open_runs
from src.runs.take_over import UNFINISHED, earlier_outputs, take_over, take_over_folds

OLD = {"competition": "{}", "dataset": "{}", "notebook": "{}"}
NEW = {"competition": "competitions/{}", "dataset": "datasets/me/{}", "notebook": "notebooks/me/{}"}


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture(params=[OLD, NEW], ids=["old", "new"])
def mounts(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Path]:
    """A competition, a data set of weights and wheels, and a notebook's output, attached."""
    names = {"competition": "leaves-2026", "dataset": "my-weights", "notebook": "my-training"}
    found = {kind: tmp_path / place.format(names[kind]) for kind, place in request.param.items()}
    touch(found["competition"] / "sample_submission.csv", found["competition"] / "train" / "1.png")
    touch(found["dataset"] / "resnet18.pth", found["dataset"] / "tests" / "a.py", found["notebook"] / "submission.csv")
    write_run(found["notebook"] / "runs", "r", done=[0])
    return {**found, "inputs": tmp_path}


def values_of(run: str, **more: object) -> dict:
    values = plain(Config())
    values["competition"] = {**values["competition"], "name": "leaves", "root": "gone"}
    return {**values, "run": run, **more}


def write_run(runs: Path, run: str, *, done: list[int] = (), begun: dict[int, int] | None = None, **more) -> None:
    write_config(runs / run / "config.yaml", values_of(run, **more))
    write_json(runs / run / "started_from.json", {"source": "scratch", "contents": "scratch"})
    for k in done:
        touch(runs / run / f"fold{k}" / "weights.safetensors", runs / run / f"fold{k}" / "figures" / "a.png")
        write_json(runs / run / f"fold{k}" / "manifest.json", {"fold": k})
    for k, step in (begun or {}).items():
        touch(runs / run / f"fold{k}" / "checkpoints" / f"step{step:08d}.ckpt")


def test_a_slug_is_found_however_it_is_mounted(mounts: dict[str, Path]) -> None:
    inputs = mounts["inputs"]
    assert set(sources(inputs)) == {mounts[kind] for kind in ("competition", "dataset", "notebook")}
    assert find_competition(inputs) == mounts["competition"]
    (mounts["competition"] / "sample_submission.csv").unlink()
    assert find_competition(inputs) == mounts["competition"], "by its folder of training images"
    assert find("leaves-2026", inputs) == mounts["competition"]
    for text in ("my-weights", "me/my-weights", "/kaggle/input/my-weights", "/kaggle/input/datasets/me/my-weights"):
        assert find(f"{text}/resnet18.pth", inputs) == mounts["dataset"] / "resnet18.pth"
    for text in ("/kaggle/input/leaves-2026", "/kaggle/input/competitions/leaves-2026", f"{inputs}/leaves-2026"):
        assert find(text, inputs) == mounts["competition"]
    assert find(str(mounts["dataset"]), Path("/nowhere")) == mounts["dataset"], "what exists is meant"
    for text in ("other", "/elsewhere/leaves-2026", "../leaves-2026", "", "leaves-2026/none"):
        assert text == "" or find(text, inputs) is None
    assert runs_folders(inputs) == (mounts["notebook"] / "runs",)


def test_what_may_be_several_is_refused_with_their_names(tmp_path: Path) -> None:
    touch(tmp_path / "datasets/me/same/a", tmp_path / "datasets/you/same/a")
    with pytest.raises(UserError, match=r"same: is attached more than once \(.*me/same, .*you/same\)"):
        find("same", tmp_path)
    with pytest.raises(UserError, match=r"root=auto: there is no competition .*competition.root=SLUG"):
        find_competition(tmp_path)
    touch(tmp_path / "competitions/a/train.csv", tmp_path / "competitions/b/train.csv")
    with pytest.raises(UserError, match=r"2 folders may be it .*competitions/a, .*competitions/b"):
        find_competition(tmp_path)
    with pytest.raises(UserError, match="nothing"):
        find_competition(tmp_path / "none")


def test_only_runs_are_taken_for_runs(tmp_path: Path) -> None:
    touch(tmp_path / "code/configs/config.yaml", tmp_path / "code/src/a.py")  # a checkout
    touch(tmp_path / "output/outputs/run/.hydra/config.yaml")
    assert runs_folders(tmp_path) == ()
    write_run(tmp_path / "notebooks/me/nb/kfold/runs", "r", begun={0: 1})
    write_run(tmp_path / "datasets/me/finished", "s", done=[0])  # a data set made of the folder of runs
    assert runs_folders(tmp_path) == (
        tmp_path / "datasets/me/finished",
        tmp_path / "notebooks/me/nb/kfold/runs",
    )


def test_folds_are_read_from_our_own_place_first(tmp_path: Path) -> None:
    own, a, b = tmp_path / "own", tmp_path / "input/a/runs", tmp_path / "input/b/runs"
    write_run(own, "r", done=[0])
    write_run(a, "r", done=[0, 1])
    write_run(b, "r", done=[2], time_budget="9h")  # where and how fast, not what
    write_run(b, "only-there", done=[3])
    runs = open_runs(PathsConfig(runs=str(own), input=str(tmp_path / "input")))
    assert finished_folds(runs, "r") == [0, 1, 2] and finished_folds(runs, "only-there") == [3]
    assert [fold_folder(runs, "r", k).parent.parent for k in range(4)] == [own, a, b, own]
    assert runs / "r" == own / "r" and runs / "only-there" == b / "only-there" and runs / "none" == own / "none"
    assert runs.names() == ["only-there", "r"]
    assert finished_folds(own, "r") == [0], "a plain folder has no attachments"


def test_runs_of_one_name_that_are_not_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, a, b = tmp_path / "own", tmp_path / "a", tmp_path / "b"
    write_run(a, "r", done=[0])
    write_run(b, "r", done=[1], seed=7)
    with pytest.raises(UserError, match=r"run=r: is attached twice and not the same \(seed: 0 -> 7\).*detach one"):
        finished_folds(Runs(own, (a, b)), "r")
    write_run(own, "r", done=[2])
    assert finished_folds(Runs(own, (a, b)), "r") == [0, 2]
    assert f"{b / 'r'}: is another run of that name" in capsys.readouterr().out


def config_of(tmp_path: Path, **more: object) -> Config:
    config = build({**defaults(), **values_of("r", **more)})
    return dataclasses.replace(config, paths=PathsConfig(runs=str(tmp_path / "own"), input=str(tmp_path / "input")))


def test_a_run_goes_on_with_what_is_attached(tmp_path: Path) -> None:
    a, b, own = tmp_path / "input/a/runs", tmp_path / "input/b/runs", tmp_path / "own/r"
    write_run(a, "r", done=[0], begun={1: 5, 2: 40})
    write_run(b, "r", done=[1], begun={2: 80, 3: 7})
    write_run(tmp_path / "own", "r", begun={3: 9})
    for folder in (tmp_path / "input").rglob("*"):
        folder.chmod(0o555 if folder.is_dir() else 0o444)
    config = config_of(tmp_path)
    earlier = earlier_outputs(config, "r")
    assert earlier == [a / "r", b / "r"]
    take_over(config, "r", earlier)
    assert sorted(path.parent.name for path in own.glob("fold*/manifest.json")) == ["fold0", "fold1"]
    steps = {path.parent.parent.name: path.name for path in own.glob("fold*/checkpoints/*")}
    assert steps == {"fold2": "step00000080.ckpt", "fold3": "step00000009.ckpt"}, "the newest; our own stays"
    touch(own / "fold0/figures/b.png", own / "fold2/checkpoints/later.ckpt")  # writable, though copied from read-only
    (own / "fold0" / "manifest.json").write_text("{}")
    take_over(config, "r", earlier)
    assert (own / "fold0" / "manifest.json").read_text() == "{}", "nothing is copied twice"


def test_what_a_killed_copy_has_left_is_cleared_away(tmp_path: Path) -> None:
    write_run(tmp_path / "input/a/runs", "r", done=[0])
    left = tmp_path / f"own/r/.fold0.123{UNFINISHED}/figures/a.png"
    touch(left)
    config = config_of(tmp_path)
    take_over(config, "r", earlier_outputs(config, "r"))
    assert not left.parent.parent.exists()


def test_the_fold_file_of_an_earlier_output_is_taken(tmp_path: Path) -> None:
    write_run(tmp_path / "input/a/runs", "r", done=[0])
    touch(tmp_path / "input/a/folds/leaves.csv")
    config = config_of(tmp_path)
    config = dataclasses.replace(config, paths=dataclasses.replace(config.paths, folds=str(tmp_path / "folds")))
    take_over_folds(config, earlier_outputs(config, "r"))
    assert (tmp_path / "folds/leaves.csv").is_file()
    (tmp_path / "folds/leaves.csv").write_text("ours")
    take_over_folds(config, earlier_outputs(config, "r"))
    assert (tmp_path / "folds/leaves.csv").read_text() == "ours"


def test_resume_never_takes_only_what_is_finished(tmp_path: Path) -> None:
    write_run(tmp_path / "input/a/runs", "r", done=[0], begun={1: 5})
    config = config_of(tmp_path, resume="never")
    take_over(config, "r", earlier_outputs(config, "r"))
    assert sorted(path.name for path in (tmp_path / "own/r").glob("fold*")) == ["fold0"]


def test_another_run_of_that_name_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    write_run(tmp_path / "input/a/runs", "r", done=[0], seed=7)
    with pytest.raises(UserError, match=r"attached, was made with another configuration \(seed: 7 -> 0\).*run=NAME"):
        earlier_outputs(config_of(tmp_path), "r")
    assert not (tmp_path / "own").exists()
    write_run(tmp_path / "own", "r", done=[1])
    assert earlier_outputs(config_of(tmp_path), "r") == [], "our own was begun: the attached one is another"
