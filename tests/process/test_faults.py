"""Damaged checkpoints, a full disk, SIGTERM while predicting: training goes on or says why not; nothing is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.starts import Moment, Start, require_same, require_tidy, result

pytestmark = pytest.mark.process
WORDS = [
    "competition=digits",
    "stages=[{length: 6 steps, size: 0.75, rows: 0.5}, {length: 10 steps}]",
    "mix.mixup=0.2",
    "model.drop_rate=0.2",
    # not accuracy, so that a slip of the raw, EMA or SWA weights shows in the manifest, whichever are kept
    "competition.metric=log_loss",
    "average.swa_start=0.3",
    "average.swa_every=1 steps",
    "checkpoint.every=0.001",  # after each step
]
Command = Callable[..., list[str]]
Result = dict[str, Any]


@pytest.fixture(scope="module")
def unbroken(
    start_server: Any, command_in: Command, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Result, dict[str, int]]:
    """What an undisturbed run leaves behind, and the sizes of its files by name."""
    place = tmp_path_factory.mktemp("unbroken")
    code, output = Start(start_server, command_in(place, *WORDS), place / "log").end()
    assert code == 0, output
    return result(place, folds=1), {path.name: path.stat().st_size for path in place.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def killed(start_server: Any, command_in: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its second stage, with two checkpoints."""
    place = tmp_path_factory.mktemp("killed")
    at = Moment("os.rename", r"checkpoints/step0000001\d\.ckpt$", nth=2)
    code, output = Start(start_server, command_in(place, *WORDS), place / "log", at).end()
    assert code == -signal.SIGKILL, output
    assert len(list((place / "runs/r/fold0/checkpoints").glob("step*.ckpt"))) == 2
    return place


def go_on(server: Any, words: list[str], place: Path, expected: Result, **more: Any) -> str:
    code, output = Start(server, words, place / "log-again", **more).end()
    assert code == 0, output
    require_same(result(place, folds=1), expected)
    require_tidy(place)
    return output


# ---- damaged checkpoints --------------------------------------------------------------------------------------------


