"""What EMA and SWA are worth, compared within a run: `python -m benchmarks.averages [seeds=1 runs=DIR] key=value …`.

Trains every fold with `average.compare=true`, the other keys as for `./run.sh`, and takes from each fold's manifest the
scores of the raw weights, of their moving average and of SWA: the same training, the same held-out rows, one view.
The differences are judged as `ablate` judges its own, paired over folds. Nothing is chosen, so nothing is too good. The
same command goes on where it was stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from src.cli import main as command
from src.files import read_json
from src.runs.folder import finished_folds, fold_folder
from src.search.effects import judged

PAIRS = (("ema", "raw"), ("swa", "raw"), ("swa", "ema"))
OWN = ("seeds", "runs")


def main(words: Sequence[str]) -> str:
    given = dict(word.split("=", 1) for word in words if word.partition("=")[0] in OWN)
    others = [word for word in words if word.partition("=")[0] not in OWN]
    runs, seeds = Path(given.get("runs", "runs")), range(int(given.get("seeds", 1)))
    names = [f"averages-{seed}" for seed in seeds]
    for seed, name in zip(seeds, names, strict=True):
        fixed = ["average.compare=true", "average.swa=true", f"seed={seed}", f"run={name}", "fold=all"]
        code = command(["train", *others, *fixed, f"paths.runs={runs}", "wandb.mode=disabled"])
        if code:
            raise SystemExit(code)
    text = table(runs, names)
    print(text)
    return text


def table(runs: Path, names: Sequence[str]) -> str:
    """Markdown: of each pair of kinds the mean difference over folds, its interval and the verdict."""
    scores: dict[int, list[Mapping[str, float]]] = {}
    sign, metric = 1, ""
    for name in names:
        for k in finished_folds(runs, name):
            manifest = read_json(fold_folder(runs, name, k) / "manifest.json")
            sign, metric = 1 if manifest["greater_is_better"] else -1, manifest["metric"]
            scores.setdefault(k, []).append(manifest["weights"])
    kinds = [kind for kind in ("raw", "ema", "swa") if all(kind in each for seeds in scores.values() for each in seeds)]
    pairs = {f"{a} - {b}": (a, b) for a, b in PAIRS if a in kinds and b in kinds}
    differences = {
        pair: {k: [sign * (each[a] - each[b]) for each in seeds] for k, seeds in scores.items()}
        for pair, (a, b) in pairs.items()
    }
    every = [each for seeds in scores.values() for each in seeds]
    means = " · ".join(f"{kind} {sum(each[kind] for each in every) / len(every):.4f}" for kind in kinds)
    lines = [
        f"{metric}, held out, means of {len(every)} folds: {means}",
        "",
        f"| | {metric} | 95 % interval | verdict | each fold |",
        "|---|---|---|---|---|",
    ]
    for pair, effect in judged(differences, folds_n=len(scores)).items():
        span = "–" if effect.low is None else f"{effect.low:+.4f} … {effect.high:+.4f}"
        each = " · ".join(f"{d:+.4f}" for values in differences[pair].values() for d in values)
        lines.append(f"| {pair} | {effect.mean:+.4f} | {span} | {effect.verdict} | {each} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
