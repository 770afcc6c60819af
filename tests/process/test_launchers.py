"""Jobs that Hydra's launchers start in other processes: their exit codes come back, and what is lost goes on.

Only a lost job of joblib is tested everywhere: each job loads torch, which takes seconds. The others are skipped
without the packages of the extra `launchers`.
"""

from __future__ import annotations

import csv
import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.cli import main
from src.compose import FailedElsewhere, Job, reason_of
from src.training.device import make_accelerator
from tests.process.starts import Start as Forked
from tests.process.starts import require_same, require_tidy, result
from tests.process.test_side_by_side import METRIC

pytestmark = pytest.mark.process
ENGINES = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit": ["hydra/launcher=submitit_local"],
    "ray": ["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"],
}
WORDS = ["competition=digits", "device=cpu", "checkpoint.every=0.001"]
# Ray starts its jobs at the lowest priority, which on a machine with other work is hardly any time at all.
RAY = {"RAY_worker_niceness": "0", "RAY_AUTH_MODE": "disabled"}
OTHERS = "hydra_plugins.hydra_submitit_launcher"  # is there where all of the extra `launchers` are
Start = Callable[..., "subprocess.Popen[str]"]


# What the metric does in the place of a node's loss: its parent is the node's raylet.
KILL = "os.kill(os.getpid(), signal.SIGKILL)"
NODE = f"os.kill(os.getppid(), signal.SIGKILL)\n    {KILL}"
# SLURM's own way: SIGTERM, upon which the metric has to return, and later SIGKILL.
REQUEUE = """import subprocess
    subprocess.check_call(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]])
    return float((y_true == y_pred).mean())"""


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=900)
    return process.returncode, output


