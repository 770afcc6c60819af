"""A tiny fold trains end to end; its artefacts are what the contract says; bad input gets one line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from src.cli import main
from src.competition.kinds import task_of
from src.predictions import load_predictions
from src.search.tricks import merged

pytestmark = pytest.mark.fold
Command = Callable[..., list[str]]


def test_a_run_writes_every_artefact(command: Command, tmp_path: Path, mini_digits: Path, capsys) -> None:
    stages = "stages=[{length: 50%, size: 0.75, rows: 0.5, augment: 0.5}, {length: 50%}]"
    assert main(command("fold=all", "competition=digits", "tta=flip", stages)) == 0
    printed = capsys.readouterr().out
    run = tmp_path / "runs" / "r"
    for k in range(2):
        folder = run / f"fold{k}"
        found = {path.name for path in folder.iterdir()}
        assert found == {"weights.safetensors", "oof.npz", "test.npz", "history.csv", "figures", "manifest.json"}
        assert {path.name for path in (folder / "figures").iterdir()} == {
            "confusion.png", "schedule.png", "history.png", "grad-cam.png",
            "augment-stage1-20px.png", "augment-stage2-28px.png",
        }  # fmt: skip
        manifest = json.loads((folder / "manifest.json").read_text())
        assert set(manifest["weights"]) == {"raw", "ema", "swa"}
        assert manifest["kept"] == max(manifest["weights"], key=manifest["weights"].get)
        history = pd.read_csv(folder / "history.csv")
        assert list(history["size"].unique()) == [20, 28]
        assert {"step", "stage", "loss", "accuracy", "images_per_second"} <= set(history.columns)

    # every training row is predicted by the fold that held it out, and by that one only
    folds = pd.read_csv(tmp_path / "folds" / "mini.csv", dtype={"id": str}).set_index("id")
    oof = [load_predictions(run / f"fold{k}" / "oof.npz") for k in range(2)]
    assert sorted(np.concatenate([part.ids for part in oof])) == sorted(folds.index)
    for k, part in enumerate(oof):
        assert (folds.loc[part.ids, "fold"] == k).all()
        assert (part.fold == k).all()
        assert (part.target == folds.loc[part.ids, "target"]).all()
        assert part.pred.dtype == np.float32
        np.testing.assert_allclose(part.pred.sum(1), 1, atol=1e-5)

    sample = pd.read_csv(mini_digits / "sample_submission.csv", dtype=str)
    submission = pd.read_csv(tmp_path / "submissions" / "r.csv", dtype=str)
    assert list(submission.columns) == list(sample.columns)
    assert list(submission["id"]) == list(sample["id"])
    assert set(submission["label"]) <= {f"digit-{label}" for label in range(5)}

    cv = json.loads((run / "cv.json").read_text())
    assert {"run", "competition", "metric", "greater_is_better", "folds", "mean", "std", "oof", "seconds"} <= set(cv)
    assert set(cv["folds"]) == {"0", "1"}
    labels = np.concatenate([task_of(part.kind, part.classes).encode(part.target) for part in oof])
    assert cv["oof"] == pytest.approx(np.mean(np.concatenate([part.pred for part in oof]).argmax(1) == labels))
    solution = pd.read_csv(mini_digits / "solution.csv", dtype=str).set_index("id")["label"]
    assert cv["test"] == pytest.approx((solution[submission["id"]].values == submission["label"].values).mean())
    assert "stage 2: " in printed
    assert f"{cv['oof']:.4f}" in printed

    # finished folds are skipped, the files stay as they are
    before = (run / "fold0" / "oof.npz").stat().st_mtime_ns
    assert main(command("fold=all", "competition=digits", "tta=flip", stages)) == 0
    assert "skipped" in capsys.readouterr().out
    assert (run / "fold0" / "oof.npz").stat().st_mtime_ns == before

    # another configuration under the same name is refused, and the difference is named
    assert main(command("fold=0", "competition=digits", "tta=flip", stages, "optimizer.lr=0.3")) == 2
    assert "optimizer.lr: 0.2 -> 0.3" in capsys.readouterr().err

    # the saved weights predict the same submission again
    path = tmp_path / "submissions" / "r.csv"
    first = path.read_text()
    path.unlink()
    assert main(["predict", f"paths.runs={tmp_path / 'runs'}", "run=r"]) == 0
    assert path.read_text() == first
    solution_words = [f"submission={path}", f"solution={mini_digits / 'solution.csv'}"]
    capsys.readouterr()
    assert main(["score", *solution_words]) == 0
    assert f"{cv['test']:.4f}" in capsys.readouterr().out
    assert main(["runs", f"paths.runs={tmp_path / 'runs'}"]) == 0
    assert re.search(r"r +accuracy", capsys.readouterr().out)


def test_learning_happens(command: Command, tmp_path: Path) -> None:
    """The loss of a fold falls well below chance, ln 5, on what it was trained on."""
    assert (
        main(command("competition=digits", "epochs=12", "optimizer.lr=0.4", "augment.rotate=0", "average.swa=false"))
        == 0
    )
    history = pd.read_csv(tmp_path / "runs" / "r" / "fold0" / "history.csv")
    assert history["loss"].iloc[-1] < 0.7 * np.log(5)
    assert history["accuracy"].max() > 0.6


@pytest.mark.parametrize("technique", [
    ["mix.mixup=0.2", "mix.cutmix=1.0", "mix.probability=0.8", "mix.stop=0.9"],
    ["optimizer.name=adamw", "optimizer.lr=0.01", "optimizer.clip=1.0", "schedule.kind=linear"],
    ["optimizer.accumulate=2", "schedule.kind=steps", "loss.smoothing=0.1", "loss.smoothing_kind=all"],
    ["average.swa_lr=0.5", "average.swa_start=0.5", "schedule.kind=exponential"],
    ["average.ema=0", "average.swa=false", "optimizer.decay_bias=true", "schedule.kind=constant"],
    ["folds.kind=stratified_group", "competition.group_column=writer"],
    ["stages=[{classes: 2, length: 5 steps}, {rows: 0.5, length: 1 epochs, batch_size: 8}, {length: 3 steps}]"],
    ["tta=[{flip: true}, {zoom: 1.2, position: [0, 1], weight: 0.5}]", "eval.crop=0.9"],
    ["augment.albumentations=[{GaussianBlur: {p: 0.5}}]", "augment.erase=0.5", "cache=false", "workers=1"],
    ["model.separable=true", "model.separable_width=2", "model.init=he", "time_budget=600s"],
    ["model.acnet=true", "precision=bf16"],
    ["model.activation=prelu", "optimizer.name=adamw", "optimizer.lr=0.01"],
    ["model.activation=mish", "model.pool=gem", "model.stride_first=true"],
    ["model.pool=catavgmax", "model.drop_rate=0.1", "model.init=xavier", "competition.metric=log_loss"],
    ["model.head=cosface", "model.margin=0.2", "model.scale=20", "mix.mixup=0.2", "loss.smoothing=0.1"],
    ["model.head=arcface", "model.margin=0.4", "model.subcentres=3", "precision=fp16"],
    ["model.output_stride=8", "model.sync_bn=true"],
    ["schedule.kind=one_cycle", "schedule.warmup=30%", "schedule.momentum=[0.95, 0.85]", "optimizer.layer_decay=0.8"],
    ["model.freeze=50%", "optimizer.name=adamw", "optimizer.fused=true"],
    ["stages=[{length: 50%}, {length: 50%, size: 1.2, augment: 0, train: head+norm, lr: 0.001}]"],
    ["loss.name=focal", "loss.gamma=1.5", "loss.class_weights=balanced"],
    ["loss.name=bce", "balance=0.5", "mix.mixup=0.2"],
])  # fmt: skip
def test_each_technique_runs(command: Command, tmp_path: Path, technique: list[str]) -> None:
    assert main(command("competition=digits", "epochs=1", *technique)) == 0
    assert (tmp_path / "runs" / "r" / "fold0" / "manifest.json").is_file()


def test_statistics_of_the_training_rows_belong_to_the_run(command: Command, tmp_path: Path, mini_digits: Path) -> None:
    """In the manifest, in every later prediction, and in a soup's."""
    assert main(command("competition=digits", "normalise=data", "augment.fit_brightness=true", "tta=none")) == 0
    runs, submissions = tmp_path / "runs", tmp_path / "submissions"
    manifest = json.loads((runs / "r" / "fold0" / "manifest.json").read_text())
    folds = pd.read_csv(tmp_path / "folds" / "mini.csv", dtype={"id": str})
    trained_on = folds.loc[folds["fold"] != 0, "id"]
    pixels = np.stack([cv2.imread(str(mini_digits / "train" / f"{name}.png")) for name in trained_on]) / 255
    assert manifest["normalisation"]["mean"] == pytest.approx([pixels.mean()] * 3, rel=1e-3)
    assert manifest["normalisation"]["std"] == pytest.approx([pixels.std()] * 3, rel=1e-3)
    low, middle, high = np.percentile(pixels.mean((1, 2, 3)), [5, 50, 95])
    assert manifest["brightness"] == pytest.approx((high - low) / 2 / middle, rel=1e-3)

    first = (submissions / "r.csv").read_text()
    (submissions / "r.csv").unlink()
    assert main(["predict", f"paths.runs={runs}", "run=r"]) == 0
    assert (submissions / "r.csv").read_text() == first
    assert main(["soup", f"paths.runs={runs}", "runs=[r]", "run=s", "method=uniform"]) == 0
    (submissions / "s.csv").unlink()
    assert main(["predict", f"paths.runs={runs}", "run=s"]) == 0
    assert (submissions / "s.csv").read_text() == first


