"""Images per second on one core, to the normalised batch: ours, timm, torchvision v2, albumentations with cv2.

`python -m benchmarks.loader root=DIR [images=1024 rounds=5 sizes=64,128,224]`
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.rounds import RESULTS, arguments, images_below, in_turn, pin, rate, ratio, report, run
from src.config import StageConfig
from src.data.augment import Augment
from src.data.cache import ImageStore
from src.data.loader import batches, evaluation_orders
from src.data.preprocess import Preprocess
from src.data.spec import Normalisation
from src.training.stages import plan_stages, training_orders

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AUGMENT = Augment(
    crop_area=(0.08, 1.0), crop_ratio=(3 / 4, 4 / 3), flip=True, brightness=0.4, contrast=0.4, saturation=0.4
)
CROP = 0.875
PREPROCESS = Preprocess(Normalisation(MEAN, STD))


def main(words: Sequence[str]) -> Path:
    values = arguments(words, root="", images=1024, batch=64, rounds=5, sizes="64,128,224", results=str(RESULTS))
    pin(1)
    logging.disable(logging.WARNING)
    root, batch, rounds = Path(values["root"]), values["batch"], values["rounds"]
    paths, sizes = images_below(root, values["images"]), [int(size) for size in values["sizes"].split(",")]
    found: dict[str, list[float]] = {}
    ratios: dict[str, dict[str, float]] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            ours, epoch = ImageStore(root, paths, round(size / CROP), Path(folder)), iter(range(10**9))

            def cached(ours: Any = ours, size: int = size, epoch: Any = epoch) -> int:
                return train_epoch(ours, size, batch, next(epoch))

            def cold(size: int = size) -> int:
                with tempfile.TemporaryDirectory() as fresh:
                    return train_epoch(ImageStore(root, paths, round(size / CROP), Path(fresh)), size, batch, 0)

            cached()  # the first epoch fills the cache
            works: dict[str, Callable[[], int]] = {"ours_cached": cached, "ours_cold": cold}
            works |= {
                name: partial(drain, peer_loader(name, root, paths, size, batch))
                for name in ("timm", "torchvision", "albumentations")
            }
            works["ours_eval"] = partial(evaluate, ours, size, batch)
            works["timm_eval"] = partial(drain, peer_loader("timm", root, paths, size, batch, is_training=False))
            measures = {f"{name}_{size}": partial(rate, work) for name, work in works.items()}
            found |= in_turn(measures, rounds)
        for kind, peer in (("cached", "timm"), ("cold", "timm"), ("eval", "timm_eval")):
            ratios[f"loader_{kind}_{size}"] = ratio(found[f"ours_{kind}_{size}"], found[f"{peer}_{size}"])
        for peer in ("torchvision", "albumentations"):
            ratios[f"loader_cached_{size}_over_{peer}"] = ratio(found[f"ours_cached_{size}"], found[f"{peer}_{size}"])
    return report("loader", found, ratios, values["results"], images=len(paths), batch=batch, unit="img/s on one core")


def train_epoch(store: ImageStore, size: int, batch: int, seed: int) -> int:
    rows, strata = np.arange(len(store)), np.zeros(len(store), np.int64)
    stages = plan_stages([StageConfig()], rows=rows, strata=strata, epochs=1, size=size, batch_size=batch)
    for made in batches(store, training_orders(stages, AUGMENT, seed), 0, torch.device("cpu")):
        PREPROCESS(made.images[0], made.colour)
    return stages[-1].stop * batch


def evaluate(store: ImageStore, size: int, batch: int) -> int:
    for made in batches(store, evaluation_orders(np.arange(len(store)), batch, size, CROP), 0, torch.device("cpu")):
        PREPROCESS(made.images[0])
    return len(store)


def drain(loader: Iterable[Any]) -> int:
    return sum(len(images) for images, _ in loader)


class Files(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Image files through `read` and `transform`; the label is 0."""

    def __init__(self, root: Path, paths: np.ndarray, read: Callable[[str], Any], transform: Any = None) -> None:
        self.files, self.read, self.transform = [str(root / path.decode()) for path in paths], read, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.read(self.files[index])), 0


def peer_loader(name: str, root: Path, paths: np.ndarray, size: int, batch: int, is_training: bool = True) -> Any:
    """Another library's loader of the same files with the same augmentations, in this process."""
    from PIL import Image

    def pil(path: str) -> Any:
        with Image.open(path) as image:
            return image.convert("RGB")

    if name == "timm":
        # its create_dataset wants a folder per class; the loader is what is compared, so it gets the same list of files
        from timm.data import create_loader

        return create_loader(
            Files(root, paths, pil),  # type: ignore[arg-type]
            input_size=(3, size, size),
            batch_size=min(batch, len(paths)),
            is_training=is_training,
            color_jitter=0.4,
            hflip=0.5,
            scale=AUGMENT.crop_area,
            ratio=AUGMENT.crop_ratio,
            interpolation="bilinear",
            crop_pct=CROP,
            num_workers=0,
            use_prefetcher=False,
            persistent_workers=False,
            device=torch.device("cpu"),
        )
    data: Any
    if name == "torchvision":
        from torchvision.transforms import v2

        steps = [
            v2.ToImage(),
            v2.RandomResizedCrop(size, AUGMENT.crop_area, AUGMENT.crop_ratio, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.4, 0.4, 0.4),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
        data = Files(root, paths, pil, v2.Compose(steps))
    else:
        import albumentations as A
        from albumentations.pytorch import ToTensorV2

        pipeline = A.Compose(
            [
                A.RandomResizedCrop((size, size), scale=AUGMENT.crop_area, ratio=AUGMENT.crop_ratio),
                A.HorizontalFlip(p=0.5),
                A.ColorJitter((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (0, 0), p=1),
                A.Normalize(MEAN, STD),
                ToTensorV2(),
            ]
        )
        data = Files(
            root, paths, lambda path: cv2.imread(path, cv2.IMREAD_COLOR_RGB), lambda x: pipeline(image=x)["image"]
        )
    return torch.utils.data.DataLoader(data, batch, shuffle=True, drop_last=len(paths) >= batch)


if __name__ == "__main__":
    run(main)
