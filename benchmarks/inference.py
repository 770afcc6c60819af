"""Eight TTA views through the project's `predict` against eight bare forward passes over a fixed tensor.

`python -m benchmarks.inference root=DIR [images=512 model=resnet18 size=128 rounds=5 cores=2]`
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.loader import CROP, PREPROCESS
from benchmarks.rounds import RESULTS, arguments, images_below, in_turn, pin, rate, ratio, report, run
from src.data.cache import ImageStore
from src.inference.predict import predict
from src.inference.tta import parse_views
from src.training.device import make_accelerator


def main(words: Sequence[str]) -> Path:
    import timm

    values = arguments(
        words, root="", images=512, model="resnet18", size=128, batch=128, rounds=5, cores=2, results=str(RESULTS)
    )
    pin(values["cores"])
    torch.manual_seed(0)
    root, size, batch = Path(values["root"]), values["size"], values["batch"]
    paths, views = images_below(root, values["images"]), parse_views("d4")
    network = timm.create_model(values["model"], num_classes=10).to(memory_format=torch.channels_last).eval()
    accelerator = make_accelerator("cpu", "fp32")
    fixed = torch.randn(min(batch, len(paths)), 3, size, size).to(memory_format=torch.channels_last)

    with tempfile.TemporaryDirectory() as folder:
        store = ImageStore(root, paths, round(size / CROP), Path(folder), "mark")

        def ours() -> int:
            predict(
                network,
                store,
                np.arange(len(paths)),
                accelerator=accelerator,
                views=views,
                size=size,
                crop=CROP,
                batch_size=len(fixed),
                workers=0,
                preprocess=PREPROCESS,
            )
            return len(paths)

        def bare() -> int:
            passes = -(-len(paths) // len(fixed))
            with torch.no_grad():
                for _ in range(passes * len(views)):
                    network(fixed)
            return passes * len(fixed)

        began = time.perf_counter()
        ours()  # the first pass decodes
        first = time.perf_counter() - began
        rounds = in_turn({"bare": lambda: rate(bare), "ours": lambda: rate(ours)}, values["rounds"])
    ratios = {"tta8": ratio(rounds["ours"], rounds["bare"])}
    more = {"model": values["model"], "size": size, "images": len(paths), "cold_seconds": first}
    return report("inference", rounds, ratios, values["results"], unit="img/s, eight views each", **more)


if __name__ == "__main__":
    run(main)
