"""Pictures of any number of channels and of 8 or 16 bits: read, kept, cut, normalised, built for and predicted."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import adapt_input_conv

from src.data.augment import Augment, centre_view, sample
from src.data.cache import ImageStore, has_room
from src.data.loader import Order, Window, evaluation_batch, training_batch
from src.data.preprocess import Preprocess
from src.data.spec import RGB, ImageSpec, Normalisation, example_input
from src.data.statistics import pixel_statistics
from src.errors import UserError
from src.inference.predict import predict
from src.inference.tta import VIEWS
from src.model.backbone import build_model
from src.model.weights import WeightsSource
from src.training.device import make_accelerator

SIX, DEEP, ONE = ImageSpec(6, "uint8"), ImageSpec(6, "uint16"), ImageSpec(1, "uint8")
SPECS = [RGB, SIX, DEEP, ONE, ImageSpec(1, "uint16"), ImageSpec(2, "uint8")]
IDS = [f"{spec.channels}x{spec.samples}" for spec in SPECS]
WILD = Augment(
    crop_area=(0.3, 0.9), crop_ratio=(0.8, 1.25), flip=True, vflip=True, rotate=30.0, shear=10.0, zoom=0.2, shift=0.1,
    brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1, pca=0.1, erase=0.5,
)  # fmt: skip


def picture(spec: ImageSpec, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth (H, W, C) samples over the whole range, other ones in each channel."""
    coarse = np.random.default_rng(seed).random((5, 6, spec.channels))
    fine = np.stack([cv2.resize(coarse[..., k], (width, height)) for k in range(spec.channels)], 2)
    return (fine * spec.full).round().astype(spec.dtype)