def test_lr_find_writes_a_picture_and_suggests_a_rate(command: Command, tmp_path: Path, capsys) -> None:
    assert main(["lr_find", *command("competition=digits", "stages=[{length: 3 steps, rows: 0.5}, {}]")]) == 0
    folder = tmp_path / "runs" / "r" / "lr_find"
    table = pd.read_csv(folder / "loss.csv")
    assert {path.name for path in folder.iterdir()} == {"loss.csv", "loss.png"}
    assert 20 < len(table) <= 100 and table["lr"].is_monotonic_increasing and table["loss"].iloc[0] > 1
    (said,) = re.findall(r"steepest descent at optimizer.lr=([0-9.e+-]+)", capsys.readouterr().out)
    assert 1e-6 < float(said) < 10
    assert main(command("competition=digits", "epochs=1")) == 0, "the run itself can still be trained"


def test_a_batch_size_is_found_once(command: Command, tmp_path: Path, capsys) -> None:
    words = command("competition=digits", "batch_size=auto", "epochs=1")
    assert main(words) == 0
    run = tmp_path / "runs" / "r"
    assert "batch_size=auto: 8 per process" in capsys.readouterr().out, "60 rows: not more, or an epoch has no steps"
    assert json.loads((run / "batch_size.json").read_text())["batch_size"] == 8
    assert json.loads((run / "fold0" / "manifest.json").read_text())["batch_size"] == 8
    (run / "batch_size.json").write_text('{"batch_size": 16}')  # found by a larger machine
    assert main([*words, "fold=1"]) == 0
    assert json.loads((run / "fold1" / "manifest.json").read_text())["batch_size"] == 16
    assert main(["predict", f"paths.runs={tmp_path / 'runs'}", "run=r"]) == 0


