"""Passes of networks over the test rows: each image read and decoded once for all of them, and all ended in time."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from src.competition.tables import Competition
from src.config import Config
from src.data.cache import ImageStore, fingerprint, has_room
from src.data.disk_budget import DiskBudget
from src.data.preprocess import Preprocess
from src.fold.backbone import load_backbone
from src.fold.batch_size import batch_size_or_default
from src.fold.network import on_device
from src.fold.pipeline import Network
from src.fold.predictor import load_network, make_predictor, unreadable_images
from src.inference.predict import fill_unreadable
from src.log import say
from src.model.layers import without_classifier
from src.runs.opening import cache_budget, image_spec
from src.training.device import from_main, make_accelerator
from src.training.interrupt import Interrupted, StopWish

Key = tuple[str, bool]
TOGETHER = 8  # batches of a process between two such questions
MARGIN = 1.1  # seconds of a pass as a multiple of what a trial says


class Ready(NamedTuple):
    """A network on its device, and the function (store, rows, views=, go_on=) that predicts with it."""

    predict: Callable[..., np.ndarray]
    prior: np.ndarray | None
    batch: int  # rows of all processes at a time


# ---- images ---------------------------------------------------------------------------------------------------------


@contextmanager
def open_stores(
    config: Config, competition: Competition, networks: Sequence[Network], accelerator: Any
) -> Iterator[dict[Key, ImageStore]]:
    """The test images for each network, by its key. A file is read once for all sizes that they are decoded to.

    Decoded images that the training has kept are used; others are kept in a folder that is removed at the end.
    """
    if not networks:  # a stack on columns and files alone
        yield {}
        return
    root, paths = Path(competition.root).resolve(), competition.test.images
    sides = {(image_spec(n.config.competition), n.short_side): n.config.competition.max_megapixels for n in networks}
    kept = Path(config.paths.cache) / competition.name
    known = [
        (kept / f"{fingerprint(root, paths, most)}-{side}{spec.suffix}.shapes").is_file()
        for (spec, side), most in sides.items()
    ]
    together = round(math.hypot(*(side for _, side in sides)))
    spec = next(iter(sides))[0]
    folder: Path | None = kept
    temporary: str | None = None
    if not (config.cache and all(known)):
        places = (Path(tempfile.gettempdir()), Path(config.paths.cache))
        if accelerator.is_main_process:
            place = next((place for place in places if has_room(place, len(paths), together, spec)), None)
            temporary = _new_folder(place) if place is not None else None
        temporary = from_main(accelerator, temporary)
        folder = None if temporary is None else Path(temporary)
        if folder is None:
            say(f"{kept}: the disk is too full for decoded test images; each network decodes them again")
    try:
        yield _stores(competition, networks, folder, cache_budget(config) if folder == kept else None)
    finally:
        if temporary is not None and accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)


def _new_folder(place: Path) -> str | None:
    try:
        place.mkdir(parents=True, exist_ok=True)
        return tempfile.mkdtemp(prefix="kfold-test-images-", dir=place)
    except OSError:
        return None


def _stores(
    competition: Competition, networks: Sequence[Network], folder: Path | None, budget: DiskBudget | None
) -> dict[Key, ImageStore]:
    made: dict[Any, ImageStore] = {}
    found = {}
    for network in networks:
        keys, side = network.config.competition, network.short_side
        spec, most = image_spec(keys), keys.max_megapixels
        # features have always been those of the grey stand-in where an image cannot be read
        unreadable: Literal["blank", "mark"] = "blank" if network.features else "mark"
        kind = (spec, side, unreadable, most)
        if kind not in made:
            images = competition.test.images
            made[kind] = ImageStore(competition.root, images, side, folder, unreadable, most, spec, budget)
        found[network.key] = made[kind]
    if folder is not None:
        for store in made.values():
            others = {other.file: other for other in made.values() if other.file != store.file}
            store.companions = list(others.values())
    return found


# ---- passes ---------------------------------------------------------------------------------------------------------


class Passes:
    """What goes over the test rows. end: time.time() at which all must be over, or None; wish: of a signal."""

    def __init__(self, competition: Competition, prior: np.ndarray, end: float | None, wish: StopWish) -> None:
        self.competition, self.prior, self.end, self.wish = competition, prior, end, wish
        self.rows = np.arange(len(competition.test))
        self.accelerator: Any = None
        self.precision = ""
        self.cost: dict[tuple[str, bool], float] = {}  # seconds of a pass in one view, by run and what is wanted
        self.decoding = 0.0  # seconds of what is still to be decoded
        self.told: set[str] = set()
        self.batches = 0

    def prepare(self, config: Config) -> Any:
        """The accelerator for the precision of that configuration."""
        if self.accelerator is None or config.precision != self.precision:
            self.accelerator, self.precision = make_accelerator(config.device, config.precision), config.precision
        return self.accelerator

    def load(self, network: Network) -> Ready:
        accelerator, config = self.prepare(network.config), network.config
        if network.features and network.fold < 0:
            model, normalisation = load_backbone(network.place)
            prior = None
            activation: Callable[..., Any] = _flat
        else:
            run = network.place.parent  # wherever it was found
            trained = load_network(run.parent, run.name, network.fold)
            model, normalisation, prior = trained.network, trained.normalisation, trained.prior
            activation = _flat if network.features else trained.outputs.predict
        if network.features:
            without_classifier(model)
        preprocess = Preprocess(normalisation, accelerator.device, image_spec(config.competition))
        predictor = make_predictor(config, accelerator, preprocess, activation)
        placed = on_device(model, accelerator)

        def predict(store: ImageStore, rows: np.ndarray, **more: Any) -> np.ndarray:
            return predictor(placed, store, rows, size=network.size, crop=network.crop, **more)

        batch = (config.eval.batch_size or 2 * batch_size_or_default(config)) * accelerator.num_processes
        return Ready(predict, prior, batch)

    def over(self, network: Network, store: ImageStore, most_views: int | None = None) -> tuple[np.ndarray, bool]:
        """(M, C) float32 predictions or features of all test rows, and whether all rows were reached in time; the
        others, and those whose image cannot be read, have the prior. Raises Interrupted where a signal asked for it."""
        ready, began = self.load(network), time.monotonic()
        views = network.views[:most_views]
        pred = ready.predict(store, self.rows, views=views, go_on=self.after_batch)
        whole = self.go_on()
        self.remember(network, (time.monotonic() - began) / len(views))
        if network.features:
            return pred, whole or not np.isnan(pred).any()
        prior = self.prior if ready.prior is None else ready.prior
        filled, without = fill_unreadable(pred, prior)
        whole = whole or not len(without)
        if whole and len(without):
            warning = unreadable_images(self.competition.test.ids[without])
            if warning not in self.told:
                self.told.add(warning)
                say(warning)
        return filled, whole

    def after_batch(self) -> bool:
        """`go_on`, which several processes ask each other only now and then."""
        self.batches += 1
        alone = self.accelerator.num_processes == 1
        return self.go_on() if alone or self.batches % TOGETHER == 0 else True

    def go_on(self) -> bool:
        """Whether there is time left, the same for all processes. Raises Interrupted in all of them."""
        late = self.end is not None and time.time() > self.end
        signum, late = from_main(self.accelerator, (self.wish.signum, late))
        if signum:
            raise Interrupted(signum, "stopped")
        return not late

    def remember(self, network: Network, seconds: float) -> None:
        """What a view of a whole pass has really cost; by then all is decoded."""
        self.cost[network.run, network.features] = MARGIN * seconds
        self.decoding = 0.0

    def try_out(self, networks: Sequence[Network], stores: dict[Key, ImageStore]) -> None:
        """Measure what a view of each kind of network costs, and decoding, on a batch of rows."""
        decoding = []
        for network in networks:
            if (network.run, network.features) in self.cost:
                continue
            if not self.go_on():
                return
            began, ready = time.monotonic(), self.load(network)
            loading, rows = time.monotonic() - began, self.rows[: ready.batch]
            seconds = []
            for _ in range(2):
                began = time.monotonic()
                ready.predict(stores[network.key], rows, views=network.views[:1], go_on=self.after_batch)
                seconds.append(time.monotonic() - began)
            batches = -(-len(self.rows) // ready.batch)
            self.cost[network.run, network.features] = MARGIN * batches * seconds[1] + loading
            decoding.append(max(0.0, seconds[0] - seconds[1]) * (batches - 1))
        self.decoding = min(decoding, default=0.0)  # a first batch also warms up

    def affordable(self, folds: Sequence[Sequence[Network]]) -> tuple[int, int]:
        """How many of the first `folds`, and how many views of each network there is time for."""
        if self.end is None or not folds:
            return len(folds), max((len(n.views) for fold in folds for n in fold), default=1)
        known: set[Key] = set()
        costs = []
        for fold in folds:
            new = [network for network in fold if network.key not in known]
            known |= {network.key for network in new}
            costs.append([(self.cost.get((network.run, network.features), 0.0), len(network.views)) for network in new])
        return from_main(self.accelerator, folds_and_views(costs, self.end - time.time() - self.decoding))


def folds_and_views(folds: Sequence[Sequence[tuple[float, int]]], left: float) -> tuple[int, int]:
    """How many folds, each with networks of (seconds per view, views), fit into `left` seconds, and with how many
    views: views are dropped before folds; at least one view stays."""
    most = max((views for fold in folds for _, views in fold), default=1)
    for views in range(most, 0, -1):
        seconds = np.cumsum([sum(each * min(views, own) for each, own in fold) for fold in folds])
        if seconds[-1] <= left:
            return len(folds), views
    return int((seconds <= left).sum()), 1


def _flat(x: Any) -> Any:
    return x.flatten(1)
