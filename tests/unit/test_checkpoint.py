"""Checkpoints that survive a kill, a full disk and a stranger's file."""

from __future__ import annotations

import copy
import os
import resource
import signal
import threading
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from accelerate import Accelerator

from src.errors import UserError
from src.training.averaging import make_swa
from src.training.checkpoint import (
    CheckpointWriter,
    checkpoints,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from src.training.learner import Learner


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that are printed."""
    lines: list[str] = []
    monkeypatch.setattr("src.training.checkpoint.say", lines.append)
    return lines


def state(step: int) -> dict[str, object]:
    model = {"w": torch.full((50,), float(step))}
    return {"step": step, "model": model, "history": [{"loss": 0.5}], "wandb": "", "none": None}


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_save_and_load(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "deep" / "checkpoints", 12, state(12))
    assert path.name == "step00000012.ckpt"
    found = load_checkpoint(path.parent)
    assert found["step"] == 12 and found["history"] == [{"loss": 0.5}] and found["none"] is None
    assert torch.equal(found["model"]["w"], torch.full((50,), 12.0))


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    for step in (5, 90, 700, 1000):
        save_checkpoint(tmp_path, step, state(step), keep)
    assert names(tmp_path) == [f"step{step:08d}.ckpt" for step in (5, 90, 700, 1000)[-keep:]]
    assert load_checkpoint(tmp_path)["step"] == 1000


def test_two_are_kept_by_default(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, state(step))
    assert names(tmp_path) == ["step00000002.ckpt", "step00000003.ckpt"]


def test_saving_one_step_again_replaces_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 3, {"a": 1})
    save_checkpoint(tmp_path, 3, {"a": 2})
    assert load_checkpoint(tmp_path) == {"a": 2} and len(names(tmp_path)) == 1


@pytest.mark.parametrize("left", [0, 10, 0.5, -1])
def test_a_truncated_one_is_passed_over(tmp_path: Path, left: float, said: list[str]) -> None:
    save_checkpoint(tmp_path, 1, state(1))
    newest = save_checkpoint(tmp_path, 2, state(2))
    content = newest.read_bytes()
    newest.write_bytes(content[: int(len(content) * left) if isinstance(left, float) else left])
    assert load_checkpoint(tmp_path)["step"] == 1
    assert len(said) == 1 and str(newest) in said[0]


def test_nothing_to_load(tmp_path: Path, said: list[str]) -> None:
    assert load_checkpoint(tmp_path / "none") is None
    (tmp_path / "step00000001.ckpt").write_bytes(b"torn")
    assert load_checkpoint(tmp_path) is None
    assert len(said) == 2 and "starting afresh" in said[1]


def test_foreign_files_do_not_count(tmp_path: Path, said: list[str]) -> None:
    for name in (".step00000009.77.tmp", "stepx.ckpt", "step00000009.ckpt.bak", "notes.txt"):
        (tmp_path / name).touch()
    save_checkpoint(tmp_path, 1, state(1))
    assert [path.name for path in checkpoints(tmp_path)] == ["step00000001.ckpt"]
    assert load_checkpoint(tmp_path)["step"] == 1
    remove_checkpoints(tmp_path)
    assert names(tmp_path) == ["notes.txt", "step00000009.ckpt.bak"]
    assert not said


def test_remove_takes_the_empty_folder_too(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", 1, state(1))
    (tmp_path / "c" / ".step00000002.5.tmp").touch()
    remove_checkpoints(tmp_path / "c")
    assert not (tmp_path / "c").exists()
    remove_checkpoints(tmp_path / "c")  # again does no harm


@pytest.mark.parametrize("when", ["at once", "half way"])
def test_a_failing_write_leaves_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, said: list[str]
) -> None:
    save_checkpoint(tmp_path, 1, state(1))

    def full(_: object, file) -> None:
        if when == "half way":
            file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="No space left"):
        save_checkpoint(tmp_path, 2, state(2))
    assert names(tmp_path) == ["step00000001.ckpt"]
    assert load_checkpoint(tmp_path)["step"] == 1
    assert not said


@pytest.fixture
def small_disk():
    """No file may grow beyond 100 kB: the write itself fails, inside torch, as on a full disk."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_keeps_the_previous_one(tmp_path: Path, small_disk, said: list[str]) -> None:
    save_checkpoint(tmp_path, 1, state(1))
    with pytest.raises(UserError, match="free some disk"):
        save_checkpoint(tmp_path, 2, {"w": torch.zeros(100_000)})
    assert [path.name for path in checkpoints(tmp_path)] == ["step00000001.ckpt"]
    assert load_checkpoint(tmp_path)["step"] == 1
    assert not said


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, small_disk) -> None:
    with pytest.raises(UserError, match="free some disk"):
        save_checkpoint(tmp_path, 2, {"w": torch.zeros(100_000)})
    assert names(tmp_path) == []


