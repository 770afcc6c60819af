"""Real processes: two that train as one, and one that is killed and goes on.

The first test starts new interpreters, as users do; the others fork what has torch loaded (tests/process/starts.py).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from src.cli import main
from src.predictions import load_predictions
from tests.process.starts import Start

pytestmark = pytest.mark.process
REPO = Path(__file__).resolve().parent.parent.parent
Fresh = Callable[..., "subprocess.Popen[str]"]
Fork = Callable[..., Start]
Command = Callable[..., list[str]]
STAGES = "stages=[{length: 40%, size: 0.75, rows: 0.5}, {length: 60%}]"


@pytest.fixture(scope="session")
def fork_in(start_server: Any, command_in: Command) -> Fork:
    """Start a training below a folder, and all of its processes, from a server that has torch loaded."""

    def forked(place: Path, *words: str) -> Start:
        log = place / f"log{len(list(place.glob('log*')))}"
        return Start(start_server, command_in(place, *words), log, forks=True)

    return forked


@pytest.fixture
def fork(fork_in: Fork, tmp_path: Path) -> Fork:
    """`fork_in` below tmp_path."""
    return partial(fork_in, tmp_path)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=900)
    return process.returncode, output


def same_predictions(a: Path, b: Path, exactly: bool) -> None:
    for name in ("oof.npz", "test.npz"):
        one, other = load_predictions(a / name), load_predictions(b / name)
        assert list(one.ids) == list(other.ids)
        if exactly:
            np.testing.assert_array_equal(one.pred, other.pred)
        else:
            np.testing.assert_allclose(one.pred, other.pred, atol=1e-5)


def test_two_processes_train_and_predict_every_id_once(start: Fresh, start_server: Any, tmp_path: Path) -> None:
    code, output = finish(start("competition=digits", "processes=2", "device=cpu", "batch_size=8"))
    assert code == 0, output
    assert "2 x cpu" in output
    assert output.count("fold 0: accuracy") == 1, "only the first process talks"
    oof = load_predictions(tmp_path / "runs" / "r" / "fold0" / "oof.npz")
    folds = pd.read_csv(tmp_path / "folds" / "mini.csv", dtype={"id": str})
    assert sorted(oof.ids) == sorted(folds.loc[folds["fold"] == 0, "id"])

    # the saved weights are those that predicted: the submission again, with one process and with two
    submission = tmp_path / "submissions" / "r.csv"
    first = submission.read_text()
    for processes in (1, 2):
        submission.unlink()
        words = [f"paths.runs={tmp_path / 'runs'}", "run=r", f"processes={processes}", "batch_size=7", "device=cpu"]
        code, output = Start(start_server, ["predict", *words], tmp_path / f"log{processes}", forks=True).end()
        assert code == 0, output
        assert submission.read_text() == first


def test_two_processes_freeze_alike(fork: Fork, tmp_path: Path) -> None:
    """DistributedDataParallel waits for every gradient, unless it is told that some do not come."""
    stages = "stages=[{length: 60%}, {length: 40%, train: head+norm, lr: 0.01}]"
    words = ["processes=2", "device=cpu", "batch_size=8", "epochs=1", "model.freeze=30%", stages]
    code, output = fork("competition=digits", *words).end()
    assert code == 0, output
    assert (tmp_path / "runs" / "r" / "fold0" / "manifest.json").is_file()


def test_an_error_of_one_process_is_told_once(fork: Fork, mini_digits: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(mini_digits, copy)
    broken = sorted((copy / "train").iterdir())[-1]
    broken.write_bytes(b"no image")
    words = [f"competition.root={copy}", "processes=2", "device=cpu", "batch_size=8", "epochs=1"]
    code, output = fork("competition=digits", *words).end()
    assert code == 2, output
    assert output.count("error: ") == 1
    assert str(broken) in output


def test_ctrl_c_on_two_processes_leaves_a_checkpoint(fork: Fork, tmp_path: Path) -> None:
    process = fork("competition=digits", "epochs=200", "processes=2", "device=cpu", "batch_size=8", "eval.every=5")
    process.signal(signal.SIGINT, "stage 1/2")
    code, output = process.end()
    assert code == 130, output
    assert "the same command goes on from there" in output
    assert list((tmp_path / "runs" / "r" / "fold0" / "checkpoints").glob("*.ckpt"))
    code, output = fork("competition=digits", "epochs=200", "processes=1", "batch_size=8", "eval.every=5").end()
    assert code == 2
    assert "use processes=2 parallel=data again" in output


def test_two_processes_learn_what_one_learns(fork: Fork, tmp_path: Path) -> None:
    """The same total batch gives the same gradients, BatchNorm aside: a network without it ends at the same place."""
    plain = [
        "competition=digits",
        "model=test_vit2",
        "size=32",
        "stages=[{}]",
        "average.swa=false",
        "augment.rotate=0",
        "augment.shear=0",
    ]
    plain += ["augment.zoom=0", "augment.shift=0", "optimizer.lr=0.05"]
    code, output = fork(*plain, "run=two", "processes=2", "device=cpu", "batch_size=8").end()
    assert code == 0, output
    code, output = fork(*plain, "run=one", "processes=1", "device=cpu", "batch_size=16").end()
    assert code == 0, output
    same_predictions(tmp_path / "runs" / "one" / "fold0", tmp_path / "runs" / "two" / "fold0", exactly=False)


def test_torchrun_and_a_mistake_keep_their_exit_codes(fork: Fork, command: Command, tmp_path: Path) -> None:
    code, output = fork("competition=digits", "processes=2", "device=cpu", "tta=nonsense").end()
    assert code == 2, output
    assert output.count("error: tta=nonsense") == 1
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "src.cli"]
    run = subprocess.run(
        [*torchrun, *command("competition=digits", "epochs=1", "device=cpu")],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert "2 x cpu" in run.stdout
    assert (tmp_path / "runs" / "r" / "fold0" / "manifest.json").is_file()


TECHNIQUES = [
    "optimizer.name=adamw", "optimizer.lr=0.02", "optimizer.layer_decay=0.8", "model.freeze=75%", "balance=0.7",
    "schedule.kind=one_cycle", "schedule.momentum=[0.95, 0.85]", "normalise=data", "augment.fit_brightness=true",
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(fork_in: Fork, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The fold's folder of a run with these words that was never stopped; made once for the same words."""

    @cache
    def made(*words: str) -> Path:
        place = tmp_path_factory.mktemp("whole")
        code, output = fork_in(place, *words, "run=whole").end()
        assert code == 0, output
        return place / "runs" / "whole" / "fold0"

    return made