def test_score_against_test_size(command: Command, tmp_path: Path, capsys) -> None:
    assert main(command("fold=all", "competition=digits", "tta=none")) == 0
    run = tmp_path / "runs" / "r"
    cv = json.loads((run / "cv.json").read_text())
    capsys.readouterr()
    words = ["sizes", f"paths.runs={tmp_path / 'runs'}", "run=r"]
    assert main([*words, "sizes=[40,20]"]) == 0
    printed = capsys.readouterr().out
    table = pd.read_csv(run / "figures" / "sizes.csv").set_index("size")
    assert list(table.index) == [20, 28, 40] and (run / "figures" / "sizes.png").stat().st_size > 5000
    assert table.loc[28, "out-of-fold"] == pytest.approx(cv["oof"]), "at its own size, the run's own score"
    assert table.loc[28, ["fold 0", "fold 1"]].tolist() == pytest.approx([cv["folds"]["0"], cv["folds"]["1"]])
    best = table["out-of-fold"].idxmax()
    assert f"best {best} px, trained at 28 px" in printed and f"predict run=r size={best}" in printed
    # two folds of equal size: each is scored at the size that is best on the other one
    nested = (table.loc[table["fold 1"].idxmax(), "fold 0"] + table.loc[table["fold 0"].idxmax(), "fold 1"]) / 2
    assert f"nested {nested:.4f}" in printed
    (tmp_path / "runs" / "before" / "figures").mkdir(parents=True)
    (tmp_path / "runs" / "before" / "figures" / "sizes.csv").write_text("size,out-of-fold\n24,0.5\n32,0.6\n")
    assert main([*words, "sizes=[40,20]", "runs=[before]"]) == 0
    assert (run / "figures" / "sizes_of_runs.png").stat().st_size > 5000
    unmeasured = ["sizes=[32]", "runs=[other]"], "other has no "
    for bad, says in ((["sizes=[]"], "which pixels?"), (["sizes=[32]", "fold=4"], "no finished fold"), unmeasured):
        assert main([*words, *bad]) == 2
        assert says in capsys.readouterr().err


