"""Where the loader's time goes: microseconds per image of each step, on one core, with the ways that were not taken.

`python -m benchmarks.profile_loader root=DIR [images=256 batch=64 rounds=7 sizes=64,128,224]`; crops as in
benchmarks/loader.py, images cached.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional

from benchmarks.loader import AUGMENT, CROP, MEAN, STD, evaluate
from benchmarks.rounds import arguments, images_below, pin, run
from src.data.augment import crop_box, sample
from src.data.cache import ImageStore
from src.data.loader import Order, training_batch
from src.data.preprocess import product, to_input, transformed


def main(words: Sequence[str]) -> dict[str, float]:
    """Prints the table and returns it, microseconds by "size step"."""
    values = arguments(words, root="", images=256, batch=64, rounds=7, sizes="64,128,224")
    pin(1)
    root, table = Path(values["root"]), {}
    paths = images_below(root, values["images"])
    for size in map(int, values["sizes"].split(",")):
        with tempfile.TemporaryDirectory() as folder:
            store = ImageStore(root, paths, round(size / CROP), Path(folder))
            evaluate(store, size, 64)  # fills the cache
            for name, (count, work) in steps(store, size, values["batch"]).items():
                work()
                spent = []
                for _ in range(values["rounds"]):
                    began = time.perf_counter()
                    work()
                    spent.append(time.perf_counter() - began)
                table[f"{size} {name}"] = 1e6 * statistics.median(spent) / count
                print(f"{size:>4} px  {name:<44}{table[f'{size} {name}']:10.1f} us", flush=True)
    return table


def steps(store: ImageStore, size: int, count: int) -> dict[str, tuple[int, Callable[[], object]]]:
    """Name -> number of images and the work on them."""
    rows = np.random.default_rng(0).integers(0, len(store), count)
    draws = sample(AUGMENT, count, np.random.default_rng(0))
    pixels = [store.pixels(int(row)) for row in rows]
    boxes = [
        crop_box(*image.shape[:2], draws.area[i], draws.ratio[i], draws.centre[i]) for i, image in enumerate(pixels)
    ]
    crops = [image[top:bottom, left:right] for image, (top, left, bottom, right) in zip(pixels, boxes, strict=True)]
    batch = np.empty((count, size, size, 3), np.uint8)
    order = Order(rows, size, AUGMENT, (0,))
    made = training_batch(store, order)
    images, colour, mean, std = made.images[0], made.colour, torch.tensor(MEAN), torch.tensor(STD)
    assert colour is not None
    linear = (colour[:, :, :3] / (255 * std[:, None])).transpose(1, 2).contiguous()
    offset = (colour[:, :, 3] - mean) / std
    flat, floats = images.view(count, -1, 3), images.view(count, -1, 3).float()

    def resized(kind: int) -> Callable[[], object]:
        return lambda: [cv2.resize(crop, (size, size), batch[i], interpolation=kind) for i, crop in enumerate(crops)]

    def in_parts() -> None:
        out = torch.empty(count, size * size, 3)
        part = max(1, 2**18 // (3 * size * size))  # 1 MB of floats: within a core's cache
        for start in range(0, count, part):
            some = slice(start, start + part)
            torch.bmm(flat[some].float(), linear[some], out=out[some])
            out[some].view(-1, size, 3 * size).add_(offset[some].repeat(1, size)[:, None])

    def blocks(n: int) -> None:
        whole = torch.stack([torch.block_diag(*[matrix] * n) for matrix in linear])
        torch.bmm(images.view(count, -1, 3 * n).float(), whole)

    one_by_one = linear.transpose(1, 2).reshape(count, 3, 3, 1, 1)
    works: dict[str, Callable[[], object]] = {
        "sample: all random numbers": lambda: sample(AUGMENT, count, np.random.default_rng(0)),
        "fetch: pixels(row)": lambda: [store.pixels(int(row)) for row in rows],
        "crop_box": lambda: [
            crop_box(*image.shape[:2], draws.area[i], draws.ratio[i], draws.centre[i]) for i, image in enumerate(pixels)
        ],
        "resize: linear": resized(cv2.INTER_LINEAR),
        "resize: area (before; only where both shrink)": lambda: [
            cv2.resize(
                crop,
                (size, size),
                batch[i],
                interpolation=cv2.INTER_AREA if min(crop.shape[:2]) > size else cv2.INTER_LINEAR,
            )
            for i, crop in enumerate(crops)
        ],
        "flip: cv2.flip into place": lambda: [cv2.flip(image, 1, batch[i]) for i, image in enumerate(images.numpy())],
        "flip: numpy's stride (before)": lambda: np.copyto(batch, images.numpy()[:, :, ::-1]),
        "copy of a crop to its place (before)": lambda: np.copyto(batch, images.numpy()),
        "training_batch: all of these": lambda: training_batch(store, order),
        "to_input: training": lambda: to_input(images, mean, std, colour),
        "to_input: evaluation": lambda: to_input(images, mean, std),
        "  colour matrix: cv2.transform, on a CPU": lambda: transformed(
            images, linear.transpose(1, 2).contiguous(), offset
        ),
        "  colour matrix: one product, elsewhere": lambda: product(images, linear.transpose(1, 2).contiguous(), offset),
        "  uint8 to float": lambda: flat.float(),
        "  bmm alone": lambda: torch.bmm(floats, linear),
        "  baddbmm, offset of 3 values (before)": lambda: torch.baddbmm(offset[:, None], flat.float(), linear),
        "  bmm in parts of a core's cache": in_parts,
        "  cv2.transform": lambda: [
            cv2.transform(image.astype(np.float32), np.hstack([linear[i].T.numpy(), offset[i][:, None].numpy()]))
            for i, image in enumerate(images.numpy())
        ],
        "  1x1 convolution": lambda: [
            functional.conv2d(images[i : i + 1].permute(0, 3, 1, 2).float(), one_by_one[i], offset[i])
            for i in range(count)
        ],
        "  evaluation by three values (before)": lambda: (
            images.permute(0, 3, 1, 2).float().sub(255 * mean[:, None, None]).div(255 * std[:, None, None])
        ),
    }
    for n in (4, 8):
        if size * size % n == 0:
            works[f"  bmm of blocks of {n} pixels"] = lambda n=n: blocks(n)  # type: ignore[misc]
    found: dict[str, tuple[int, Callable[[], object]]] = {name: (count, work) for name, work in works.items()}
    found["evaluation: batch and to_input"] = (len(store), lambda: evaluate(store, size, count))
    return found


if __name__ == "__main__":
    run(main)
