"""Trackers: which mode W&B has, what answers, that no row is lost, and that none of them ends a fold."""

from __future__ import annotations

import shlex
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from src import tracking
from src.errors import UserError
from src.tracking import check_trackers, start_tracking, wandb_mode
from src.tracking.wandb_mode import answers, resolve_mode

KEY = {"WANDB_API_KEY": "0123456789"}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DISABLED", "WANDB_BASE_URL", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(tracking, "lost", [])
    answers.cache_clear()


# ---- mode -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "environment", "found"),
    [
        ("auto", {}, "offline"),
        ("auto", KEY, "online"),
        ("auto", {**KEY, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {**KEY, "WANDB_MODE": "disabled"}, "disabled"),
        ("auto", {**KEY, "WANDB_MODE": "dryrun"}, "offline"),
        ("auto", {**KEY, "WANDB_MODE": " Offline "}, "offline"),
        ("auto", {**KEY, "WANDB_MODE": ""}, "online"),
        ("auto", {"WANDB_MODE": "online"}, "online"),
        ("auto", {"WANDB_MODE": "run"}, "online"),
        ("auto", {**KEY, "WANDB_DISABLED": "true"}, "disabled"),
        ("auto", {**KEY, "WANDB_DISABLED": "false"}, "online"),
        ("online", {"WANDB_MODE": "disabled"}, "online"),  # the key that is given wins
        ("disabled", {**KEY, "WANDB_MODE": "online"}, "disabled"),
        ("offline", {**KEY, "WANDB_MODE": "nonsense"}, "offline"),
    ],
)
def test_mode(mode: str, environment: dict[str, str], found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert resolve_mode(mode, environment) == found


def test_a_mode_that_there_is_not_is_refused_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(UserError, match=r"^WANDB_MODE=ofline: choose online, offline or disabled, or unset"):
        check_trackers("auto", ())
    check_trackers("offline", ())


def test_a_key_in_netrc_is_one_for_its_own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0123456789\n")
    assert resolve_mode("auto", {}) == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080")
    assert resolve_mode("auto", {}) == "offline"


# ---- what answers ---------------------------------------------------------------------------------------------------


class Refuses(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: Any) -> None: ...


def test_a_server_that_answers_anything_is_there_and_one_that_does_not_costs_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    server = HTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.handle_request, daemon=True).start()
    monkeypatch.setattr(wandb_mode, "ANSWER", 20.0)
    assert answers(f"http://127.0.0.1:{server.server_port}")
    server.server_close()
    monkeypatch.setattr(wandb_mode, "ANSWER", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call and says nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert not answers(url)
    answers.cache_clear()
    assert not answers(url)  # and now it is gone
    assert not answers("nonsense")


# ---- W&B, by its own rules ------------------------------------------------------------------------------------------


class FakeRun:
    """What W&B does with steps: a row without one has the next, a row of an earlier one is dropped."""

    def __init__(self, folder: Path, id: str) -> None:
        self.id, self.dir, self.summary = id, str(folder / "files"), {}
        self.rows: dict[int, dict[str, Any]] = {}
        self.at, self.dropped = 0, []
        Path(self.dir).mkdir(parents=True)

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        if step is None:
            self.at, step = self.at + 1, self.at
        if step < self.at:
            self.dropped.append(values)
            return
        self.at = step
        self.rows.setdefault(step, {}).update(values)

    def finish(self) -> None: ...


class FakeWandb(ModuleType):
    def __init__(self, fails: tuple[str, ...] = ()) -> None:
        super().__init__("wandb")
        self.runs: list[FakeRun] = []
        self.asked: list[dict[str, Any]] = []
        self.fails = fails

    def Settings(self, **values: Any) -> Any:
        return SimpleNamespace(
            finish_timeout=0.0, **{key: value for key, value in values.items() if "finish" not in key}
        )

    def Image(self, path: str) -> str:
        return path

    def Table(self, columns: list[str], data: list[Any]) -> Any:
        return columns, data

    def init(self, *, mode: str, dir: str, id: str | None, **more: Any) -> FakeRun:
        self.asked.append({"mode": mode, "id": id, **more})
        if mode in self.fails:
            raise RuntimeError(f"no {mode}\nat all")
        name = f"{'offline-' if mode == 'offline' else ''}run-2026_{len(self.runs)}-{id or 'abc'}"
        run = FakeRun(Path(dir) / "wandb" / name, id or "abc")
        self.runs.append(run)
        return run


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def begin(folder: Path, mode: str = "offline", **more: Any) -> tracking.Trackers:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "x.png").touch()  # a picture that is not there is passed over
    about: dict[str, Any] = {"project": "p", "entity": None, "run": "r", "fold": 0, "config": {"size": 8}}
    return start_tracking(mode, folder=folder, **about, **more)


