"""run.sh itself, in its own copy with a tiny command line behind it: no network, hand-written wheels as packages."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(importlib.util.find_spec("ensurepip") is None, reason="this Python cannot make environments"),
]

CLI = """
import json, os, signal, sys, time
here = {"argv": sys.argv[1:], "python": sys.executable, "prefix": sys.prefix, "cwd": os.getcwd(), "pid": os.getpid(),
        "quiet": os.environ.get("NO_ALBUMENTATIONS_UPDATE"), "fds": sorted(map(int, os.listdir("/dev/fd")))}
if "sleep" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print(json.dumps(here), flush=True)
while "sleep" in sys.argv:
    time.sleep(0.01)
"""


def write_wheel(folder: Path, name: str, version: str = "1.0", needs: tuple[str, ...] = ()) -> Path:
    """A pure wheel with one module that knows its version; `needs` are its own requirements."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(
        f"Requires-Dist: {n}\n" for n in needs
    )
    files = {
        f"{name}/__init__.py": f"version = {version!r}\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text)}\n"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(path, text)
    return wheel


def write_index(folder: Path, *wheels: Path) -> str:
    """A package index made of files; its address."""
    for wheel in wheels:
        page = folder / wheel.name.split("-")[0]
        page.mkdir(parents=True, exist_ok=True)
        shutil.copy(wheel, page)
        links = "".join(f'<a href="{file.name}">{file.name}</a>' for file in sorted(page.glob("*.whl")))
        (page / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")
    return folder.as_uri()


def write_checkout(folder: Path, *needs: str, dev: tuple[str, ...] = ()) -> Path:
    (folder / "src").mkdir(parents=True)
    shutil.copy(ROOT / "run.sh", folder)
    shutil.copy(ROOT / "src" / "bootstrap.py", folder / "src")
    (folder / "src" / "cli.py").write_text(CLI)
    (folder / "pyproject.toml").write_text(
        f"[project]\ndependencies = {json.dumps(needs)}\n[project.optional-dependencies]\ndev = {json.dumps(dev)}\n"
    )
    return folder


def environment(index: str, **more: str) -> dict[str, str]:
    """This process's variables without anything that would let the machine's own pip or Kaggle settings in."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PIP_", "KAGGLE_", "PYTHON")) and name != "VIRTUAL_ENV"
    }
    settings = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": index,
        "PIP_RETRIES": "0",
        "KAGGLE_INPUT_DIR": "/nowhere",
    }
    return {**inherited, **settings, **more}


NO_INTERNET = "http://127.0.0.1:9/simple"  # nobody listens on the discard port

Run = Callable[..., subprocess.CompletedProcess[str]]


def run(checkout: Path, *arguments: str, env: dict[str, str], **options) -> subprocess.CompletedProcess[str]:
    command = [str(checkout / "run.sh"), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False, **options)


def said(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def installs(checkout: Path) -> int:
    log = checkout / ".venv" / "install.log"
    return log.read_text().count("$ ") if log.exists() else 0


def site(checkout: Path) -> Path:
    return next((checkout / ".venv" / "lib").glob("python3*")) / "site-packages"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("index")
    wheels = [write_wheel(folder / "built", "needed", needs=("indirect",)), write_wheel(folder / "built", "indirect")]
    return write_index(folder / "simple", *wheels)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, index: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A checkout after its first start (made once: an environment takes seconds), and what that start said."""
    checkout = write_checkout(tmp_path_factory.mktemp("fresh") / "checkout", "needed>=1.0")
    return checkout, run(checkout, "fold=0", env=environment(index))


@pytest.fixture
def ready(tmp_path: Path, fresh: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    """A copy of the finished checkout, to break."""
    assert fresh[1].returncode == 0, fresh[1].stderr
    return Path(shutil.copytree(fresh[0], tmp_path / "checkout", symlinks=True))


def test_first_start_sets_up_and_runs(fresh: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    checkout, done = fresh
    here = said(done)
    assert here["argv"] == ["fold=0"]
    assert Path(here["prefix"]) == checkout / ".venv"
    assert here["quiet"] == "1"
    assert done.stderr == "setting up .venv (a few minutes, once) …\n"
    assert len(done.stdout.splitlines()) == 1  # pip's talk is in the log
    assert "Successfully installed" in (checkout / ".venv" / "install.log").read_text()
    assert installs(checkout) == 1
    assert (site(checkout) / "indirect" / "__init__.py").exists()


def test_second_start_installs_nothing_and_asks_nobody(ready: Path) -> None:
    (ready / "src" / "bootstrap.py").write_text("raise SystemExit('the stamp should have been enough')")
    done = run(ready, "runs", env=environment(NO_INTERNET))
    assert said(done)["argv"] == ["runs"]
    assert done.stderr == ""
    assert installs(ready) == 1


def test_called_through_a_symlink_from_another_folder(ready: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "link").symlink_to(ready / "run.sh")
    (tmp_path / "bin" / "go").symlink_to("../link")
    done = subprocess.run(
        ["bin/go", "a b", "c=[1,2]"],
        cwd=tmp_path,
        env=environment(NO_INTERNET),
        capture_output=True,
        text=True,
        check=False,
    )
    here = said(done)
    assert here["argv"] == ["a b", "c=[1,2]"]
    assert here["cwd"] == str(ready.resolve())


def test_signals_reach_python(ready: Path) -> None:
    process = subprocess.Popen(
        [ready / "run.sh", "sleep"], env=environment(NO_INTERNET), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        here = json.loads(process.stdout.readline())
        assert here["pid"] == process.pid
        assert 9 not in here["fds"]  # the set-up's lock is not carried into a day of training
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 143


def test_a_change_of_tool_settings_installs_nothing_but_a_new_package_is_added(ready: Path, tmp_path: Path) -> None:
    with (ready / "pyproject.toml").open("a") as file:
        file.write("[tool.ruff]\nline-length = 120\n")
    said(run(ready, env=environment(NO_INTERNET)))
    assert installs(ready) == 1
    pyproject = ready / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace('"needed>=1.0"', '"needed>=1.0", "more"'))
    said(run(ready, env=environment(write_index(tmp_path / "simple", write_wheel(tmp_path / "built", "more")))))
    assert installs(ready) == 2
    assert (site(ready) / "more").is_dir()


def test_verb_test_adds_the_dev_packages_and_hands_over_to_pytest(ready: Path, tmp_path: Path) -> None:
    pyproject = ready / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("dev = []", 'dev = ["pytest"]'))
    wheel = write_wheel(tmp_path / "built", "pytest")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("pytest/__main__.py", CLI)
    env = environment(write_index(tmp_path / "simple", wheel))
    assert said(run(ready, "test", "-k", "a or b", env=env))["argv"] == ["-k", "a or b"]
    assert said(run(ready, "test", "-n", "0", env=env))["argv"] == ["-n", "0"]
    assert said(run(ready, "test", env=env))["argv"] == ["-n", "logical", "--maxprocesses", "4", "--dist", "worksteal"]
    assert (ready / ".venv" / ".ready-dev").exists()
    done = run(ready, "fold=0", env=environment(NO_INTERNET))  # the plain start is ready too
    assert said(done)["argv"] == ["fold=0"]
    assert done.stderr == ""
    assert installs(ready) == 2


def test_packages_cut_short_are_completed(ready: Path, index: str) -> None:
    """Killed while copying: no stamp, one package without RECORD and with half its files, one not begun."""
    (ready / ".venv" / ".ready").unlink()
    packages = site(ready)
    (packages / "needed-1.0.dist-info" / "RECORD").unlink()
    (packages / "needed" / "__init__.py").unlink()
    shutil.rmtree(packages / "indirect")
    shutil.rmtree(packages / "indirect-1.0.dist-info")
    said(run(ready, env=environment(index)))
    for name in ("needed", "indirect"):
        assert (packages / name / "__init__.py").exists()
        assert (packages / f"{name}-1.0.dist-info" / "RECORD").exists()
    assert (ready / ".venv" / ".ready").exists()


def test_an_environment_without_pip_is_made_anew(ready: Path, index: str) -> None:
    """Killed while the environment itself was made."""
    (ready / ".venv" / ".ready").unlink()
    shutil.rmtree(site(ready) / "pip" / "_internal")
    said(run(ready, env=environment(index)))
    assert (site(ready) / "indirect" / "__init__.py").exists()


def test_two_first_starts_at_once(tmp_path: Path, index: str) -> None:
    if shutil.which("flock") is None:
        pytest.skip("no flock here")
    checkout = write_checkout(tmp_path / "checkout", "needed")
    command, env = [checkout / "run.sh", "fold=0"], environment(index)
    both = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert installs(checkout) == 1
    assert sum("waiting for it" in error for _, error in outputs) == 1


def test_internet_off_with_wheels_attached(ready: Path, tmp_path: Path) -> None:
    pyproject = ready / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace('"needed>=1.0"', '"needed>=1.0", "more"'))
    write_wheel(tmp_path / "input/datasets/me/wheels", "more", needs=("deeper",))
    write_wheel(tmp_path / "input/others", "deeper")
    env = environment(NO_INTERNET, KAGGLE_INPUT_DIR=str(tmp_path / "input"))
    said(run(ready, env=env))
    assert (site(ready) / "deeper").is_dir()


def test_internet_off_without_wheels_is_one_line(ready: Path) -> None:
    pyproject = ready / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace('"needed>=1.0"', '"needed>=1.0", "more", "even-more>=2"'))
    for env in (environment(NO_INTERNET), environment(NO_INTERNET, PIP_NO_INDEX="1")):
        done = run(ready, env=env)
        assert done.returncode == 2
        assert done.stdout == ""
        progress, line = done.stderr.splitlines()
        assert progress.startswith("setting up")
        assert line.startswith("error: cannot install more, even-more: ")
        assert "needed" not in line
        assert "turn the internet on" in line
        assert "attach a dataset of wheels" in line


def shell_script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A folder to be the whole PATH: what run.sh needs of a system, and no Python."""
    folder = tmp_path / "only"
    folder.mkdir()
    for name in ("bash", "env", "sh", "dirname", "readlink", "cksum", "flock", "rm"):
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    return folder


def test_no_python_is_one_line_with_the_cure(tmp_path: Path, bare_path: Path) -> None:
    checkout = write_checkout(tmp_path / "checkout")
    shell_script(bare_path / "python3", "echo 'shim: python3: command not found' >&2; exit 127")
    done = run(checkout, "fold=0", env=environment(NO_INTERNET, PATH=str(bare_path)))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: no Python 3.11, 3.12 or 3.13")
    assert len(done.stderr.splitlines()) == 2


def test_the_first_python_that_really_runs_is_taken(tmp_path: Path, bare_path: Path) -> None:
    checkout = write_checkout(tmp_path / "checkout")
    shell_script(bare_path / "python3", "echo 'shim: python3: command not found' >&2; exit 127")
    real = getattr(sys, "_base_executable", sys.executable)
    shell_script(bare_path / "python3.11", f'exec "{real}" "$@"')
    done = run(checkout, "fold=0", env=environment(NO_INTERNET, PATH=str(bare_path)))
    assert Path(said(done)["prefix"]) == checkout / ".venv"


# ---------------------------------------------------------------------------------------------------- Kaggle


@pytest.fixture
def notebook(ready: Path, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A notebook's interpreter with its own torch and numpy, and a checkout beside it that has no environment."""
    python = tmp_path / "image"
    shutil.move(ready / ".venv", python)
    packages = next((python / "lib").glob("python3*")) / "site-packages"
    for name, version in (("torch", "2.8.0+cpu"), ("numpy", "2.0.0")):
        with zipfile.ZipFile(write_wheel(tmp_path / "image-wheels", name, version)) as archive:
            archive.extractall(packages)
    # torch takes seconds to import, so run.sh must not: importing this one leaves a trace
    (packages / "torch" / "__init__.py").write_text("open(__file__ + '.imported', 'w').close()\n")
    yield python, packages
    assert not (ready / ".venv").exists()
    assert not (packages / "torch" / "__init__.py.imported").exists()
    for name, version in (("torch", "2.8.0+cpu"), ("numpy", "2.0.0")):
        assert [path.name for path in packages.glob(f"{name}-*.dist-info")] == [f"{name}-{version}.dist-info"]


def kaggle(index: str, python: Path, **more: str) -> dict[str, str]:
    path = f"{python / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return environment(index, PATH=path, KAGGLE_KERNEL_RUN_TYPE="Interactive", **more)


def require(checkout: Path, *needs: str) -> None:
    (checkout / "pyproject.toml").write_text(f"[project]\ndependencies = {json.dumps(needs)}\n")


def test_kaggle_interpreter_is_used_as_it_is_when_nothing_is_missing(notebook: tuple[Path, Path], ready: Path) -> None:
    python, _ = notebook
    require(ready, "torch>=2.9", "numpy>=1.26", "needed>=1.0")  # an older torch than asked for is kept all the same
    done = run(ready, "fold=0", env=kaggle(NO_INTERNET, python))
    assert Path(said(done)["prefix"]) == python
    assert done.stderr == ""


def test_kaggle_gets_what_it_lacks_and_nothing_newer(notebook: tuple[Path, Path], ready: Path, tmp_path: Path) -> None:
    python, packages = notebook
    require(ready, "torch>=2.8", "numpy>=1.26", "needed>=1.0", "more")
    built = tmp_path / "built"
    wheels = [write_wheel(built, "more", needs=("torch>=2.8", "numpy>=1.0"))]
    wheels += [write_wheel(built, name, "99.0") for name in ("torch", "numpy", "needed")]
    done = run(ready, "fold=0", env=kaggle(write_index(tmp_path / "simple", *wheels), python))
    assert Path(said(done)["prefix"]) == python
    assert done.stderr == "adding to this notebook's Python: more …\n"
    assert (packages / "more").is_dir()
    assert (packages / "needed-1.0.dist-info").is_dir()


def test_kaggle_refuses_a_package_that_would_replace_numpy(
    notebook: tuple[Path, Path], ready: Path, tmp_path: Path
) -> None:
    python, packages = notebook
    require(ready, "more")
    wheels = [
        write_wheel(tmp_path / "built", "more", needs=("numpy>=3",)),
        write_wheel(tmp_path / "built", "numpy", "99.0"),
    ]
    done = run(ready, "fold=0", env=kaggle(write_index(tmp_path / "simple", *wheels), python))
    assert done.returncode == 2
    assert "error: cannot install more" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (packages / "more").exists()


def test_kaggle_with_the_internet_off_and_wheels(notebook: tuple[Path, Path], ready: Path, tmp_path: Path) -> None:
    python, packages = notebook
    require(ready, "torch>=2.8", "more")
    write_wheel(tmp_path / "input" / "wheels", "more", needs=("deeper", "numpy"))
    write_wheel(tmp_path / "input" / "wheels", "deeper")
    write_wheel(tmp_path / "input" / "wheels", "numpy", "99.0")
    began = time.monotonic()
    env = kaggle(NO_INTERNET, python, KAGGLE_INPUT_DIR=str(tmp_path / "input"))
    assert said(run(ready, "fold=0", env=env))["argv"] == ["fold=0"]
    assert (packages / "deeper").is_dir()
    assert time.monotonic() - began < 60  # the index, which does not answer, was not asked


def test_kaggle_asks_for_what_the_verb_needs(notebook: tuple[Path, Path], ready: Path, tmp_path: Path) -> None:
    python, packages = notebook
    require(ready, "torch>=2.8", "more", "mlxtend")
    write_wheel(tmp_path / "input" / "wheels", "more")
    env = kaggle(NO_INTERNET, python, KAGGLE_INPUT_DIR=str(tmp_path / "input"))
    done = run(ready, "predict", "run=r", env=env)
    assert said(done)["argv"] == ["predict", "run=r"]
    assert done.stderr == "adding to this notebook's Python: more …\n"
    assert (packages / "more").is_dir()
    assert run(ready, "fold=0", env=env).stderr == "", "mlxtend, which cannot be had, is no reason to ask again"


def test_kaggle_without_torch_gets_its_own_environment(ready: Path, tmp_path: Path, index: str) -> None:
    image = tmp_path / "image"
    shutil.copytree(ready / ".venv", image, symlinks=True)
    done = run(ready, "fold=0", env=kaggle(index, image))
    assert Path(said(done)["prefix"]) == ready / ".venv"
