"""`doctor`: each check with answers of machines that are not here, and the whole verb on this one."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest

from src import cli
from src.config import CompetitionConfig
from src.diagnosis import device, host, places
from src.diagnosis.device import Card, Torch
from src.diagnosis.host import Disk
from src.errors import UserError
from src.model.weights import WeightsSource
from src.training import memory
from src.training.device import make_accelerator, runs_on

GB = 10**9
T4, P100 = Card("Tesla T4", (7, 5), 16 * GB, 16 * GB), Card("Tesla P100", (6, 0), 16 * GB, 16 * GB)
BUILT = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")


def torch_with(*cards: Card, cuda: str | None = "12.8") -> Torch:
    return Torch("2.10", cuda, BUILT if cuda else (), cards)


@pytest.mark.parametrize(
    ("capability", "built_for", "expected"),
    [
        ((6, 0), BUILT, False), ((7, 5), BUILT, True), ((7, 0), BUILT, False), ((8, 9), BUILT, True),
        ((10, 3), BUILT, True), ((6, 0), ("sm_60",), True), ((6, 1), ("sm_60",), True), ((6, 0), ("sm_61",), False),
        ((12, 0), ("sm_80", "compute_80"), True), ((7, 5), ("compute_80",), False),
        ((9, 0), ("sm_90a",), True), ((9, 1), ("sm_90a",), False), ((8, 0), (), False),
    ],
)  # fmt: skip
def test_kernels_of_a_card(capability: tuple[int, int], built_for: tuple[str, ...], expected: bool) -> None:
    assert runs_on(capability, built_for) == expected


def test_a_card_without_kernels_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, answer in {
        "is_available": True, "device_count": 1, "get_arch_list": list(BUILT), "get_device_capability": (6, 0),
        "get_device_name": "Tesla P100",
    }.items():  # fmt: skip
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *_, answer=answer: answer)
    for name in ("ISTPUVM", "PJRT_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"Tesla P100 is sm_60, .*NvidiaTeslaT4\), or say device=cpu"):
        make_accelerator("auto", "auto")


@pytest.mark.parametrize(
    ("torch", "listed", "wanted", "kaggle", "tpu", "level", "said"),
    [
        (torch_with(T4, T4), 2, "auto", True, False, "ok", "T4 (16.0 GB, sm_75), Tesla T4 (16.0 GB, sm_75); fp16"),
        (torch_with(T4, P100), 2, "auto", True, False, "problem", "Tesla P100 is sm_60"),
        (torch_with(P100), 1, "cuda", True, False, "problem", "NvidiaTeslaT4"),
        (torch_with(P100), 1, "cpu", True, False, "ok", "not used"),
        (torch_with(cuda=None), 1, "auto", False, False, "problem", "built for the CPU alone"),
        (torch_with(cuda=None), 1, "cpu", False, False, "ok", "none"),
        (torch_with(), 1, "auto", False, False, "problem", "cannot start CUDA"),
        (torch_with(), 0, "cuda", False, False, "problem", "device=cuda needs one"),
        (torch_with(), 0, "mps", False, False, "problem", "device=mps"),
        (torch_with(), 0, "auto", True, False, "warning", "GPU T4 x2"),
        (torch_with(), 0, "auto", True, True, "ok", "none"),
        (torch_with(), 0, "auto", False, False, "ok", "none"),
        (torch_with(Card("T4", (7, 5), 16 * GB, 3 * GB)), 1, "auto", True, False, "warning", "13.0 GB of 16.0 GB"),
        (Torch(wrong="ImportError: libcudart.so"), 1, "cpu", True, False, "problem", "libcudart"),
    ],
)  # fmt: skip
def test_the_card(torch: Torch, listed: int, wanted: str, kaggle: bool, tpu: bool, level: str, said: str) -> None:
    found = device.check_card(torch, listed, wanted, kaggle, tpu)
    assert found.level == level and said in found.line()
    assert (found.level == "ok") == (not found.cure)


@pytest.mark.parametrize(
    ("variables", "tpu", "xla", "wanted", "level", "said"),
    [
        ({}, False, False, "auto", "ok", "none"),
        ({"ISTPUVM": "1", "TPU_PROCESS_ADDRESSES": "local"}, True, True, "auto", "ok", "TPU_PROCESS_ADDRESSES=local"),
        ({"ISTPUVM": "1"}, True, False, "auto", "problem", "no torch_xla"),
        ({"ISTPUVM": "1"}, True, False, "cpu", "ok", "ISTPUVM=1"),
        ({}, False, True, "tpu", "problem", "device=tpu needs one"),
        ({"ISTPUVM": "1", "XLA_USE_BF16": "1"}, True, True, "auto", "problem", "unset XLA_USE_BF16"),
        ({"ISTPUVM": "1", "XLA_USE_BF16": "0"}, True, True, "auto", "ok", "ISTPUVM"),
    ],
)  # fmt: skip
def test_the_tpu(variables: dict, tpu: bool, xla: bool, wanted: str, level: str, said: str) -> None:
    found = device.check_tpu(variables, tpu, xla, wanted)
    assert found.level == level and said in found.line()


def test_variables_of_an_earlier_launcher() -> None:
    assert device.check_launch({"WORLD_SIZE": "2", "RANK": "0"}).level == "problem"
    assert device.check_launch({"WORLD_SIZE": "2", "RANK": "0", "TORCHELASTIC_RUN_ID": "x"}).level == "ok"
    assert device.check_launch({}).level == "ok"


def test_memory_and_shared_memory() -> None:
    assert [host.check_memory(free * GB, 31 * GB, 2, 1).level for free in (3, 5, 9)] == ["problem", "warning", "ok"]
    needed = host.bytes_on_their_way(64, 224, 3, 1, 4, 2)
    assert needed == 2 * 64 * 224 * 224 * 3 * 5 * 4 * 2
    docker = 64 * 10**6
    assert host.check_shared_memory(docker, needed, 4).level == "problem"
    assert "--shm-size" in host.check_shared_memory(docker, needed, 4).cure
    assert host.check_shared_memory(docker, 0, 0).level == "ok"
    assert host.check_shared_memory(None, needed, 4).level == "ok"


def test_disks_and_time(tmp_path: Path) -> None:
    disks = {
        "paths.cache": Disk(tmp_path, 3 * GB, True),
        "paths.runs": Disk(tmp_path, 0.5 * GB, True),
        "paths.submissions": Disk(tmp_path, 0.5 * GB, False),
    }
    assert [found.level for found in host.check_disks(disks, True)] == ["warning", "problem", "problem"]
    assert host.check_disks(disks, False)[0].level == "ok"
    there = host.read_disk(tmp_path / "not" / "there" / "yet")
    assert there.writable and there.free > 0 and not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    assert not host.read_disk(tmp_path / "file").writable
    levels = [host.check_session(left, "12h").level for left in (None, 7200.0, 600.0, -5.0)]
    assert levels == ["ok", "ok", "warning", "problem"]
    assert "2h00m left of 12h" in host.check_session(7200.0, "12h").seen


def test_both_schemes_of_mounts_are_seen(tmp_path: Path) -> None:
    inputs = ("digits", "competitions/leaf", "datasets/me/wheels", "notebooks/me/first", "models/timm/r18/pytorch/a1/1")
    for name in inputs:
        (tmp_path / name).mkdir(parents=True)
    mounts = places.attached(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in mounts} == set(inputs)
    assert places.attached(tmp_path / "none") == []
    assert places.check_mounts(tmp_path, [], True).level == "warning"
    assert places.check_mounts(tmp_path, mounts, True).level == "ok"
    wrong = places.check_competition(CompetitionConfig(root=str(tmp_path / "leaff")), mounts)
    assert wrong.level == "problem" and f"competition.root={tmp_path}/competitions/leaf?" in wrong.cure
    bare = places.check_competition(CompetitionConfig(root=str(tmp_path / "digits")), mounts)
    assert bare.level == "warning" and "holds no train_csv=train.csv" in bare.seen


def test_weights_wheels_and_secrets(tmp_path: Path) -> None:
    scratch = WeightsSource("scratch", why="training from scratch: no file")
    levels = [places.check_weights(found, how).level for found, how in (
        (scratch, "auto"), (scratch, "never"), (WeightsSource("hub", why="the hub"), "auto"), ("model=x: none", "auto"),
    )]  # fmt: skip
    assert levels == ["warning", "ok", "ok", "problem"]
    assert places.check_wheels([], ["hydra-core>=1"], ["hydra-core>=1"], False).level == "problem"
    assert places.check_wheels([], ["hydra-core>=1"], ["hydra-core>=1"], True).level == "ok"
    assert places.check_wheels([tmp_path], ["hydra-core>=1"], [], False).level == "ok"
    assert host.check_versions(["hydra-core>=1"], {"torch": "2.8"}, (3, 12), True).level == "problem"
    assert host.check_versions([], {"torch": "2.8"}, (3, 12), True).level == "ok"
    assert places.check_secrets(False, "online", True, True).level == "problem"
    assert [places.check_secrets(key, how, True, True).level for key, how in ((True, "online"), (False, "auto"))] == [
        "ok",
        "ok",
    ]
    assert places.check_internet(False, "online").level == "warning"
    assert places.check_internet(False, "auto").level == "ok"


@pytest.mark.parametrize(
    ("files", "limit", "free"),
    [
        ({"memory.max": "max", "memory.current": "5"}, None, 900),
        ({"memory.max": "500", "memory.current": "300", "memory.stat": "anon 1\ninactive_file 100\n"}, 500, 300),
        ({"memory.max": "9000", "memory.current": "300"}, 9000, 900),
        ({"memory/memory.limit_in_bytes": "400", "memory/memory.usage_in_bytes": "100"}, 400, 300),
        ({"memory/memory.limit_in_bytes": str(2**63 - 4096), "memory/memory.usage_in_bytes": "100"}, None, 900),
        ({}, None, 900),
    ],
)
def test_the_memory_of_a_container(
    files: dict, limit: int | None, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("psutil.virtual_memory", lambda: namedtuple("Memory", "available")(900))
    assert memory.memory_limit(tmp_path) == limit
    assert memory.free_memory(tmp_path) == free


# ---- the verb -------------------------------------------------------------------------------------------------------


def places_in(folder: Path) -> list[str]:
    return [f"paths.{name}={folder / name}" for name in ("runs", "cache", "submissions", "input")]


def test_a_healthy_machine_and_a_broken_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.model.hub.answers", lambda url, seconds: False)
    monkeypatch.setattr("src.training.memory.free_memory", lambda: 20 * GB)
    monkeypatch.setattr("src.recipes.doctor.free_memory", lambda: 20 * GB)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    words = [*places_in(tmp_path), "workers=0", "processes=1", "device=cpu"]
    assert cli.main(["doctor", *words]) == 0
    assert "nothing would go wrong" in capsys.readouterr().out
    for more, said in (
        (["competition=clothingg"], "problem  words        competition=clothingg: not in configs/competition"),
        (["model=resnet9000"], "timm has no such model"),
        (["epochs=-1"], "epochs=-1"),
        (["nonsense"], "expected key=value"),
        ([f"model.weights={tmp_path}/w.pth"], "there is no such file"),
        (["competition.root=/nowhere"], "competition.root=/nowhere: no such folder"),
    ):
        assert cli.main(["doctor", *words, *more]) == 2, more
        output = capsys.readouterr().out
        assert said in output and f"{tmp_path / 'runs'}" in output, output
    assert not list(tmp_path.iterdir()), "it writes nothing"


def test_a_broken_yaml_is_one_more_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text("defaults: [base\nepochs: {")
    monkeypatch.setattr("src.model.hub.answers", lambda url, seconds: False)
    monkeypatch.setattr("src.compose.CONFIGS", tmp_path)
    assert cli.main(["doctor", "workers=0", f"paths.runs={tmp_path}/runs"]) == 2
    output = capsys.readouterr().out
    assert output.count("problem  words") == 1 and f"{tmp_path}/runs" in output
