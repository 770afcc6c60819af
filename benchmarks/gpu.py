"""All that a card can tell: loader, loop, fine-tuning and inference, from images on disk and on the card, against bare
loops on a fixed tensor and timm's step; precisions, layouts, torch.compile and CUDA graphs.

`python -m benchmarks.gpu root=DIR [sizes=64,128,224 precisions=fp32,fp16,bf16 batch=256 images=2048 steps=50 rounds=3]`

A figure that the card cannot give (no room, no bf16, no compiler) is left out with a line. device=cpu runs it without a
card, which measures nothing but shows that it works.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu_steps import FINETUNED, SCRATCH, Case, bare, graphed, loaded, ours, passed, predicted, timm_step
from benchmarks.loader import CROP
from benchmarks.rounds import RESULTS, arguments, images_below, in_turn, pin, ratio, report, run
from src.data.cache import ImageStore
from src.data.on_device import Resident
from src.errors import UserError
from src.training.device import loader_workers, natural_precision

# ours / theirs: name of the ratio, figure, figure it is divided by
RATIOS = (
    ("loader_device_over_workers", "load_device", "load_workers"),
    ("loop_over_bare", "loop_fixed", "bare"),
    ("loop_device_over_bare", "loop_device", "bare"),
    ("loop_workers_over_bare", "loop_workers", "bare"),
    ("compiled_loop_over_loop", "loop_compiled", "loop_fixed"),
    ("channels_last_over_contiguous", "bare", "bare_contiguous"),
    ("compiled_over_bare", "bare_compiled", "bare"),
    ("reduced_overhead_over_bare", "bare_reduced", "bare"),
    ("graph_over_bare", "bare_graph", "bare"),
    ("finetune_over_timm", "finetune_ours", "finetune_timm"),
    ("predict_over_bare", "predict_ours", "predict_bare"),
)


def main(words: Sequence[str]) -> Path:
    values = arguments(
        words, root="", device="cuda", model="resnet18", finetuned="tf_efficientnet_lite0", sizes="64,128,224",
        precisions="fp32,fp16,bf16", batch=256, images=2048, steps=50, rounds=3, cores=os.cpu_count() or 1,
        results=str(RESULTS),
    )  # fmt: skip
    device, root, precisions = values["device"], Path(values["root"]), values["precisions"].split(",")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: no GPU on this machine, so there is nothing to measure; device=cpu only tries it")
    pin(values["cores"])
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
    paths, workers = images_below(root, values["images"]), loader_workers("auto", 1, device)
    found: dict[str, list[float]] = {}
    for size in map(int, values["sizes"].split(",")):
        with tempfile.TemporaryDirectory() as folder:
            store, rows = ImageStore(root, paths, round(size / CROP), Path(folder)), np.arange(len(paths))
            resident = Resident(store, rows, device, workers)  # fills the cache as well
            for precision in precisions:
                case = Case(
                    values["model"], size, precision, values["batch"], values["steps"], device, store, resident, workers
                )
                works = measures(case, values["finetuned"], first=precision == precisions[0])
                there = {f"{name}_{size}_{precision}": work for name, work in works.items()}
                found |= in_turn({name: work for name, work in there.items() if can(name, work)}, values["rounds"])
            del resident
            free()
    card = torch.cuda.get_device_name() if device == "cuda" else "none"
    return report(
        "gpu", found, ratios_of(found), values["results"], card=card, batch=values["batch"], workers=workers,
        unit="img/s; predictions in eight views each",
    )  # fmt: skip


def measures(case: Case, finetuned: str, first: bool) -> dict[str, Callable[[], float]]:
    """Name -> images per second. What a loader makes is the same in all precisions: of the `first` alone. What has to
    be compiled is measured in the precision that the card is fast in."""
    tuned = dataclasses.replace(case, model=finetuned)
    found: dict[str, Callable[[], float]] = {}
    if first:
        found |= {f"load_{on}": partial(loaded, case, on) for on in ("workers", "device")}
    found |= {"bare": partial(bare, case), "bare_contiguous": partial(bare, case, torch.contiguous_format)}
    found |= {f"loop_{on}": partial(ours, case, SCRATCH, on) for on in ("fixed", "workers", "device")}
    found |= {"finetune_timm": partial(timm_step, tuned), "finetune_ours": partial(ours, tuned, FINETUNED, "fixed")}
    found |= {"predict_bare": partial(passed, case), "predict_ours": partial(predicted, case)}
    if case.device == "cuda":
        if case.precision != "fp16":
            found["bare_graph"] = partial(graphed, case)
        if case.precision == natural_precision("cuda"):
            found["bare_compiled"] = partial(bare, case, compiled="default")
            found["bare_reduced"] = partial(bare, case, compiled="reduce-overhead")
            found["loop_compiled"] = partial(ours, case, SCRATCH, "fixed", compiled=True)
    return {name: freed(work) for name, work in found.items()}


def can(name: str, work: Callable[[], float]) -> bool:
    """Whether a figure can be had, by trial, which also chooses kernels and compiles; else a line says why not."""
    try:
        work()
    except Exception as error:  # of cards, drivers and compilers
        print(f"  left out: {name} ({type(error).__name__}: {' '.join(str(error).split())[:160]})", flush=True)
        return False
    return True


def freed(work: Callable[[], float]) -> Callable[[], float]:
    """`work`, from a card that holds nothing of the figure before."""

    def fresh() -> float:
        free()
        return work()

    return fresh


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.compiler.reset()


def ratios_of(found: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Of RATIOS those of which both figures are there, by size and precision."""
    made = {}
    for name in found:
        figure, size, precision = name.rsplit("_", 2)
        for title, one, other in RATIOS:
            below = f"{other}_{size}_{precision}"
            if figure == one and below in found:
                made[f"{title}_{size}_{precision}"] = ratio(found[name], found[below])
    return made


if __name__ == "__main__":
    run(main)