def test_a_kill_during_the_write_is_invisible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on disk at the moment before the rename: the old one whole, the new one under another name."""
    save_checkpoint(tmp_path, 1, state(1))
    seen = []
    replace = os.replace

    def watched(source: Path, target: Path) -> None:
        seen.append([path.name for path in checkpoints(tmp_path)])
        assert torch.load(source, weights_only=True)["step"] == 2  # complete before it gets its name
        replace(source, target)

    monkeypatch.setattr("src.training.checkpoint.os.replace", watched)
    save_checkpoint(tmp_path, 2, state(2))
    assert seen == [["step00000001.ckpt"]]


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_refused(tmp_path: Path, said: list[str]) -> None:
    folder = tmp_path / "c"
    save_checkpoint(folder, 1, state(1))
    torch.save({"step": 2, "bomb": Bomb(tmp_path / "exploded")}, folder / "step00000002.ckpt")
    assert load_checkpoint(folder)["step"] == 1
    assert not (tmp_path / "exploded").exists() and "step00000002.ckpt" in said[0]


def test_a_damaged_newer_one_does_not_push_out_a_good_one(tmp_path: Path, said: list[str]) -> None:
    save_checkpoint(tmp_path, 10, state(10), keep=1)
    (tmp_path / "step00000020.ckpt").write_bytes(b"torn")
    save_checkpoint(tmp_path, 15, state(15), keep=1)
    found = load_checkpoint(tmp_path)
    assert found is not None and found["step"] == 15


class Disk:
    """`torch.save` onto a disk that can be full, and that can be waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full, self.free, save = False, threading.Event(), torch.save
        self.free.set()

        def limited(content: object, file: IO[bytes]) -> None:
            assert self.free.wait(20)
            if self.full:
                raise OSError(28, "No space left on device")
            save(content, file)

        monkeypatch.setattr(torch, "save", limited)


def test_the_writer_does_not_keep_training_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    disk, writer = Disk(monkeypatch), CheckpointWriter(tmp_path, 2)
    disk.free.clear()
    writer.write(1, state(1))  # returns, though the disk does not
    assert not checkpoints(tmp_path)
    disk.free.set()
    writer.wait(strict=True)
    assert [path.name for path in checkpoints(tmp_path)] == ["step00000001.ckpt"]
    writer.wait(strict=True)  # again does no harm
    assert not said


def test_the_writer_writes_in_order_and_keeps_the_newest(tmp_path: Path, said: list[str]) -> None:
    writer = CheckpointWriter(tmp_path, 2)
    for step in range(1, 8):
        writer.write(step, state(step))
    writer.wait(strict=True)
    assert names(tmp_path) == ["step00000006.ckpt", "step00000007.ckpt"]
    found = load_checkpoint(tmp_path)
    assert found is not None and found["step"] == 7
    assert not said


def test_a_failing_write_is_reported_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    disk, writer = Disk(monkeypatch), CheckpointWriter(tmp_path, 2)
    for step, full in enumerate([False, True, True, True, False, True], 1):
        writer.wait()
        disk.full = full
        writer.write(step, state(step))
    writer.wait()
    assert names(tmp_path) == ["step00000001.ckpt", "step00000005.ckpt"]
    assert [line.split(":")[0] for line in said] == ["warning", "warning"], "one for each time that the disk was full"
    assert "step00000002.ckpt: cannot be written (No space left" in said[0]
    assert "step00000006.ckpt" in said[1] and said[1].endswith("training goes on")


def test_a_failing_write_is_an_error_when_it_is_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    disk, writer = Disk(monkeypatch), CheckpointWriter(tmp_path, 2)
    disk.full = True
    writer.write(1, state(1))
    with pytest.raises(UserError, match=r"step00000001\.ckpt: cannot be written"):
        writer.wait(strict=True)
    assert names(tmp_path) == []
    assert not said


class Averaged:
    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module


def test_what_is_written_is_a_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    """Training goes on while the disk is slow: the file has the state of its own step, and `restore` brings it back."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    ema, swa = Averaged(copy.deepcopy(network)), make_swa(network)
    optimizer = torch.optim.AdamW(network.parameters())
    learner = Learner(accelerator, network, optimizer, ema, swa, None)  # type: ignore[arg-type]

    def step() -> None:
        network(torch.randn(8, 3, 5, 5)).square().sum().backward()
        optimizer.step()
        swa.update_parameters(network)
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.module.parameters()), list(network.parameters()), 0.5)

    def everything() -> dict[str, Any]:
        parts = (network.state_dict(), optimizer.state_dict(), ema.module.state_dict(), swa.state_dict())
        return copy.deepcopy(dict(zip(("model", "optimizer", "ema", "swa"), parts, strict=True)))

    step()
    before, disk = everything(), Disk(monkeypatch)
    writer = CheckpointWriter(tmp_path, 2)
    disk.free.clear()
    writer.write(1, learner.snapshot())
    step()
    after = everything()
    disk.free.set()
    writer.wait(strict=True)
    found = load_checkpoint(tmp_path)
    assert found is not None

    def differing(one: Any, other: Any) -> int:
        if isinstance(one, dict):
            assert one.keys() == other.keys()
            return sum(differing(one[key], other[key]) for key in one)
        if isinstance(one, torch.Tensor):
            return int(not torch.equal(one, other))
        return int(one != other)

    for part, content in before.items():
        assert differing(found[part], content) == 0, part
        assert differing(after[part], content) > 0, part
    learner.restore(found)
    assert differing(everything(), before) == 0
    assert not said


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_bit_turned_over_within_a_tensor_is_noticed(tmp_path: Path, share: float, said: list[str]) -> None:
    save_checkpoint(tmp_path, 1, state(1))
    path = save_checkpoint(tmp_path, 2, {"w": torch.ones(100_000)})
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 1
    path.write_bytes(content)
    found = load_checkpoint(tmp_path)
    assert found is not None and found["step"] == 1 and len(said) == 1


def test_a_checkpoint_of_something_else_is_passed_over(tmp_path: Path, said: list[str]) -> None:
    save_checkpoint(tmp_path, 1, {"step": 1, "history": []})
    save_checkpoint(tmp_path, 2, {"step": 2})
    found = load_checkpoint(tmp_path, ("step", "history"))
    assert found is not None and found["step"] == 1 and "step00000002" in said[0]
