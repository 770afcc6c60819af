"""One fold on two machines that share a folder: each is the first process of its own machine."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.files import read_json
from tests.process.starts import Start, require_tidy

pytestmark = pytest.mark.process


def test_one_fold_on_two_hosts(start_server: Any, command_in: Callable[..., list[str]], tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    words = command_in(tmp_path, "competition=digits", "device=cpu", "batch_size=auto", "epochs=1", "fold=all")
    hosts = [
        Start(start_server, words, tmp_path / f"host{rank}", environment={**shared, "RANK": str(rank)})
        for rank in range(2)
    ]
    ends = [host.end() for host in hosts]
    assert [code for code, _ in ends] == [0, 0], ends
    assert "2 x cpu" in ends[0][1] and "batch_size=auto: " in ends[0][1]
    assert not [line for line in ends[1][1].splitlines() if "fold" in line], "the first host's process talks"
    assert list(read_json(tmp_path / "runs/r/cv.json")["folds"]) == ["0", "1"]
    assert read_json(tmp_path / "runs/r/fold1/manifest.json")["processes"] == 2
    require_tidy(tmp_path)
