"""`./run.sh kaggle`: what is built, what the official command is asked, and what is noted of its answers."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from src.errors import UserError
from src.files import read_json, write_config, write_json
from src.kaggle.notebooks import inference, ready_made
from src.kaggle.pack import code_files, packed
from src.recipes.kaggle import kaggle

ROOT = Path(__file__).resolve().parents[2]

# What the official package's kernels_push and dataset_create_new read and refuse (version 2.2).
KERNEL_KEYS = {
    "id", "title", "code_file", "language", "kernel_type", "is_private", "enable_gpu", "enable_tpu", "enable_internet",
    "dataset_sources", "competition_sources", "kernel_sources", "model_sources", "machine_shape",
}  # fmt: skip
RETIRED = {"nvidiateslap100", "tpuv38", "tpu1vmv38", "tpuv232", "tpuv2256"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with no account and no official command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAGGLE_USERNAME", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("src.recipes.kaggle.packed", lambda: b"code")
    monkeypatch.setattr("src.kaggle.official.sys.executable", str(tmp_path / "bin" / "python"))
    return tmp_path


def command(place: Path, monkeypatch: pytest.MonkeyPatch, answers: str) -> Path:
    """An executable `kaggle` that notes its arguments, a line of JSON each, and prints answers; the notes' path."""
    log, script = place / "asked.jsonl", place / "bin" / "kaggle"
    script.parent.mkdir(exist_ok=True)
    script.write_text(
        "#!/usr/bin/env python3\nimport json, sys\nwords = sys.argv[1:]\n"
        f"print(json.dumps(words), file=open({str(log)!r}, 'a'))\n{answers}\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return log


def asked(log: Path) -> list[list[str]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


BUILD = ["build", "competition=leaf-classification", "name=leaves", "user=me", "wheels=none"]


@pytest.mark.parametrize(
    ("machine", "gpu", "tpu", "shape"),
    [
        ("gpu", True, False, "NvidiaTeslaT4"),
        ("t4x2", True, False, "NvidiaTeslaT4"),
        ("tpu", False, True, "TpuV5E8"),
        ("NvidiaL4", True, False, "NvidiaL4"),
        ("cpu", False, False, None),
    ],
)
def test_metadata_of_each_machine(place: Path, machine: str, gpu: bool, tpu: bool, shape: str | None) -> None:
    kaggle(*BUILD, f"machine={machine}", "datasets=[other/weights]", "internet=false", "size=64")
    training, inferring = (
        read_json(place / "notebooks/leaves" / part / "kernel-metadata.json") for part in ("training", "inference")
    )
    for part, values in (("training", training), ("inference", inferring)):
        assert set(values) == KERNEL_KEYS - (set() if shape else {"machine_shape"})
        assert values["id"] == f"me/leaves-{part}"
        assert re.sub(r"[^a-z0-9]+", "-", values["title"].lower()) == values["id"].partition("/")[2], "its slug"
        assert (values["language"], values["kernel_type"], values["is_private"]) == ("python", "notebook", True)
        assert (values["enable_gpu"], values["enable_tpu"], values.get("machine_shape")) == (gpu, tpu, shape)
        assert str(shape).lower() not in RETIRED
        assert values["enable_internet"] is False, "true unless it is said"
        assert values["competition_sources"] == ["leaf-classification"]
        assert values["dataset_sources"] == ["other/weights"]
        assert (place / "notebooks/leaves" / part / values["code_file"]).is_file()
    assert (training["kernel_sources"], inferring["kernel_sources"]) == ([], ["me/leaves-training"])


def test_the_official_package_takes_the_metadata(place: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Where it is installed: its own kernels_push, with a client that only notes what it is sent."""
    if importlib.util.find_spec("kaggle") is None:
        pytest.skip("the package kaggle is not installed")
    monkeypatch.setenv("KAGGLE_USERNAME", "me")
    monkeypatch.setenv("KAGGLE_KEY", "0" * 32)
    kaggle(*BUILD, "machine=tpu", "internet=false")
    from kaggle.api.kaggle_api_extended import KaggleApi

    sent: list[Any] = []

    @contextmanager
    def client() -> Iterator[Any]:
        answering = SimpleNamespace(save_kernel=sent.append)
        yield SimpleNamespace(kernels=SimpleNamespace(kernels_api_client=answering))

    monkeypatch.setattr(KaggleApi, "build_kaggle_client", lambda self: client())
    capsys.readouterr()
    for part in ("training", "inference"):
        KaggleApi().kernels_push(str(place / "notebooks/leaves" / part))
    assert capsys.readouterr() == ("", ""), "no title that is not the slug's, no retired machine"
    for part, request in zip(("training", "inference"), sent, strict=True):
        assert (request.slug, request.machine_shape) == (f"me/leaves-{part}", "TpuV5E8")
        assert (request.enable_tpu, request.enable_gpu, request.enable_internet) == (True, False, False)
        assert request.competition_data_sources == ["leaf-classification"] and request.is_private
    assert sent[1].kernel_data_sources == ["me/leaves-training"]


def test_data_sets_are_attached_and_described(place: Path) -> None:
    for name in ("wheels/a-1-py3-none-any.whl", "resnet18.safetensors"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("x")
    words = [f"wheels={place / 'wheels'}", "weights=resnet18.safetensors", "code=dataset", "model=resnet34"]
    kaggle(*BUILD[:-1], *words)
    folder = place / "notebooks/leaves"
    for part, file in (
        ("wheels", "a-1-py3-none-any.whl"),
        ("weights", "resnet18.safetensors"),
        ("code", "kfold.tar.xz"),
    ):
        values = read_json(folder / part / "dataset-metadata.json")
        assert (folder / part / file).is_file() and values["id"] == f"me/leaves-{part}"
        assert 6 <= len(values["title"]) <= 50 and len(values["licenses"]) == 1
    for part in ("training", "inference"):
        sources = read_json(folder / part / "kernel-metadata.json")["dataset_sources"]
        assert sources == ["me/leaves-wheels", "me/leaves-weights", "me/leaves-code"]
    text = (folder / "training/leaves-training.ipynb").read_text()
    assert "model=resnet34" in text and "fold=all" in text and "ARCHIVE" not in text


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "kaggle: ./run.sh kaggle build competition=SLUG"),
        (["biuld"], "biuld: no such word; did you mean 'build'"),
        (["build"], "which competition"),
        (["build", "competition=A B"], "competition=A B: small letters"),
        (["build", "competition=leaves"], "whose account. Give user=NAME"),
        ([*BUILD, "machine=t4"], "machine=t4: choose one of gpu, t4x2, tpu, cpu.*did you mean"),
        ([*BUILD, "epoch=3"], "epoch: there is no such key; did you mean 'epochs'"),
        ([*BUILD, "run=x"], "run=x: the notebook says that itself"),
        ([*BUILD[:-1], "wheels=nowhere"], "wheels=nowhere: no such folder"),
        ([*BUILD, "weights=none.pth"], "weights=none.pth: no such file"),
        ([*BUILD, "internet=no"], "internet=no: give true or false"),
        ([*BUILD, "name=b"], "name is given twice"),
        (["push", "name=none"], "name=none: which build"),
        (["push", "fold=1"], "fold: takes name, what"),
        (["submit"], "which run"),
        (["submit", "run=r"], "run=r: of which competition.*competition=SLUG"),
        (["submit", "run=r", "competition=c"], "submissions/r.csv: no such file"),
        (["status", "run=r"], "nothing of it was submitted"),
    ],
)
def test_what_cannot_be_meant_is_one_line_with_a_cure(place: Path, words: list[str], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        kaggle(*words)
    assert not list(place.rglob("*.ipynb"))


def test_without_the_official_command_the_cure_is_named(place: Path) -> None:
    kaggle(*BUILD)
    with pytest.raises(UserError, match="official command is not installed; pip install kaggle"):
        kaggle("push", "name=leaves")


def test_push_uploads_data_sets_and_then_the_notebook(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = command(place, monkeypatch, "print('ready' if words[:2] == ['datasets', 'status'] else 'done')")
    (place / "w.safetensors").touch()
    kaggle(*BUILD, "weights=w.safetensors")
    kaggle("push")
    folder = "notebooks/leaves"
    assert asked(log) == [
        ["datasets", "status", "me/leaves-weights"],
        ["datasets", "version", "-p", f"{folder}/weights", "--dir-mode", "zip", "-m", "made again"],
        ["kernels", "push", "-p", f"{folder}/training"],
    ]
    kaggle("push", "what=inference")
    assert asked(log)[3:] == [["kernels", "push", "-p", f"{folder}/inference"]]
    kaggle("status")
    assert asked(log)[4:] == [["kernels", "status", f"me/leaves-{part}"] for part in ("training", "inference")]


def test_a_push_that_fails_is_said(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(place, monkeypatch, "print('Kernel push error: quota used up')")  # with exit code 0
    kaggle(*BUILD)
    with pytest.raises(UserError, match=r"kaggle kernels push .*: Kernel push error: quota used up"):
        kaggle("push")


LISTING = """
import os
if words[1] == "submissions":
    lines = [json.loads(line) for line in open(os.path.join(os.path.dirname(os.path.dirname(__file__)), "asked.jsonl"))]
    message = next(line[line.index("-m") + 1] for line in lines if "-m" in line)
    times = sum(line[1] == "submissions" for line in lines)
    status, score = ("SubmissionStatus.PENDING", "") if times < 3 else ("SubmissionStatus.COMPLETE", "0.91")
    print("Warning: a newer version is there")
    print("fileName,date,description,status,publicScore,privateScore")
    print("r.csv,2026-01-02,older,SubmissionStatus.COMPLETE,0.5,0.4")
    print(f'r.csv,2026-01-03,"{message}",{status},{score},')
else:
    print("Successfully submitted")
"""


def test_submit_waits_for_the_score_and_notes_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = command(place, monkeypatch, LISTING)
    write_config(place / "runs/r/config.yaml", {"competition": {"name": "leaf-classification"}})
    write_json(place / "runs/r/cv.json", {"oof": 0.9})
    (place / "submissions").mkdir()
    (place / "submissions/r.csv").write_text("id,label\n")
    kaggle("submit", "run=r", "every=0.01")
    first, *polls = asked(log)
    assert first[:-1] == ["competitions", "submit", "-c", "leaf-classification", "-f", "submissions/r.csv", "-m"]
    assert first[-1].startswith("r cv 0.90000 ")
    assert polls == [["competitions", "submissions", "-c", "leaf-classification", "--csv"]] * 3
    (note,) = read_json(place / "runs/r/kaggle.json")["submissions"]
    assert (note["message"], note["public"], note["status"]) == (first[-1], "0.91", "SubmissionStatus.COMPLETE")
    kaggle("status", "run=r")
    assert len(asked(log)) == 5


def test_a_version_of_the_notebook_is_submitted_to_a_code_competition(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = command(place, monkeypatch, "print('done')")
    kaggle(*BUILD)
    kaggle("submit", "run=leaves", "version=3", "message=third", "wait=0")
    words = ["-k", "me/leaves-inference", "-v", "3", "-f", "submission.csv", "-m", "third"]
    assert asked(log) == [["competitions", "submit", "-c", "leaf-classification", *words]]


def test_the_code_that_travels_is_what_runs_and_no_more() -> None:
    names = code_files()
    assert {"run.sh", "pyproject.toml", "src/cli.py", "configs/config.yaml"} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "docs/", "benchmarks/", "runs/", "cache/"))]
    made = packed()
    assert made == packed() and len(made) < 700_000
    with tarfile.open(fileobj=BytesIO(made)) as archive:
        assert archive.getnames() == names


def test_the_notebooks_in_the_repository_are_those_that_are_made() -> None:
    for name, text in ready_made().items():
        assert (ROOT / "notebooks" / name).read_text(encoding="utf-8") == text, "made by src/kaggle/notebooks.py"
        assert len(text) < 50_000
    for cell in inference("c", "r", [], b"code")["cells"][1:]:
        compile("".join(cell["source"]), "cell", "exec")
        assert not any(line.startswith(("!", "%")) for line in cell["source"])