def test_a_budget_shortens_the_run_as_a_whole(command: Command, tmp_path: Path, capsys) -> None:
    assert main(command("competition=digits", "epochs=3000", "time_budget=20s", "eval.every=50")) == 0
    manifest = json.loads((tmp_path / "runs" / "r" / "fold0" / "manifest.json").read_text())
    assert manifest["shortened_to"] < 0.5
    history = pd.read_csv(tmp_path / "runs" / "r" / "fold0" / "history.csv")
    assert history["rate"].iloc[-1] < 0.05, "the schedule is shortened, not cut off"
    assert "of the steps" in capsys.readouterr().out


def test_a_budget_without_a_step_leaves_no_finished_fold(command: Command, tmp_path: Path, capsys) -> None:
    """Its network would be submitted untrained, and never be trained later on. What the line names is enough."""
    words = command("competition=digits", "report=false")
    assert main([*words, "time_budget=0.1s"]) == 2
    said = capsys.readouterr().err
    assert not list(tmp_path.glob("runs/r/**/manifest.json")) and not list(tmp_path.glob("submissions/*"))
    enough = re.search(
        r"time_budget=0\.1s: 0s left, too little for one step .* give (time_budget=\d+s) or more$", said, re.M
    )
    assert enough, said
    assert main([*words, enough[1]]) == 0
    assert (tmp_path / "runs" / "r" / "fold0" / "manifest.json").is_file()


