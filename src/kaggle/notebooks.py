"""The two notebooks: cells of plain Python, in which a command that fails ends the notebook."""

from __future__ import annotations

import base64
import json
import textwrap
from collections.abc import Sequence
from typing import Any

# The first cell of both. What is under WORK is the notebook's output: submission.csv, runs, folds, submissions and
# nothing else; the code and the decoded images lie on the scratch disk. MPLBACKEND is the kernel's own.
START = '''
import os, shutil, signal, subprocess
from pathlib import Path

INPUT = Path(os.environ.get("KAGGLE_INPUT_DIR", "/kaggle/input"))
WORK = Path(os.environ.get("KAGGLE_WORKING_DIR", "/kaggle/working"))  # kept as the notebook's output
CODE = Path(os.environ.get("KAGGLE_SCRATCH_DIR", "/tmp")) / "kfold"  # not kept
PLACES = [f"paths.{name}={WORK / name}" for name in ("runs", "folds", "submissions")] + [f"paths.cache={CODE}-cache"]


def run(*words):
    """A command of the pipeline: its output as it comes, an exception if it fails. Interrupted, it saves its state."""
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    with subprocess.Popen(["bash", "run.sh", *words], cwd=CODE, env=environment, text=True, errors="replace",
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            print(process.stdout.read())
            raise
    if process.returncode:
        raise RuntimeError(f"./run.sh {' '.join(words)}: exit code {process.returncode}, see above")
'''

UNPACK = """
import base64, io, tarfile

shutil.rmtree(CODE, ignore_errors=True)
with tarfile.open(fileobj=io.BytesIO(base64.b64decode(ARCHIVE)), mode="r:xz") as archive:
    archive.extractall(CODE, filter="data")
"""

# Kaggle unpacks archives that a data set is made of; both ways of mounting are looked through.
FIND = """
import tarfile

shutil.rmtree(CODE, ignore_errors=True)
depths = ["/".join("*" * depth) for depth in range(1, 5)]  # near ones first: images may lie deeper
names = [f"{depth}/{name}" for depth in depths for name in ("src/bootstrap.py", "kfold.tar.xz")]
there = next((path for name in names for path in INPUT.glob(name)), None)
if there is not None and there.name == "bootstrap.py":
    shutil.copytree(there.parent.parent, CODE, copy_function=shutil.copyfile)
    for folder in (CODE, *(path for path in CODE.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
elif there is not None:
    with tarfile.open(there) as archive:
        archive.extractall(CODE, filter="data")
elif REPOSITORY:
    subprocess.run(["git", "clone", "-q", "--depth", "1", REPOSITORY, str(CODE)], check=True)
else:
    raise RuntimeError(f"the code is not attached ({INPUT}): attach its data set")
"""

FOLDS = """
# folds that were made before, for the same data, count
(WORK / "folds").mkdir(parents=True, exist_ok=True)
for made in CODE.glob(f"folds/{COMPETITION}.csv"):
    if not (WORK / "folds" / made.name).exists():
        shutil.copyfile(made, WORK / "folds" / made.name)
"""

TRAIN = """
run(*WORDS, f"run={RUN}", f"competition.root={COMPETITION}", *PLACES)
"""

PREDICT = """
run("predict", *WORDS, f"run={RUN}", f"competition.root={COMPETITION}", *PLACES)
"""

REPORT = """
run("report", f"run={RUN}", f"competition.root={COMPETITION}", *PLACES)
"""

SUBMIT = """
shutil.copyfile(WORK / "submissions" / f"{RUN}.csv", WORK / "submission.csv")
print((WORK / "submission.csv").stat().st_size, "bytes:", WORK / "submission.csv")
"""


def training(competition: str, name: str, words: Sequence[str], code: bytes | str, report: bool) -> dict[str, Any]:
    """Train every fold, or go on with what an attached output of this notebook has.

    code: a tar.xz that travels inside, or the repository to clone where no data set of the code is attached.
    """
    told = (
        f"Training of `{name}`: folds, out-of-fold predictions and a submission. It ends in time; to go on in a next "
        "session attach this notebook's own output and run it again."
    )
    cells = [*_head(told, competition, name, words, code), FOLDS, TRAIN]
    return notebook([*cells, *([REPORT] if report else []), SUBMIT])


def inference(competition: str, name: str, words: Sequence[str], code: bytes | str) -> dict[str, Any]:
    """Predict the test rows that are there, with the run in an attached output; internet off. code: as above."""
    told = (
        f"Inference with `{name}`, internet off: attach the training notebook's output, and the data set of wheels. "
        "The test rows are those that are there when it runs."
    )
    return notebook([*_head(told, competition, name, words, code), PREDICT, SUBMIT])


def _head(told: str, competition: str, name: str, words: Sequence[str], code: bytes | str) -> list[str]:
    names = (
        f"COMPETITION = {competition!r}  # its slug, or 'auto': the one that is attached\n"
        f"RUN = {name!r}\nWORDS = {json.dumps(list(words), ensure_ascii=False)}  # keys of the pipeline\n"
    )
    if isinstance(code, str):
        return [f"# {told}", names + START, f"REPOSITORY = {code!r}\n" + FIND]
    lines = textwrap.wrap(base64.b64encode(code).decode(), 4000)
    archive = "\n".join(f"    {line!r}" for line in lines)
    return [f"# {told}", names + START, f"ARCHIVE = (\n{archive}\n)\n" + UNPACK]


def notebook(cells: Sequence[str]) -> dict[str, Any]:
    """nbformat 4.5: the first cell is text, the others are code."""
    made: list[dict[str, Any]] = []
    for number, text in enumerate(cells):
        source = text.strip().splitlines(keepends=True)
        cell: dict[str, Any] = {"cell_type": "code", "id": f"cell-{number}", "metadata": {}, "source": source}
        if number == 0:
            cell = {**cell, "cell_type": "markdown", "source": [text.removeprefix("# ")]}
        else:
            cell |= {"execution_count": None, "outputs": []}
        made.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def text_of(made: dict[str, Any]) -> str:
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def ready_made() -> dict[str, str]:
    """The two files in notebooks/, for a competition and a repository that are filled in by hand."""
    words = ["fold=all", "competition.metric=accuracy"]
    return {
        "training.ipynb": text_of(training("auto", "my-run", words, "YOUR_REPOSITORY", report=False)),
        "inference.ipynb": text_of(inference("auto", "my-run", [], "YOUR_REPOSITORY")),
    }