def test_rows_of_short_epochs_are_kept_behind_pictures(wandb: FakeWandb, tmp_path: Path) -> None:
    tracker = begin(tmp_path)
    for name in ("augment-1", "augment-2", "augment-3", "schedule"):
        tracker.image(name, tmp_path / "x.png")
    for step in (1, 2, 3):
        tracker.log({"step": step, "loss": 1.0 / step})
    tracker.image("confusion", tmp_path / "x.png")
    tracker.table("per class", ["class"], [["a"]])
    (run,) = wandb.runs
    assert not run.dropped
    assert {step: row["loss"] for step, row in run.rows.items() if "loss" in row} == {1: 1.0, 2: 0.5, 3: 1 / 3}
    assert len(run.rows[0]) == 4 and {"confusion", "per class"} <= set(run.rows[3])


def test_all_parts_of_a_stopped_fold_are_named(wandb: FakeWandb, tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    first = begin(folder)
    first.log({"step": 4, "loss": 1.0})
    second = begin(folder, ids={"wandb": first.id or ""}, step=3)
    second.log({"step": 4, "loss": 1.0})
    said = second.finish()
    assert said is not None
    command, verb, *folders = shlex.split(said)
    assert (command, verb) == ("wandb", "sync")
    assert folders == [str(folder / "wandb" / f"offline-run-2026_{part}-abc") for part in (0, 1)]
    assert all(Path(one).is_dir() for one in folders)
    begin(tmp_path / "other").finish()
    assert second.finish() == said, "other folds are their own"


def test_a_fold_that_goes_on_logs_at_its_own_steps(wandb: FakeWandb, tmp_path: Path) -> None:
    tracker = begin(tmp_path, ids={"wandb": "abc"}, step=40)
    tracker.image("grad-cam", tmp_path / "x.png")  # no row is left to come
    assert list(wandb.runs[0].rows) == [40]


def test_a_key_without_network_asks_once(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(tracking, "answers", lambda url: asked.append(url))
    monkeypatch.setenv("WANDB_API_KEY", "0123456789")
    for fold in range(3):
        begin(tmp_path / str(fold), "auto")
    assert asked == ["https://api.wandb.ai"]
    assert [one["mode"] for one in wandb.asked] == ["offline"] * 3
    assert capsys.readouterr().out == "W&B: https://api.wandb.ai does not answer, tracking offline\n"


def test_a_refused_key_is_tried_once(wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(tracking, "answers", lambda url: True)
    wandb.fails = ("online",)
    for fold in range(2):
        assert begin(tmp_path / str(fold), "online").id == "abc"
    assert [one["mode"] for one in wandb.asked] == ["online", "offline", "offline"]
    assert capsys.readouterr().out == "W&B: RuntimeError: no online at all; tracking offline\n"
    wandb.fails = ("online", "offline")
    assert begin(tmp_path / "2", "offline").id is None


def test_a_tracker_that_fails_is_left_out(wandb: FakeWandb, tmp_path: Path, capsys) -> None:
    tracker = begin(tmp_path)

    def broken(*_: Any, **__: Any) -> None:
        raise ConnectionError("gone\nfor good")

    wandb.runs[0].log = broken  # type: ignore[method-assign]
    tracker.log({"step": 1})
    tracker.image("confusion", tmp_path / "x.png")
    assert tracker.finish() is None
    assert capsys.readouterr().out == "wandb: ConnectionError: gone for good; training goes on without it\n"


def test_disabled_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    tracker = begin(tmp_path, "disabled")
    tracker.log({"step": 1})
    assert tracker.id is None and tracker.finish() is None


# ---- others ---------------------------------------------------------------------------------------------------------


def test_a_tracker_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    for name in ("tensorboard", "mlflow"):
        with pytest.raises(UserError, match=rf"^trackers: {name} is not installed; \S+pip install {name}, or leave it"):
            check_trackers("disabled", [name])


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_another_tracker(name: str, tmp_path: Path, capsys) -> None:
    pytest.importorskip(name)
    picture = tmp_path / "confusion.png"
    cv2.imwrite(str(picture), np.full((8, 8, 3), 200, np.uint8))
    folder = tmp_path / "runs" / "r" / "fold0"
    tracker = begin(folder, "disabled", others=[name])
    tracker.image("confusion", picture)
    tracker.log({"step": 1, "loss": 0.5})
    again = begin(folder, "disabled", others=[name], ids=tracker.ids, step=1)  # after a stop
    again.log({"step": 2, "loss": 0.25})
    again.table("per class", ["class", "rows"], [["a", 3]])
    again.summary({"accuracy": 0.75, "kept": "ema"})
    again.finish()
    assert capsys.readouterr().out.count("goes on without") == 0
    assert [path.name for path in tmp_path.iterdir() if path != picture] == ["runs"], "nothing elsewhere"
    if name == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(folder / "tensorboard")).Reload()
        assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
        assert [event.value for event in found.Scalars("final/accuracy")] == [0.75]
        assert found.Tags()["images"] == ["confusion"]
    else:
        import mlflow

        run = mlflow.get_run(tracker.ids["mlflow"])
        assert run.data.metrics == {"loss": 0.25, "final/accuracy": 0.75} and run.data.params["size"] == "8"
        assert again.ids == tracker.ids
        kept = {path.path for path in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
        assert kept == {"figures", "per class.json"}
