"""Crops made on a device against those of the loader's workers: the same boxes, the same pixels within one level."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import cv2
import numpy as np
import pytest
import torch

from src.config import Config
from src.data import on_device
from src.data.augment import Augment
from src.data.cache import ImageStore
from src.data.loader import Order, batches, training_batch
from src.data.on_device import Resident
from src.data.spec import ImageSpec
from src.errors import UserError
from src.fold import resident
from src.fold.resident import choose, made_before
from src.fold.resume import crops

CROP = Augment(crop_area=(0.08, 1.0), crop_ratio=(3 / 4, 4 / 3))
FLIP = CROP._replace(flip=True, vflip=True)
WARP = FLIP._replace(rotate=30, shear=10, zoom=0.3, shift=0.2)
# OpenCV 4 warps from places rounded to 1/32 pixel: 1/64 off (and 1/1024) in each direction, times a step of 255
FURTHEST = 1.0 if int(cv2.__version__.split(".")[0]) >= 5 else 9.0


class Noise:
    """A store of noise, in which neighbours differ as much as they can: photographs differ by less."""

    def __init__(self, spec: ImageSpec, longest: int = 150, count: int = 24) -> None:
        rng = np.random.default_rng(0)
        shapes = rng.integers(20, longest, (count, 2)).tolist()
        self.spec = spec
        self.images = [
            rng.integers(0, int(spec.full) + 1, (*shape, spec.channels)).astype(spec.dtype) for shape in shapes
        ]

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self, row: int) -> np.ndarray:
        return self.images[row]


def both(store: Any, order: Order) -> tuple[np.ndarray, np.ndarray]:
    """The images that workers and device make of an order, in levels of 255; they agree in all else."""
    workers, device = training_batch(store, order), Resident(store, np.arange(len(store)), "cpu").training_batch(order)
    assert workers.images.dtype == device.images.dtype and workers.images.shape == device.images.shape
    assert torch.equal(workers.rows, device.rows) and torch.equal(workers.readable, device.readable)
    assert workers.colour is not None and device.colour is not None and torch.equal(workers.colour, device.colour)
    return tuple(made.images[0].numpy() * (255 / store.spec.full) for made in (workers, device))  # type: ignore[return-value]


@pytest.mark.parametrize("size", [16, 48, 128], ids=["areas", "both", "enlarged"])
@pytest.mark.parametrize("augment", [Augment(), CROP, FLIP, WARP], ids=["whole", "crop", "flip", "warp"])
def test_pixels_are_the_same_within_a_level(augment: Augment, size: int) -> None:
    """At most 1, because both round; in the mean an eighth, because OpenCV rounds its weights to 11 bits as well."""
    workers, device = both(Noise(ImageSpec()), Order(np.arange(24)[::-1].copy(), size, augment, (7, size)))
    apart = np.abs(workers - device)
    assert apart.max() <= (FURTHEST if augment is WARP else 1.0)
    assert apart.mean() <= (1.0 if augment is WARP and FURTHEST > 1 else 0.15)
    assert workers.std() > 10, "there is something to compare"


@pytest.mark.parametrize(("channels", "samples"), [(1, "uint8"), (2, "uint8"), (5, "uint8"), (3, "uint16")])
@pytest.mark.parametrize("augment", [FLIP, WARP], ids=["straight", "warp"])
def test_any_channels_and_samples(augment: Augment, channels: int, samples: Any) -> None:
    store = Noise(ImageSpec(channels=channels, samples=samples))
    for size in (16, 48):
        workers, device = both(store, Order(np.arange(24), size, augment, (3, size)))
        assert np.abs(workers - device).max() <= (FURTHEST if augment is WARP else 1.0)


@pytest.mark.parametrize("augment", [CROP, WARP], ids=["straight", "warp"])
def test_erased_boxes_are_equal(augment: Augment) -> None:
    """Seen where workers and device paint noise with the grey of nothing."""
    store = Noise(ImageSpec())
    workers, device = both(store, Order(np.arange(24), 40, augment._replace(erase=0.6), (2,)))
    grey = (workers == store.spec.grey).all(-1)
    assert 0.02 < grey.mean() < 0.3
    np.testing.assert_array_equal(grey, (device == store.spec.grey).all(-1))


def test_pixels_lie_where_rows_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any rows of the store, in any order, with those that come twice, put there and worked on in several parts."""
    monkeypatch.setattr(on_device, "READ_AT_ONCE", 3)
    monkeypatch.setattr(on_device, "AT_ONCE", 20_000)
    store, rows = Noise(ImageSpec()), np.array([2, 3, 5, 7, 11, 13, 17])
    there = Resident(store, rows, "cpu", workers=2)  # type: ignore[arg-type]
    assert there.nbytes == sum(store.images[row].nbytes for row in rows)
    for augment in (CROP, WARP):
        order = Order(np.array([13, 2, 13, 17, 5, 2]), 32, augment, (4,))
        made = [path.images.numpy().astype(int) for path in (training_batch(store, order), there.training_batch(order))]  # type: ignore[arg-type]
        assert np.abs(made[0] - made[1]).max() <= (FURTHEST if augment is WARP else 1)