@pytest.mark.parametrize(("words", "says"), [
    (["optimizer.lrr=1"], "optimizer.lrr: there is no such key; did you mean 'optimizer.lr'?"),
    (["lr=1"], "did you mean 'optimizer.lr'?"),
    (["fodl=1"], "did you mean 'fold'?"),
    (["fold=7"], "fold"),
    (["fold=first"], "give a fold number or all"),
    (["model=resnt18"], "did you mean 'resnet18'?"),
    (["model.weights=nowhere.pth"], "there is no such file"),
    (["competition.root=nowhere"], "nowhere"),
    (["competition=nowhere"], "not in configs/competition"),
    (["competition.metric=acuracy"], "did you mean 'accuracy'?"),
    (["competition.target_column=lable"], "'label'?"),
    (["competition.train_csv=trian.csv"], "trian.csv"),
    (["tta=flipp"], "did you mean 'flip'?"),
    (["precision=fp23"], "choose one of"),
    (["device=cuda"], "not on this machine"),
    (["optimizer.name=sgdd"], "no such optimiser"),
    (["epochs=-1"], "epochs=-1"),
    (["batch_size=atuo"], "must be above 0, or auto"),
    (["epochs=many"], "epochs"),
    (["stages=[{size: 1, lenght: 3 epochs}]"], "'stages[0].length'"),
    (["stages=[{length: 3 weeks}]"], "3 weeks"),
    (["stages=[]"], "the list is empty"),
    (["time_budget=soon"], "8.5h"),
    (["run=../elsewhere"], "run=../elsewhere: holds a slash; choose a plain name"),
    (["run=-x"], "run=-x: begins with '-'; choose a plain name"),
    (["run=a$b"], "run=a$b: holds $; choose a plain name"),
    (["run=a\tb"], "run=a b: holds control characters"),
    ([f"run={'x' * 201}"], "is longer than 200 bytes; choose a plain name"),
    (["folds.n=40"], "folds"),
    (["workers=-1"], "workers"),
    (["model.options.depth=3"], "model.options"),
    (["model=test_vit", "model.output_stride=8"], "model.output_stride=8: test_vit does not take"),
    (["model.activation=mesh"], "did you mean 'mish'?"),
    (["model.separable=true", "model.acnet=true"], "choose one of them"),
    (["schedule.warmup=3 weeks"], "schedule.warmup"),
    (["augment.albumentations=[{GausianBlur: {}}]"], "did you mean 'GaussianBlur'?"),
    (["experiment=none_such"], "not in configs/experiment"),
    (["stages=[{lr: 0.1}, {}]"], "stages[1].lr"),
    (["schedule.kind=one_cycle", "average.swa_lr=0.5"], "average.swa_lr"),
    (["schedule.momentum=[0.95, 0.85]"], "schedule.kind=one_cycle"),
    (["model.freeze=3 weeks"], "model.freeze"),
    (["balance=1", "loss.class_weights=balanced"], "leave one of them out"),
    (["loss.name=focal", "mix.mixup=0.2"], "loss.name=focal"),
    (["loss.name=focal", "loss.smoothing=0.1"], "loss.smoothing: the focal loss"),
    (["optimizer.name=lamb", "optimizer.fused=true"], "optimizer.fused"),
    (["x"], "no such verb"),
])  # fmt: skip
def test_a_mistake_gets_one_line_and_exit_code_2(command: Command, tmp_path: Path, capsys, words, says) -> None:
    given = words if words == ["x"] else command("competition=digits", *words)
    assert main(given) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    assert says in lines[0]
    assert not list((tmp_path / "runs").glob("*/fold*/manifest.json"))


def test_data_that_changed_under_the_folds_are_refused(
    command: Command, mini_digits: Path, tmp_path: Path, capsys
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(mini_digits, copy)
    words = command("competition=digits", f"competition.root={copy}", "epochs=1")
    assert main(words) == 0
    rows = (copy / "train.csv").read_text().splitlines()
    (copy / "train.csv").write_text("\n".join(rows[:-1]) + "\n")
    assert main(merged(words, ["run=other"])) == 2
    error = capsys.readouterr().err
    assert "mini.csv" in error
    assert "gone" in error


def test_an_unreadable_image_is_named(command: Command, mini_digits: Path, tmp_path: Path, capsys) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(mini_digits, copy)
    broken = sorted((copy / "train").iterdir())[5]
    broken.write_bytes(b"<html>not found</html>")
    for workers in (0, 1):
        words = command("competition=digits", f"competition.root={copy}", f"workers={workers}", f"run=w{workers}")
        assert main(words) == 2
        error = capsys.readouterr().err.strip()
        assert str(broken) in error
        assert len(error.splitlines()) == 1


def test_multirun_trains_several_folds(command: Command, tmp_path: Path) -> None:
    assert main(command("competition=digits", "fold=0,1", "epochs=1", "-m")) == 0
    assert len(list((tmp_path / "runs").glob("r/fold*/manifest.json"))) == 2
