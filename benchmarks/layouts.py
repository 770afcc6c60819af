"""Unknown competition folders, one after the other: what `fold=0` makes of each, and how its submission is graded.

`python -m benchmarks.layouts root=OUT metrics=FILE grade='COMMAND {name} {submission}' [only=a,b results=FILE]`: every
OUT/NAME/public (or OUT/NAME) is a folder as it was handed out. FILE has a line "NAME METRIC" for each; COMMAND prints
the score of a submission and fails for one that would be refused. Each fold is trained by the command line alone, with
the metric's name and nothing else. A row is written as soon as it is known, and not made again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.rounds import arguments, run
from src.errors import UserError
from src.files import read_json


def main(words: Sequence[str]) -> list[dict[str, object]]:
    """Prints the table and returns its rows."""
    values = arguments(
        words, root="", metrics="", grade="", only="", results="cache/layouts.jsonl", place="cache/layouts"
    )
    root, results, place = Path(values["root"]), Path(values["results"]), Path(values["place"])
    if not values["metrics"] or not root.is_dir():
        raise UserError('layouts: give root=FOLDER metrics=FILE, with a line "NAME METRIC" for each folder below it')
    metrics = dict(line.split(maxsplit=1) for line in Path(values["metrics"]).read_text().splitlines() if line.strip())
    names = [name for name in (values["only"].split(",") if values["only"] else metrics) if name]
    results.parent.mkdir(parents=True, exist_ok=True)
    made = [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []
    for name in names:
        if any(row["name"] == name for row in made):
            continue
        folder = root / name / "public"
        row = one(name, folder if folder.is_dir() else root / name, metrics[name], place, values["grade"])
        made.append(row)
        with results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{name:14} {row['metric']:24} {row['seconds']:>6} s  {row['said']}", flush=True)
    return made


def one(name: str, folder: Path, metric: str, place: Path, grade: str) -> dict[str, object]:
    """Train fold 0 of a folder and grade its submission."""
    words = [f"paths.{key}={place / key}" for key in ("runs", "cache", "folds", "submissions")]
    command = [
        sys.executable,
        "-m",
        "src.cli",
        "fold=0",
        f"competition.root={folder}",
        f"competition.metric='{metric}'",
    ]
    began = time.monotonic()
    done = subprocess.run(
        [*command, f"run={name}", "wandb.mode=disabled", *words], capture_output=True, text=True, check=False
    )
    seconds = round(time.monotonic() - began)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"name": name, "metric": metric, "seconds": seconds, "training": None, "score": None, "said": said}
    manifest = read_json(place / "runs" / name / "fold0" / "manifest.json")
    said = ""
    if grade:
        submission = place / "submissions" / f"{name}.csv"
        graded = subprocess.run(
            grade.format(name=name, submission=submission), shell=True, capture_output=True, text=True, check=False
        )
        said = (graded.stdout + graded.stderr).strip().splitlines()[-1]
    training = round(manifest["seconds"]["training"])
    head = {"name": name, "metric": metric, "seconds": seconds}
    return {**head, "training": training, "score": manifest["score"], "said": said}


if __name__ == "__main__":
    run(main)