def test_tiny_pictures() -> None:
    """Of one pixel, one row, one column: reflected and repeated edges."""
    store = Noise(ImageSpec(), count=4)
    store.images = [store.images[0][:height, :width] for height, width in ((1, 1), (1, 9), (9, 1), (2, 3))]
    for augment in (FLIP, WARP):
        workers, device = both(store, Order(np.arange(4), 16, augment, (6,)))
        assert np.abs(workers - device).max() <= (FURTHEST if augment is WARP else 1)


def test_batches_come_from_the_device_where_images_lie_there() -> None:
    """Also of rows whose store is gone, and lazily: a function of the order alone, as those of workers."""
    store = Noise(ImageSpec())
    there = Resident(store, np.arange(24), "cpu")  # type: ignore[arg-type]
    orders = [Order(np.arange(step, step + 4), 24 + step, WARP, (step,)) for step in range(3)]
    made = list(batches(None, iter(orders), 2, None, there))  # type: ignore[arg-type]
    again = next(batches(None, iter(orders[1:]), 0, None, there))  # type: ignore[arg-type]
    assert [batch.images.shape[2] for batch in made] == [24, 25, 26] and torch.equal(made[1].images, again.images)


@pytest.mark.parametrize("augment", [CROP, WARP], ids=["straight", "warp"])
def test_mixed_precision_is_the_networks_alone(augment: Augment) -> None:
    """Products of pixels in bf16 would be wrong by several levels."""
    there = Resident(Noise(ImageSpec()), np.arange(24), "cpu")  # type: ignore[arg-type]
    order = Order(np.arange(8), 16, augment, (1,))
    with torch.autocast("cpu", torch.bfloat16):
        made = there.training_batch(order)
    assert torch.equal(made.images, there.training_batch(order).images)


def test_an_unreadable_image_is_named_while_images_are_put_there(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((9, 9, 3), np.uint8))
    (tmp_path / "1.png").write_bytes(b"no picture")
    store = ImageStore(tmp_path, np.array(["0.png", "1.png"], np.bytes_), 8)
    with pytest.raises(UserError, match=r"1\.png: not a readable image"):
        Resident(store, np.arange(2), "cpu", workers=2)


def test_what_images_take_at_most(tmp_path: Path) -> None:
    """Decoded ones by their size, others their slot in the cache, twice the square."""
    for row in range(3):
        cv2.imwrite(str(tmp_path / f"{row}.png"), np.zeros((10 + row, 12, 3), np.uint8))
    paths = np.array([f"{row}.png" for row in range(3)], np.bytes_)
    kept = ImageStore(tmp_path, paths, 16, tmp_path / "cache")
    assert kept.at_most(np.arange(3)) == 3 * 2 * 16 * 16 * 3
    kept.pixels(1)
    assert kept.at_most(np.array([0, 1])) == 2 * 16 * 16 * 3 + 11 * 12 * 3
    assert ImageStore(tmp_path, paths, 16).at_most(np.arange(2)) == 2 * 2 * 16 * 16 * 3


