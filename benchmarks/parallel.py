"""Folds side by side: `fold=all` with a process per core against one process, one thread each, and whether both predict
the same, bit by bit.

The whole command, from its start to the submission. `python -m benchmarks.parallel root=DIR [processes=2 folds=4 …]`
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.rounds import RESULTS, arguments, in_turn, pin, ratio, report, run, words_of_a_run
from benchmarks.training import run_command
from src.predictions import load_predictions

THREADS = 1


def main(words: Sequence[str]) -> Path:
    values = arguments(
        words,
        root="",
        model="resnet18",
        size=64,
        batch=64,
        epochs=3.0,
        folds=4,
        processes=2,
        rounds=1,
        results=str(RESULTS),
    )
    pin(values["processes"])
    with tempfile.TemporaryDirectory() as folder:
        place, names = Path(folder), (f"r{number}" for number in itertools.count())
        made: list[Path] = []

        def folds_per_hour(processes: int) -> float:
            made.append(place / "runs" / next(names))
            several = [f"processes={processes}", "parallel=folds", f"run={made[-1].name}", "fold=all"]
            return 3600 * values["folds"] / run_command([*common(values, place), *several], THREADS)

        short = common({**values, "epochs": 0.1}, place)
        run_command([*short, "fold=0", "run=first"], THREADS)  # decodes the images
        rounds = in_turn(
            {"one process": lambda: folds_per_hour(1), "side by side": lambda: folds_per_hour(values["processes"])},
            values["rounds"],
        )
        same = all(
            equal(made[0] / f"fold{k}", other / f"fold{k}") for other in made[1:] for k in range(values["folds"])
        )
    print(f"predictions of {len(made)} runs are {'' if same else 'NOT '}the same, bit by bit")
    ratios = {f"parallel_{values['processes']}": ratio(rounds["side by side"], rounds["one process"])}
    more = {name: values[name] for name in ("model", "size", "batch", "epochs", "folds", "processes")}
    return report(
        "parallel", rounds, ratios, values["results"], **more, threads=THREADS, bit_equal=same, unit="folds/h"
    )


def common(values: dict[str, object], place: Path) -> list[str]:
    """What both runs say to the command line."""
    words = [*words_of_a_run(place, str(values["root"])), f"model={values['model']}", "model.pretrained=never"]
    words += [f"size={values['size']}", f"batch_size={values['batch']}", f"epochs={values['epochs']}"]
    words += [f"folds.n={values['folds']}", "optimizer.name=sgd", "optimizer.lr=0.02", "stages=[{}]", "report=false"]
    return [*words, "time_budget=null", "workers=0", "precision=fp32"]


def equal(one: Path, other: Path) -> bool:
    """Whether the folds in two folders predict the same."""
    files = [(load_predictions(one / name), load_predictions(other / name)) for name in ("oof.npz", "test.npz")]
    return all(a.ids.tolist() == b.ids.tolist() and a.pred.tobytes() == b.pred.tobytes() for a, b in files)


if __name__ == "__main__":
    run(main)