@pytest.mark.parametrize(
    ("how", "expected", "more"),
    [(signal.SIGKILL, -9, []), (signal.SIGTERM, 143, []), (signal.SIGINT, 130, []), (signal.SIGTERM, 143, TECHNIQUES)],
)
def test_a_stopped_run_goes_on_where_it_was(
    fork: Fork, whole: Callable[..., Path], tmp_path: Path, how: signal.Signals, expected: int, more: list[str]
) -> None:
    """Stopped in the second stage and started again: the predictions are those of the unbroken run, bit by bit.

    With `more`, while the network is frozen, and before it is no longer.
    """
    words = ["competition=digits", STAGES, "epochs=10", "mix.mixup=0.2", "model.drop_rate=0.2", "checkpoint.every=0.01"]
    words += more
    unbroken = whole(*words)

    process = fork(*words, "run=broken")
    process.signal(how, "stage 2/2")
    code, output = process.end()
    assert code == expected, output
    assert not (tmp_path / "runs" / "broken" / "fold0" / "manifest.json").exists()
    if expected > 0:
        assert "the same command goes on from there" in output

    code, output = fork(*words, "run=broken").end()
    assert code == 0, output
    assert "going on at step" in output
    went_on = tmp_path / "runs" / "broken" / "fold0"
    same_predictions(unbroken, went_on, exactly=True)
    columns = ["step", "stage", "size", "rate", "loss", "accuracy"]
    one, other = (pd.read_csv(folder / "history.csv")[columns] for folder in (unbroken, went_on))
    pd.testing.assert_frame_equal(one, other)