@pytest.fixture(params=ENGINES)
def launcher(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words that choose an engine."""
    pytest.importorskip(f"hydra_plugins.hydra_{request.param}_launcher")
    for name, value in RAY.items() if request.param == "ray" else ():
        monkeypatch.setenv(name, value)
    return ["-m", *ENGINES[request.param]]


def test_a_lost_job_goes_on(
    launcher: list[str], start: Start, start_server: Any, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Ray starts it again by itself; after the others any start of the run goes on with it."""
    (tmp_path / "own.py").write_text(METRIC)
    words = [*WORDS, f"competition.metric={tmp_path / 'own.py'}:share"]
    code, output = end(start(*words, "fold=0,1", *launcher))
    if "ray" not in launcher[1]:
        assert code == 137, output
        assert "a job of" in output and "the same command goes on from the last checkpoints" in output
        code, output = Forked(start_server, command(*words, "fold=all"), tmp_path / "again").end()
    assert code == 0, output
    assert "going on at step" in output and (tmp_path / "killed").exists()
    require_tidy(tmp_path)
    code, output = Forked(start_server, command(*words, "fold=all", "run=one"), tmp_path / "one").end()
    assert code == 0, output
    require_same(result(tmp_path), result(tmp_path, "one"))


def test_a_lost_node_costs_no_fold(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two nodes of a Ray cluster one is killed amid its fold, which the other one then ends."""
    for name, value in RAY.items():
        monkeypatch.setenv(name, value)
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    from ray.cluster_utils import Cluster

    own = tmp_path / "own.py"
    own.write_text(METRIC.replace("if calls != 2:", 'if calls != 2 or "SECOND" not in os.environ:').replace(KILL, NODE))
    words = [*WORDS, f"competition.metric={own}:share"]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1, env_vars={"SECOND": "1"})
        there = [
            "-m",
            "hydra/launcher=ray",
            f"hydra.launcher.ray.init.address={cluster.address}",
            "+hydra.launcher.ray.init.object_store_memory=null",
        ]
        code, output = end(start(*words, "fold=0,1", *there))
    finally:
        cluster.shutdown()
    assert code == 0, output
    assert (tmp_path / "killed").exists() and "the node it was running on is dead" in output
    assert "going on at step" in output
    require_tidy(tmp_path)
    code, output = end(start(*words, "fold=all", "run=one"))
    assert code == 0, output
    require_same(result(tmp_path), result(tmp_path, "one"))


@pytest.mark.skipif(shutil.which("sbatch") is None, reason="needs a SLURM that this machine may submit to")
def test_a_requeued_job_goes_on(start: Start, tmp_path: Path) -> None:
    """SLURM starts it again, as it does after a preemption, and the command waits for that."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    (tmp_path / "own.py").write_text(METRIC.replace(KILL, REQUEUE))
    words = [*WORDS, f"competition.metric={tmp_path / 'own.py'}:share"]
    code, output = end(start(*words, "fold=0,1", "-m", "hydra/launcher=submitit_slurm"))
    assert code == 0, output
    logs = "".join(file.read_text() for file in (tmp_path / "runs" / ".submitit").rglob("*_log.*"))
    assert (tmp_path / "killed").exists() and logs.count("going on at step") == 1
    require_tidy(tmp_path)
    code, output = end(start(*words, "fold=all", "run=one"))
    assert code == 0, output
    require_same(result(tmp_path), result(tmp_path, "one"))


@pytest.mark.parametrize(("executor", "expected"), [("slurm", SystemExit), ("local", FailedElsewhere)])
def test_a_job_that_slurm_stops_leaves_no_result(
    executor: str, expected: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result, as of submitit's other jobs, would be the end of the command, also where SLURM starts it again."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", executor)
    monkeypatch.setattr("src.compose.PATIENCE", 0)
    monkeypatch.setattr("src.compose.configured", lambda composed: composed)
    with pytest.raises(expected) as caught:
        Job(lambda config, began: 143, 0.0, [], home=("another host", 1))(None)
    assert caught.value.args[0] == 143


def test_tasks_of_srun_do_not_train_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a command of its own; Accelerate would wait for the others at an address that nobody has given."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in {"PMI_SIZE": "2", "PMI_RANK": "1", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}.items():
        monkeypatch.setenv(name, value)
    accelerator = make_accelerator("cpu", "fp32")
    assert accelerator.num_processes == 1 and accelerator.is_main_process


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Job 6_0 (task: 0) with path r.pkl\nhas not produced any output (state: NODE_FAIL)\nError", "NODE_FAIL"),
        ("Job not requeued because: timed-out too many times.", "timed-out too many times"),
        ("has not produced any output (state: UNKNOWN)", "RuntimeError"),
        ("", "RuntimeError"),
    ],
)
def test_why_a_job_was_lost(text: str, reason: str) -> None:
    assert reason_of(RuntimeError(text)) == reason


def test_a_mistake_comes_back(launcher: list[str], start: Start) -> None:
    pytest.importorskip(OTHERS)
    code, output = end(start(*WORDS, "fold=7,0", *launcher))
    assert code == 2, output
    assert output.rstrip().splitlines()[-1] == "error: fold=7: folds go from 0 to 1"


def test_starts_of_an_ablation_share_its_folds(start: Start, tmp_path: Path) -> None:
    pytest.importorskip(OTHERS)
    words = ["preset=scratch", "tricks=[mixup]", "folds=[0,1]", "seeds=1", "run=study", "average.swa=false"]
    several = ["start=0,1", "-m", *ENGINES["joblib"]]
    code, output = end(start(*WORDS, *words, *several, verb="ablate"))
    assert code == 0, output
    with open(tmp_path / "runs" / "study" / "ablate.csv", encoding="utf-8", newline="") as file:
        assert [(row["trick"], row["pairs"]) for row in csv.DictReader(file)] == [("mixup", "2")]
    log = (tmp_path / "runs" / "study" / "log.txt").read_text()
    assert log.count(", trained in ") == 4, "none twice"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "hydra/launcher=joblib"], "hydra/launcher=joblib: needs the package hydra-joblib-launcher; "),
        (["-m", "hydra/launcher=submitit_slurm"], "hydra/launcher=submitit_slurm: needs the package hydra-submitit-"),
        (["hydra/launcher=basic"], "hydra/launcher=basic: starts the jobs of a multirun; add -m"),
    ],
)
def test_a_launcher_that_cannot_start(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = importlib.util.find_spec

    def without_plugins(name: str, *more: Any) -> Any:
        return None if name.startswith("hydra_plugins") else known(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", without_plugins)
    assert main(["competition=digits", "fold=0,1", *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


def test_a_cluster_that_is_not_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: object())
    monkeypatch.setattr("src.compose.shutil.which", lambda name: None)
    assert main(["competition=digits", "fold=0,1", "-m", "hydra/launcher=submitit_slurm"]) == 2
    assert "there is no srun here" in capsys.readouterr().err