DAMAGES: dict[str, Callable[[Path], object]] = {
    "half of it": lambda path: os.truncate(path, path.stat().st_size // 2),
    "nothing": lambda path: os.truncate(path, 0),
    "gone": lambda path: path.unlink(),
    "garbage": lambda path: path.write_bytes(os.urandom(path.stat().st_size)),
    "zeros at the end": lambda path: path.write_bytes(path.read_bytes()[:-5000] + bytes(5000)),
    "some bits turned over": lambda path: path.write_bytes(turned(path.read_bytes())),
}


def turned(content: bytes) -> bytes:
    """A bit of each 100,000th byte, all of them within tensors, which torch does not notice by itself."""
    changed = bytearray(content)
    for at in range(100_000, len(changed) - 100_000, 100_000):
        changed[at] ^= 4
    return bytes(changed)


@pytest.mark.parametrize(
    ("damage", "both"), [*((damage, False) for damage in DAMAGES), ("gone", True), ("some bits turned over", True)]
)
def test_a_damaged_checkpoint_is_passed_over(
    damage: str,
    both: bool,
    start_server: Any,
    command_in: Command,
    killed: Path,
    unbroken: tuple[Result, dict[str, int]],
    tmp_path: Path,
) -> None:
    place = Path(shutil.copytree(killed, tmp_path / "place"))
    older, newest = sorted((place / "runs/r/fold0/checkpoints").glob("step*.ckpt"))
    for path in [older, newest] if both else [newest]:
        DAMAGES[damage](path)
    output = go_on(start_server, command_in(place, *WORDS), place, unbroken[0])
    assert (f"{newest} cannot be read" in output) == (damage != "gone")
    if both:
        assert "going on at step" not in output
        assert output.count("no checkpoint can be read; starting afresh") == (damage != "gone")
    else:
        assert f"going on at step {int(older.stem.removeprefix('step')) + 1} of 16" in output


# ---- a full disk ----------------------------------------------------------------------------------------------------


def test_checkpoints_that_do_not_fit_are_reported_once(
    start_server: Any, command_in: Command, unbroken: tuple[Result, dict[str, int]], tmp_path: Path
) -> None:
    expected, sizes = unbroken
    limit = sizes["weights.safetensors"] * 3 // 2  # a checkpoint holds them four times
    output = go_on(start_server, command_in(tmp_path, *WORDS), tmp_path, expected, file_limit=limit)
    assert output.count("warning: ") == 1
    warning = next(line for line in output.splitlines() if "warning: " in line)
    assert "ckpt: cannot be written" in warning and warning.endswith("training goes on")


def test_weights_that_do_not_fit_are_one_line(
    start_server: Any, command_in: Command, unbroken: tuple[Result, dict[str, int]], tmp_path: Path
) -> None:
    """A picture that does not fit ends nothing (test_nothing_lost.py); without its weights a fold is none."""
    expected, sizes = unbroken
    words = command_in(tmp_path, *WORDS, "cache=false")  # whose files are longer than these
    limit = sizes["weights.safetensors"] - 1
    code, output = Start(start_server, words, tmp_path / "log-full", file_limit=limit).end()
    assert code == 2, output
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "weights.safetensors" in errors[0] and "free some disk" in errors[0], output
    assert "Traceback" not in output and "Exception ignored" not in output
    folder = tmp_path / "runs/r/fold0"
    assert not (folder / "weights.safetensors").exists() and not (folder / "manifest.json").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    go_on(start_server, words, tmp_path, expected)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a disk of so many bytes, and makes it larger when called again."""
    folder = tmp_path / "disk"

    def mount(size: int) -> Path:
        again = folder.exists()
        folder.mkdir(exist_ok=True)
        how = f"size={size}" + ",remount" * again
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"cannot mount a small disk here: {done.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("room", ["artefacts", "pictures"])
def test_a_really_full_disk(
    room: str,
    tiny_disk: Callable[[int], Path],
    start_server: Any,
    command_in: Command,
    unbroken: tuple[Result, dict[str, int]],
    tmp_path: Path,
) -> None:
    """The disk of the runs and submissions has room for the artefacts but no checkpoint, or not even for those."""
    expected, sizes = unbroken
    small = sizes["weights.safetensors"] // 2
    place = tiny_disk(sizes["weights.safetensors"] + small if room == "artefacts" else small)
    words = command_in(place, *WORDS, f"paths.cache={tmp_path / 'cache'}")
    code, output = Start(start_server, words, tmp_path / "log").end()
    warnings = [line for line in output.splitlines() if "warning: " in line and ".png" not in line]
    assert len(warnings) == 1 and ".ckpt" in warnings[0], output
    assert "Traceback" not in output
    assert not list(place.rglob("*.tmp"))
    if room == "artefacts":
        assert code == 0, output
    else:
        assert code == 2, output
        assert [line for line in output.splitlines() if line.startswith("error: ")] == output.splitlines()[-1:]
        assert not (place / "runs/r/fold0/weights.safetensors").exists()
        tiny_disk(100_000_000)
    go_on(start_server, words, place, expected)


# ---- SIGTERM where nothing waits for it -----------------------------------------------------------------------------


def test_sigterm_during_the_test_prediction(
    start_server: Any, command_in: Command, unbroken: tuple[Result, dict[str, int]], tmp_path: Path
) -> None:
    words = command_in(tmp_path, *WORDS)
    at = Moment("open", r"/test/\d+\.png$", nth=35, signum=signal.SIGTERM)  # 30 are looked at when it starts
    code, output = Start(start_server, words, tmp_path / "log", at).end()
    assert code == -signal.SIGTERM, output
    assert " kept\n" in output
    assert "going on at step" in go_on(start_server, words, tmp_path, unbroken[0])


def test_sigterm_during_the_out_of_fold_prediction(
    start_server: Any, command_in: Command, unbroken: tuple[Result, dict[str, int]], tmp_path: Path
) -> None:
    """Seen from outside: it begins as soon as the weights are chosen."""
    for attempt in range(10):
        place = tmp_path / str(attempt)
        place.mkdir()
        words = command_in(place, *WORDS, "cache=false")
        start = Start(start_server, words, place / "log")
        while start.process.is_alive() and not (start.log.exists() and " kept\n" in start.log.read_text()):
            pass
        start.process.terminate()
        code, output = start.end()
        if code == -signal.SIGTERM and not (place / "runs/r/fold0/oof.npz").exists():
            assert "going on at step" in go_on(start_server, words, place, unbroken[0])
            return
    pytest.fail(f"never caught the prediction: {output}")
