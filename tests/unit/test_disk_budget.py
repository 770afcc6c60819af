"""The disk that decoded images take: never more than was given, whatever the number of stores and processes."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from src.data.cache import ImageStore
from src.data.disk_budget import SLACK, DiskBudget

N, SIDE = 60, 80
BYTES = SIDE * SIDE * 3  # of a decoded picture


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for row in range(N):
        noise = np.random.default_rng(row).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
        assert cv2.imwrite(str(tmp_path / "images" / f"{row}.png"), noise)
    return tmp_path


def opened(root: Path, most: int | None, side: int = SIDE, competition: str = "a") -> ImageStore:
    paths = np.array([b"images/%d.png" % row for row in range(N)])
    return ImageStore(root, paths, side, root / "cache" / competition, budget=DiskBudget(root / "cache", most))


def on_disk(root: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in (root / "cache").rglob("*") if path.is_file())


def kept(store: ImageStore) -> int:
    assert store.file is not None
    return int(np.count_nonzero(np.fromfile(store.file.with_suffix(".shapes"), np.uint16)[::2]))


def read_all(store: ImageStore, rows: range = range(N)) -> None:
    plain = ImageStore(store.root, store.paths, store.short_side)
    for row in rows:
        np.testing.assert_array_equal(store.pixels(row), plain.pixels(row))


@pytest.mark.parametrize("most", [0, 100_000, 500_000, 10_000_000])
def test_never_more_than_the_budget_and_always_the_same_pixels(
    root: Path, most: int, capsys: pytest.CaptureFixture[str]
) -> None:
    store = opened(root, most)
    read_all(store), read_all(store)
    assert on_disk(root) <= most + 4096 * (most == 0)
    fitting = max(0, most - SLACK) // (BYTES + 8192)  # a picture of 19,200 bytes begins and ends within blocks
    assert min(N, fitting) <= kept(store) <= min(N, most // BYTES)
    printed = capsys.readouterr().out
    if kept(store) == N:
        assert printed == ""
    else:
        assert printed == (
            f"{store.file}: {kept(store)} of {N} decoded images are kept, the others are decoded each time "
            f"(cache_gb={most / 1e9:g} is used up; raise it, or delete what is not needed in {root}/cache)\n"
        )


def test_all_stores_of_all_competitions_count(root: Path) -> None:
    stores = [opened(root, 600_000, side, name) for side in (SIDE, SIDE // 2) for name in ("a", "b")]
    for row in range(N):  # in turn, as training and validation fill theirs
        for store in stores:
            store.pixels(row)
    assert 300_000 < on_disk(root) <= 600_000
    read_all(stores[0]), read_all(stores[3])
    late = opened(root, 600_000, SIDE, "c")
    read_all(late)
    assert kept(late) == 0 and on_disk(root) <= 600_000
    raised = opened(root, 10_000_000, SIDE, "c")  # and it goes on where it stopped
    read_all(raised)
    assert kept(raised) == N


def test_forked_processes_share_the_budget_and_report_once(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = opened(root, 500_000)
    store.pixels(0)  # opened before the fork, as loader workers find it
    children = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                read_all(store, range(number, N, 2))
                os._exit(0)
            finally:
                os._exit(1)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert 250_000 < on_disk(root) <= 500_000
    assert capfd.readouterr().out.count("decoded each time") == 1
    read_all(store)


def test_the_last_of_the_disk_is_left_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free = 10**9 + SLACK + 200_000

    def usage(_: object) -> object:
        return type("Usage", (), {"free": free - on_disk(root)})

    monkeypatch.setattr("src.data.disk_budget.shutil.disk_usage", usage)
    store = opened(root, None)
    assert 0 < store.share() < 1
    read_all(store)
    assert 5 <= kept(store) <= 11 and on_disk(root) <= 200_000 + SLACK
    assert "the disk of " in capsys.readouterr().out


def test_what_is_kept_already_needs_no_room(root: Path) -> None:
    store = opened(root, None)
    read_all(store)
    assert opened(root, on_disk(root)).share() > 0.7  # a square takes three quarters of the usual 4:3
    assert opened(root, 0).share() > 0.7
    assert opened(root, 0, SIDE // 2).share() == 0