def as_npy(array: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def folder_of(root: Path, spec: ImageSpec, count: int = 5) -> tuple[ImageStore, list[np.ndarray]]:
    """A store of .npy files of different shapes, kept in a cache, and what they hold."""
    images = [picture(spec, 40 + 7 * i, 60 - 5 * i, i) for i in range(count)]
    for i, image in enumerate(images):
        (root / f"{i}.npy").write_bytes(as_npy(image))
    names = np.array([f"{i}.npy".encode() for i in range(count)])
    return ImageStore(root, names, 32, root / "cache", spec=spec), images


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_arrays_of_every_layout(spec: ImageSpec) -> None:
    image = picture(spec, 20, 26)
    layouts = [image, np.moveaxis(image, 2, 0), np.asfortranarray(image)]
    layouts += [image[..., 0]] if spec.channels == 1 else []
    for layout in layouts:
        found = spec.read(as_npy(layout), 20)
        assert found.dtype == spec.dtype and found.flags.c_contiguous
        np.testing.assert_array_equal(found, image)


def test_channels_last_where_both_would_do() -> None:
    image = picture(SIX, 6, 12)
    np.testing.assert_array_equal(SIX.read(as_npy(image), 6), image)


@pytest.mark.parametrize("spec", [SIX, DEEP])
def test_a_large_array_is_shrunk_channel_by_channel(spec: ImageSpec) -> None:
    image = picture(spec, 80, 120)
    found = spec.read(as_npy(image), 20)
    assert found.shape == (20, 30, 6) and found.dtype == spec.dtype
    naive = image.astype(float).reshape(20, 4, 30, 4, 6).mean((1, 3))
    assert np.abs(found - naive).max() <= 1


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 255]], np.uint8), [0, 65535]),
        (np.array([[0.0, 0.5, 1.0]]), [0, 32768, 65535]),
        (np.array([[0.0, 51.0, 255.0]]), [0, 13107, 65535]),
        (np.array([[0.0, 30000.0]], np.float32), [0, 30000]),
        (np.array([[-5, 100, 32767]], np.int16), [0, 200, 65535]),
        (np.array([[False, True]]), [0, 65535]),
        (np.array([[np.nan, 1.0]]), [0, 65535]),
    ],
)
def test_other_kinds_of_numbers(array: np.ndarray, expected: list[int]) -> None:
    assert ImageSpec(1, "uint16").read(as_npy(np.repeat(array, 2, axis=0)), 2)[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((8, 9, 5), "holds an array of 8 x 9 x 5, but competition.channels=6"),
        ((8, 9), "holds an array of 8 x 9, but competition.channels=6"),
        ((2, 8, 9, 6), "2 x 8 x 9 x 6"),
        ((0, 9, 6), "0 x 9 x 6"),
        ((400, 9, 6), "above competition.max_megapixels"),
    ],
)
def test_arrays_that_are_not_of_the_competition(shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(UserError) as error:
        SIX.read(as_npy(np.zeros(shape, np.uint8)), 8, max_megapixels=0.003, name="a/b.npy")
    assert str(error.value).startswith("a/b.npy: ") and says in str(error.value) and "\n" not in str(error.value)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_pickles_are_refused_and_never_run(tmp_path: Path) -> None:
    array = np.empty((2, 2), object)
    array[:] = Bomb(tmp_path / "exploded")
    with pytest.raises(UserError, match=r"x\.npy: not a readable array \(.*pickle") as error:
        SIX.read(as_npy(array, allow_pickle=True), 8, name="x.npy")
    assert not (tmp_path / "exploded").exists() and "\n" not in str(error.value)


@pytest.mark.parametrize("cut", [3, 10, 60, -1])
def test_damaged_arrays(cut: int) -> None:
    with pytest.raises(UserError) as error:
        SIX.read(as_npy(picture(SIX, 8, 8))[: max(cut, 6) if cut > 0 else cut], 8, name="x.npy")
    assert str(error.value).startswith("x.npy: ") and "\n" not in str(error.value)


def test_pictures_of_one_channel_are_the_luma() -> None:
    rgb = picture(RGB, 30, 40)
    png = cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()
    found = ONE.read(png, 30)
    assert found.shape == (30, 40, 1)
    assert np.abs(found[..., 0] - rgb @ np.array([0.299, 0.587, 0.114])).max() <= 1
    deep = picture(ImageSpec(1, "uint16"), 30, 40)
    grey = cv2.imencode(".png", deep[..., 0])[1].tobytes()
    np.testing.assert_array_equal(ImageSpec(1, "uint16").read(grey, 30), deep)
    assert np.abs(ONE.read(grey, 30) - deep / 257).max() <= 1
    with pytest.raises(UserError, match=r"image: holds 3 channels, but competition\.channels=6; set it to"):
        SIX.read(png, 30)


# ---- the store ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_what_is_kept_is_what_was_read(spec: ImageSpec, tmp_path: Path) -> None:
    store, images = folder_of(tmp_path, spec)
    expected = [spec.read(as_npy(image), 32) for image in images]
    for _ in range(2):  # from the file, then from the cache
        for row, image in enumerate(expected):
            found = store.pixels(row)
            assert found.dtype == spec.dtype
            np.testing.assert_array_equal(found, image)
        for row in range(len(images)):
            (tmp_path / f"{row}.npy").unlink(missing_ok=True)


def test_stores_of_other_kinds_do_not_share_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(as_npy(picture(SIX, 32, 32)))
    names = np.array([b"a.npy"])
    files = [ImageStore(tmp_path, names, 32, tmp_path / "cache", spec=spec).file for spec in (RGB, *SPECS[1:])]
    assert len(set(files)) == len(files)


def test_room_for_the_cache_counts_channels_and_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def needed(spec: ImageSpec) -> float:
        low, high = 0.0, 1e12
        while high - low > 1:
            free = (low + high) / 2
            monkeypatch.setattr(
                "src.data.cache.shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free})
            )
            low, high = (low, free) if has_room(tmp_path, 1000, 90, spec) else (free, high)
        return high - 1e9

    for spec in SPECS:
        assert needed(spec) == pytest.approx(1000 * 90 * 120 * spec.channels * spec.dtype.itemsize, abs=2)


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_what_cannot_be_read_is_mid_grey_and_marked(spec: ImageSpec, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(as_npy(picture(spec, 32, 32)))
    (tmp_path / "b.npy").write_bytes(b"\x93NUMPY torn")
    store = ImageStore(tmp_path, np.array([b"a.npy", b"b.npy"]), 32, tmp_path / "cache", "mark", spec=spec)
    found = evaluation_batch(store, Order(np.array([0, 1]), 16))
    assert found.readable.tolist() == [True, False]
    middle = {"uint8": 128, "uint16": 32768}[spec.samples]
    assert (store.pixels(1) == middle).all() and (found.images[0, 1] == middle).all()


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_statistics(spec: ImageSpec, tmp_path: Path) -> None:
    store, _ = folder_of(tmp_path, spec)
    found = pixel_statistics(store, np.arange(5))
    shares = [store.pixels(row) / spec.full for row in range(5)]
    mean = np.mean([each.mean((0, 1)) for each in shares], 0)
    np.testing.assert_allclose(found.mean, mean)
    np.testing.assert_allclose(found.std, np.sqrt(np.mean([(each**2).mean((0, 1)) for each in shares], 0) - mean**2))


# ---- batches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
@pytest.mark.parametrize("shape", [(32, 40), (50, 34)])
def test_augmented_channels_go_the_same_way(spec: ImageSpec, shape: tuple[int, int], tmp_path: Path) -> None:
    """Each channel of a batch is what a picture of that channel alone would have become by the same draws."""
    image, order = picture(spec, *shape), Order(np.array([0, 0, 0, 0]), 24, WILD, (4, 2))

    def made(array: np.ndarray, kind: ImageSpec, name: str) -> Any:
        (tmp_path / name).write_bytes(as_npy(array))
        return training_batch(ImageStore(tmp_path, np.array([name.encode()]), 32, spec=kind), order)

    whole = made(image, spec, "whole.npy")
    assert whole.images.shape == (1, 4, 24, 24, spec.channels) and whole.images.numpy().dtype == spec.dtype
    assert whole.colour.shape == (4, spec.channels, spec.channels + 1) and whole.readable.all()
    boxes = (sample(WILD, 4, np.random.default_rng((4, 2)), spec.channels).erase * 24).round().astype(int)
    grey = {3: spec.grey}.get(spec.channels, np.full(spec.channels, round(np.mean([124, 116, 104]) / 255 * spec.full)))
    erased = 0
    for k in range(spec.channels):
        alone = made(image[..., k], ImageSpec(1, spec.samples), f"{k}.npy").images[0, ..., 0].numpy().astype(int)
        found = whole.images[0, ..., k].numpy().astype(int)
        for i, (top, left, bottom, right) in enumerate(boxes):
            assert (found[i, top:bottom, left:right] == grey[k]).all()
            found[i, top:bottom, left:right] = alone[i, top:bottom, left:right]
            erased += (bottom - top) * (right - left)
        assert np.abs(found - alone).max() <= spec.full / 255
    assert erased


def test_colour_of_other_than_three_channels_is_brightness_and_contrast(tmp_path: Path) -> None:
    store, _ = folder_of(tmp_path, DEEP)
    batch = training_batch(store, Order(np.arange(5), 16, WILD, (1,)))
    draws = sample(WILD, 5, np.random.default_rng((1,)), 3)
    plain = sample(WILD._replace(hue=0.0, pca=0.0, saturation=0.0), 5, np.random.default_rng((1,)), 3)
    assert batch.colour is not None
    scale = np.einsum("bkk->bk", plain.colour[:, :, :3])[:, 0]
    for k in range(6):
        np.testing.assert_allclose(batch.colour[:, k, k], scale, rtol=1e-5)
        np.testing.assert_allclose(batch.colour[:, k, 6], plain.colour[:, 0, 3], rtol=1e-5)
    assert (batch.colour[:, ~np.eye(6, 7, dtype=bool) & (np.arange(7) < 6)] == 0).all()
    assert (draws.area == plain.area).all()


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_evaluation_windows(spec: ImageSpec, tmp_path: Path) -> None:
    store, _ = folder_of(tmp_path, spec)
    windows = (Window(), Window((0.0, 1.0), 1.2), Window(squash=True))
    found = evaluation_batch(store, Order(np.array([3, 1, -1]), 20, crop=0.875, windows=windows)).images.numpy()
    assert found.shape == (3, 3, 20, 20, spec.channels) and found.dtype == spec.dtype and not found[:, 2].any()
    for i, row in enumerate((3, 1)):
        pixels = store.pixels(row)
        np.testing.assert_array_equal(found[0, i], centre_view(pixels, 20, 0.875))
        np.testing.assert_array_equal(found[1, i], centre_view(pixels, 20, 0.875 / 1.2, (0.0, 1.0)))
        for k in range(spec.channels):
            alone = cv2.resize(pixels[..., k], (20, 20), interpolation=cv2.INTER_AREA)
            assert np.abs(found[2, i, ..., k].astype(int) - alone).max() <= spec.full / 255


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
@pytest.mark.parametrize("coloured", [False, True])
def test_preprocess_is_the_formula(spec: ImageSpec, coloured: bool) -> None:
    rng, channels = np.random.default_rng(0), spec.channels
    mean, std = rng.uniform(0.2, 0.6, channels), rng.uniform(0.1, 0.4, channels)
    images = rng.integers(0, int(spec.full) + 1, (2, 5, 5, channels)).astype(spec.dtype)
    colour = rng.normal(0, 1, (2, channels, channels + 1)).astype(np.float32)
    preprocess = Preprocess(Normalisation(tuple(mean), tuple(std)), spec=spec)
    found = preprocess(torch.from_numpy(images), torch.from_numpy(colour) if coloured else None)
    assert found.shape == (2, channels, 5, 5) and found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    for i, y, x in np.ndindex(2, 5, 5):
        v = images[i, y, x].astype(float) / spec.full
        if coloured:
            v = colour[i, :, :channels] @ v + colour[i, :, channels]
        np.testing.assert_allclose(found[i, :, y, x], (v - mean) / std, atol=1e-4)


def test_normalisation_for_other_channels() -> None:
    imagenet = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert RGB.for_channels(imagenet) is imagenet
    found = SIX.for_channels(imagenet)
    assert found.mean == pytest.approx((0.449,) * 6) and found.std == pytest.approx((0.226,) * 6)
    assert ONE.for_channels(imagenet).mean == pytest.approx((0.449,))


def test_something_to_look_at() -> None:
    image = picture(DEEP, 4, 5)
    assert (DEEP.visible(image) == np.round(image[..., :3] / 257).astype(np.uint8)).all()
    for spec in (ONE, ImageSpec(2)):
        seen = spec.visible(picture(spec, 4, 5))
        assert seen.shape == (4, 5, 3) and (seen == picture(spec, 4, 5)[..., :1]).all()


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_the_input_of_trials(spec: ImageSpec) -> None:
    found = example_input(spec, 3, 16)
    assert found.shape == (3, spec.channels, 16, 16) and found.is_contiguous(memory_format=torch.channels_last)
    assert found.dtype == torch.float32 and not found.any()


# ---- networks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [ONE, SIX, RGB], ids=["1", "6", "3"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_weights_for_rgb_become_some_for_other_channels(spec: ImageSpec, name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    rgb = timm.create_model(name, num_classes=7)
    save_file(rgb.state_dict(), tmp_path / "rgb.safetensors")
    source = WeightsSource("file", tmp_path / "rgb.safetensors")
    model, normalisation = build_model(name, 5, source, spec=spec)
    first = str(rgb.pretrained_cfg["first_conv"]) + ".weight"
    state = model.state_dict()
    expected = rgb.state_dict()[first] if spec == RGB else adapt_input_conv(spec.channels, rgb.state_dict()[first])
    torch.testing.assert_close(state[first], expected)
    for key, tensor in rgb.state_dict().items():
        if key != first and state[key].shape == tensor.shape and not key.startswith(("fc.", "head.")):
            torch.testing.assert_close(state[key], tensor)
    assert len(normalisation.mean) == spec.channels
    grey = torch.rand(2, 1, 160, 160)
    if spec == ONE:  # the luma of a grey picture is the picture, and the filters are summed
        with torch.no_grad():
            one = model.eval().forward_features(grey)
            three = rgb.eval().forward_features(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(one, three, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 7])
@pytest.mark.parametrize("name", ["resnet10t", "cs3darknet_s", "tf_efficientnet_lite0"])
def test_filters_for_other_channels_by_hand(channels: int, name: str, tmp_path: Path) -> None:
    """One channel: the sum over red, green and blue. More: repeated in turn, times 3 / channels, so that a grey picture
    in all of them gives what it gave."""
    torch.manual_seed(4)
    rgb = timm.create_model(name, num_classes=2)
    save_file(rgb.state_dict(), tmp_path / "rgb.safetensors")
    model, _ = build_model(name, 2, WeightsSource("file", tmp_path / "rgb.safetensors"), spec=ImageSpec(channels))
    key = str(rgb.pretrained_cfg["first_conv"]) + ".weight"
    given, found = rgb.state_dict()[key].numpy(), model.state_dict()[key].numpy()
    if channels == 1:
        expected = given.sum(axis=1, keepdims=True)
    else:
        expected = np.stack([given[:, k % 3] * 3 / channels for k in range(channels)], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert model.eval()(example_input(ImageSpec(channels), 2, 64)).shape == (2, 2)


@pytest.mark.parametrize("spec", [SIX, DEEP, ONE], ids=["6", "deep", "1"])
def test_prediction_is_the_mean_of_views_by_hand(spec: ImageSpec, tmp_path: Path) -> None:
    store, _ = folder_of(tmp_path, spec)
    model, normalisation = build_model("test_resnet", 4, WeightsSource("scratch"), spec=spec, seed=2)
    preprocess, accelerator = Preprocess(normalisation, spec=spec), make_accelerator("cpu", "fp32")
    found = predict(
        model, store, np.array([4, 0, 2]), accelerator=accelerator, preprocess=preprocess, views=VIEWS["flip"],
        size=24, crop=0.875, batch_size=2, workers=0,
    )  # fmt: skip
    mean, std = (torch.tensor(each)[:, None, None] for each in (normalisation.mean, normalisation.std))
    for row, pred in zip((4, 0, 2), found, strict=True):
        pixels = centre_view(store.pixels(row), 24, 0.875).astype(np.float32) / np.float32(spec.full)
        x = (torch.from_numpy(pixels).permute(2, 0, 1) - mean) / std
        with torch.no_grad():
            both = [torch.softmax(model.eval()(each[None])[0], 0) for each in (x, x.flip(2))]
        np.testing.assert_allclose(pred, torch.stack(both).mean(0), atol=1e-5)
