"""What a report shows of images, with the networks of finished folds: thumbnails, heat maps and pooled features.

On one device and without Accelerate, whose predictions wait for all processes: a report is made by the first alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from src.competition.tables import Competition
from src.config import Config
from src.data.cache import ImageStore
from src.data.loader import Order, evaluation_batch
from src.data.preprocess import Preprocess
from src.fold.explain import heat_maps
from src.fold.predictor import TrainedFold, load_network
from src.model.layers import without_classifier
from src.reporting.gallery import heated
from src.runs.folder import Runs, fold_folder
from src.runs.opening import open_images

SIDE, QUALITY = 128, 78  # of the JPEGs in a report
BATCH = 32


class Looker:
    """Images of a competition as a run's networks see them. size: pixels. A row of the test set stands behind the
    training rows."""

    def __init__(self, config: Config, competition: Competition, size: int) -> None:
        self.config, self.competition, self.size, self.crop = config, competition, size, config.eval.crop
        cuda = config.device in ("auto", "cuda") and torch.cuda.is_available()
        self.device = torch.device("cuda" if cuda else "cpu")
        self._stores = [self._open(config, rows.images) for rows in (competition.train, competition.test)]

    def _open(self, config: Config, images: np.ndarray) -> ImageStore:
        side = round(self.size / self.crop)
        return open_images(config, self.competition, images, short_side=side, unreadable="blank")

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """(n, S, S, C) samples of rows."""
        images, train = [], len(self.competition.train)
        for row in rows:
            store, own = (self._stores[0], row) if row < train else (self._stores[1], row - train)
            images.append(evaluation_batch(store, Order(np.array([own]), self.size, crop=self.crop)).images[0])
        return torch.cat(images)

    def thumbnails(self, rows: Sequence[int]) -> dict[int, bytes]:
        """JPEGs by row."""
        found = {}
        for start in range(0, len(rows), BATCH):
            part = list(rows[start : start + BATCH])
            pictures = self._stores[0].spec.visible(self.pixels(part).numpy())
            found.update({row: jpeg(picture) for row, picture in zip(part, pictures, strict=True)})
        return found

    def explained(
        self, trained: TrainedFold, rows: Sequence[int], columns: Sequence[int]
    ) -> dict[int, tuple[bytes, bytes | None]]:
        """JPEGs of rows and of what spoke for each one's column of the prediction, None without Grad-CAM."""
        spec = self._stores[0].spec
        network, preprocess = self._placed(trained)
        asked, steps = np.asarray(columns, np.int64), trained.outputs.width < len(self.competition.task.names)
        found: dict[int, tuple[bytes, bytes | None]] = {}
        possible = True
        for start in range(0, len(rows), BATCH):
            part = list(rows[start : start + BATCH])
            pixels = self.pixels(part)
            pictures = spec.visible(pixels.numpy())
            heat: Sequence[np.ndarray | None] = [None] * len(part)
            if possible:
                maps = heat_maps(network, preprocess, pixels, asked[start : start + BATCH], steps)
                possible = maps is not None
                heat = list(maps) if maps is not None else heat
            for row, picture, each in zip(part, pictures, heat, strict=True):
                warm = None if each is None else jpeg(heated(enlarged(picture), each))
                found[row] = jpeg(picture), warm
        return found

    def features(
        self, trained: TrainedFold, sides: Sequence[Sequence[int]], least: int, limit: float
    ) -> list[np.ndarray]:
        """Pooled features (n, D) of the rows of each side, as many of the first ones as `limit` seconds allow, but at
        least `least` of each."""
        network, preprocess = self._placed(trained)
        without_classifier(network)
        began = time.monotonic()
        found: list[list[np.ndarray]] = [[] for _ in sides]
        with torch.no_grad():
            for start in range(0, max(map(len, sides)), BATCH):
                if start >= least and time.monotonic() - began > limit:
                    break
                for side, own in zip(sides, found, strict=True):
                    if part := list(side[start : start + BATCH]):
                        x = network(preprocess(self.pixels(part)))
                        own.append(x.flatten(1).float().cpu().numpy())
        return [np.concatenate(own) for own in found]

    def _placed(self, trained: TrainedFold) -> tuple[nn.Module, Preprocess]:
        network = trained.network.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        return network, Preprocess(trained.normalisation, self.device, self._stores[0].spec)


def fold_network(runs: Runs, run: str, k: int) -> TrainedFold | None:
    """The network of fold k of a run, None if it has kept no weights."""
    return load_network(runs, run, k) if (fold_folder(runs, run, k) / "weights.safetensors").is_file() else None


def enlarged(picture: np.ndarray) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8 of a square picture."""
    smooth = cv2.INTER_CUBIC if picture.shape[0] >= 48 else cv2.INTER_NEAREST
    return cv2.resize(picture, (SIDE, SIDE), interpolation=smooth if picture.shape[0] < SIDE else cv2.INTER_AREA)


def jpeg(picture: np.ndarray) -> bytes:
    """A square (S, S, 3) uint8 picture, SIDE pixels wide."""
    bgr = cv2.cvtColor(enlarged(np.ascontiguousarray(picture)), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