def test_an_unfinished_run_with_another_configuration_is_refused(fork: Fork, command: Command, capsys) -> None:
    process = fork("competition=digits", "epochs=30")
    process.signal(signal.SIGTERM, "stage 1/2")
    assert process.end()[0] == 143
    assert main(command("competition=digits", "epochs=20")) == 2
    assert "epochs: 30.0 -> 20.0" in capsys.readouterr().err


def test_wandb_offline_keeps_curves_and_says_how_to_sync(start: Fresh, tmp_path: Path) -> None:
    code, output = finish(
        start(
            "competition=digits",
            "epochs=1",
            "wandb.mode=offline",
            environment={"WANDB_API_KEY": "", "MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        )
    )
    assert code == 0, output
    assert "wandb sync " in output
    folder = Path(output.split("wandb sync ")[1].splitlines()[0])
    files = list((folder if folder.is_absolute() else REPO / folder).glob("run-*.wandb"))
    assert len(files) == 1
    content = files[0].read_bytes()
    for recorded in (b"r/fold0", b"accuracy", b"confusion", b"augment-stage1-20px", b"per class"):
        assert recorded in content, recorded


def test_a_bug_does_not_leave_python_waiting_for_its_workers(tmp_path: Path) -> None:
    """Workers ignore SIGTERM, so that `timeout` and Ctrl-C leave a checkpoint; the end of Python must not need it."""
    script = """
import numpy as np
from pathlib import Path
from src.data.cache import ImageStore
from src.data.loader import batches, evaluation_orders

store = ImageStore(Path("nowhere"), np.array(["a.png"] * 8, "S"), 8, unreadable="blank")
kept = batches(store, evaluation_orders(np.arange(8), 2, 8, 1.0), 2)
next(kept)
raise RuntimeError("a bug")
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, timeout=90)
    assert run.returncode == 1 and "RuntimeError: a bug" in run.stderr


def killed(how: str) -> int:
    """What a recipe is for `launch`: the second process ends in the given way, the first waits for it."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    dist.barrier()
    if os.environ["RANK"] == "1":
        if how == "bug":
            raise ValueError("a bug")
        os.kill(os.getpid(), getattr(signal, how))
    dist.barrier()
    return 0


@pytest.mark.parametrize(("how", "code"), [("SIGKILL", 137), ("SIGSEGV", 139)])
def test_a_killed_process_is_one_sentence(how: str, code: int, capfd: pytest.CaptureFixture[str]) -> None:
    from src.launch import launch

    assert launch(killed, (how,), 2) == code
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"error: process 1 of 2 was ended by {how}, ")
    assert "the same command goes on from the last checkpoint" in lines[0]


def test_a_bug_of_a_process_keeps_its_traceback() -> None:
    from src.launch import launch

    with pytest.raises(Exception, match="ValueError: a bug"):
        launch(killed, ("bug",), 2)


def test_a_killed_loader_process_is_one_line_after_a_checkpoint(fork: Fork, tmp_path: Path) -> None:
    import psutil

    process = fork("competition=digits", "epochs=400", "workers=1", "eval.every=20", "checkpoint.every=3600")
    process.wait_for("stage 1/2")
    children = psutil.Process(process.process.pid).children(recursive=True)
    loaders = [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]
    loaders[0].kill()
    code, output = process.end()
    assert code == 2, output
    said = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "Traceback" not in output, output
    assert "workers: a loader process was killed" in said[0]
    # between two steps, or in a validation, the checkpoint before it is what there is (tests/unit/test_engine.py)
    kept = list((tmp_path / "runs" / "r" / "fold0" / "checkpoints").glob("*.ckpt"))
    assert bool(kept) == ("the same command goes on" in said[0])
