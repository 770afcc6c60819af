"""A notebook's machine: an interpreter that has what Kaggle's images bring and lacks what they lack, inputs that cannot
be written, no index, and notebooks run cell by cell."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

from tests.process.namespaces import as_container, may_mount

LACKS = ("hydra-core", "omegaconf", "antlr4-python3-runtime", "torch-pruning", "mlxtend", "wandb")
NO_INTERNET = "http://127.0.0.1:9/simple"  # nobody listens on the discard port

# Cell by cell in a kernel, as Kaggle does it; what the cells print, and the exception that ends them, are printed here.
KERNEL = """
import sys
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

notebook, failed = nbformat.read(sys.argv[1], as_version=4), None
nbformat.validate(notebook)
try:
    NotebookClient(notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()
except CellExecutionError as error:
    failed = f"{error.ename}: {error.evalue}"
for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
    if output.output_type == "stream":
        print(output.text, end="", file=sys.stdout if output.name == "stdout" else sys.stderr)
sys.exit(failed)
"""
# Where there is none (nbclient and ipykernel): the cells, one after the other.
PLAIN = """
import json, sys
space = {"__name__": "__main__"}
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), cell["id"], "exec"), space)
"""


def make_image(place: Path) -> Path:
    """A virtual environment with links to this one's packages, but for what images lack; its Python."""
    venv.create(place, with_pip=False, symlinks=True)
    ours = next((place / "lib").glob("python3*")) / "site-packages"
    hidden = {name for lacking in LACKS for name in top_names(lacking)}
    for entry in sorted(Path(sys.prefix, "lib", ours.parent.name, "site-packages").iterdir()):
        if entry.name not in hidden and not (ours / entry.name).exists():
            (ours / entry.name).symlink_to(entry)
    return place / "bin" / "python3"


def top_names(distribution: str) -> set[str]:
    """The files and folders of site-packages that belong to a package."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return set()
    return {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}


def repack(distribution: str, folder: Path) -> None:
    """The wheel of an installed pure package."""
    files = importlib.metadata.files(distribution) or []
    kept = [file for file in files if file.parts[0] != ".." and file.suffix != ".pyc"]
    info = next(file.parts[0] for file in kept if file.parts[0].endswith(".dist-info"))
    record = f"{info}/RECORD"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{info.removesuffix('.dist-info')}-py3-none-any.whl", "w") as archive:
        lines = []
        for file in kept:
            if str(file) in (record, f"{info}/INSTALLER", f"{info}/REQUESTED"):
                continue
            contents = Path(str(file.locate())).read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(contents).digest()).rstrip(b"=").decode()
            archive.writestr(str(file), contents)
            lines.append(f"{file},sha256={digest},{len(contents)}")
        archive.writestr(record, "\n".join([*lines, f"{record},,"]) + "\n")


def read_only(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)


def attach(source: Path, inputs: Path, place: str) -> Path:
    """A copy of a folder as it is mounted: below inputs, read-only."""
    target = inputs / place
    shutil.copytree(source, target)
    read_only(target)
    return target


def run_notebook(
    notebook: Path, python: Path, inputs: Path, output: Path, **more: str
) -> subprocess.CompletedProcess[str]:
    """Its code cells, one after the other, in a kernel if one is installed; an exception in one ends it. Where
    namespaces are allowed, the inputs are a read-only mount and the session begins with the notebook."""
    output.mkdir(parents=True, exist_ok=True)
    scratch = output.with_name(f"{output.name}-scratch")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PIP_", "KAGGLE_", "PYTHON"))
        and name not in ("VIRTUAL_ENV", "NO_ALBUMENTATIONS_UPDATE")
    }
    environment |= {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": NO_INTERNET,
        "PIP_RETRIES": "0",
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",
        "KAGGLE_INPUT_DIR": str(inputs),
        "KAGGLE_WORKING_DIR": str(output),
        "KAGGLE_SCRATCH_DIR": str(scratch),
        **{name: str(scratch / name.lower()) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")},
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "OMP_NUM_THREADS": "1",
        **more,
    }
    kernel = all(importlib.util.find_spec(name) for name in ("nbclient", "ipykernel"))
    command = [sys.executable, "-c", KERNEL if kernel else PLAIN, str(notebook)]
    if may_mount():
        command = as_container(inputs, command)
    return subprocess.run(command, env=environment, cwd=output, capture_output=True, text=True, timeout=600)


def cells_of(notebook: Path) -> list[dict[str, Any]]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]