# ---- who makes the crops --------------------------------------------------------------------------------------------


def never() -> int:
    raise AssertionError("the device need not be tried")


@pytest.mark.parametrize(
    ("wanted", "before", "device", "transforms", "room", "expected"),
    [
        ("auto", None, "cuda", False, lambda: 100, "device"),
        ("auto", None, "cuda", False, lambda: 99, "workers"),
        ("auto", None, "cuda", True, never, "workers"),
        ("auto", None, "cpu", False, never, "workers"),
        ("auto", None, "mps", False, never, "workers"),
        ("auto", None, "xla", False, never, "workers"),
        ("auto", "workers", "cuda", False, never, "workers"),  # a resumed fold goes on as it began ...
        ("auto", "device", "cuda", False, lambda: 100, "device"),
        ("auto", "device", "cuda", False, lambda: 99, "workers"),  # ... where it can
        ("auto", "device", "cpu", False, never, "workers"),
        ("workers", "device", "cuda", False, never, "workers"),
        ("device", "workers", "cpu", False, lambda: 100, "device"),
        ("device", None, "cpu", False, lambda: 99, "beside training; use augment_on=workers"),
        ("device", None, "cuda", True, never, "albumentations"),
        ("device", None, "xla", False, never, "TPU"),
    ],
)
def test_who_makes_the_crops(
    wanted: str, before: str | None, device: str, transforms: bool, room: Callable[[], int], expected: str
) -> None:
    def need() -> int:
        assert room is not never, "nor is it asked what the images take"
        return 100

    def answer() -> str:
        return choose(wanted, before, device, transforms=transforms, need=need, room=room).on

    if expected in ("workers", "device"):
        assert answer() == expected
    else:
        with pytest.raises(UserError, match=expected) as caught:
            answer()
        assert str(caught.value).startswith("augment_on=device: ") and "\n" not in str(caught.value)


def test_a_card_is_tried_for_what_training_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what is free beside the dearest stage's step, of a batch and size that are its own."""
    taken: list[tuple[int, int]] = []

    @contextmanager
    def rehearsal(*args: Any) -> Iterator[Callable[[int, int], None]]:
        yield lambda batch, size: taken.append((batch, size))

    card = {"empty_cache": None, "mem_get_info": (1000, 5000), "memory_reserved": 50, "reset_peak_memory_stats": None}
    for name, answer in (card | {"max_memory_reserved": 350}).items():
        monkeypatch.setattr(torch.cuda, name, lambda *args, answer=answer: answer)
    monkeypatch.setattr(resident, "rehearsal", rehearsal)
    accelerator, start = SimpleNamespace(device=torch.device("cuda")), MagicMock()
    stages = [SimpleNamespace(batch_size=batch, size=size) for batch, size in ((64, 32), (32, 64), (8, 96))]
    plan = SimpleNamespace(stages=stages)
    assert resident.room_beside(Config(), start, start, plan, accelerator) == 350  # type: ignore[arg-type]
    assert taken == [(32, 64)] * 2, "the optimiser's state is there from the second step on"
    monkeypatch.setattr(resident, "free_memory", lambda: 80)
    accelerator.device = torch.device("cpu")
    assert resident.room_beside(Config(), start, start, plan, accelerator) == 40  # type: ignore[arg-type]


def test_who_made_them_is_remembered() -> None:
    assert made_before(None) is None and made_before({"step": 3}) == "workers"
    assert made_before({"step": 9, "augment_on": [[0, "workers"], [4, "device"]]}) == "device"
    assert crops(None, "device") == [[0, "device"]]
    assert crops({"step": 3}, "workers") == [[0, "workers"]]
    assert crops({"step": 3}, "device") == [[0, "workers"], [3, "device"]]
    assert crops({"step": 5, "augment_on": [[0, "device"]]}, "device") == [[0, "device"]]
