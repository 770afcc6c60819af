"""Pictures of any number of channels against naive formulas, from the file to the network and its prediction."""

from __future__ import annotations

import io
import pickle
from collections import namedtuple
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import nn

from src.config import build
from src.data.augment import Augment, centre_view, colour_matrix, sample
from src.data.cache import ImageStore, has_room
from src.data.loader import Order, Window, batches, evaluation_batch, training_batch
from src.data.preprocess import Preprocess
from src.data.resizing import by_fours, resize
from src.data.spec import RGB, ImageSpec, Normalisation, example_input
from src.data.statistics import pixel_statistics
from src.errors import UserError
from src.inference.predict import predict
from src.inference.tta import View
from src.model.backbone import build_model
from src.model.weights import WeightsSource
from src.runs.opening import image_spec
from tests.unit.test_augment import WILD

torch.set_num_threads(1)  # the networks are so small that threads only cost

ROWS, SIDE = 6, 40
SPECS = [ImageSpec(1), ImageSpec(1, "uint16"), ImageSpec(3, "uint16"), ImageSpec(6), ImageSpec(6, "uint16")]
each_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.channels}x{spec.samples}")
WHOLE = Augment()
STEPS = {
    "whole": WHOLE,
    "crop": Augment(crop_area=(0.2, 0.8), crop_ratio=(0.75, 1.33)),
    "flip": Augment(flip=True),
    "vflip": Augment(vflip=True),
    "rotate": Augment(rotate=30.0),
    "shear": Augment(shear=10.0),
    "zoom": Augment(zoom=0.2),
    "shift": Augment(shift=0.1),
    "all": WILD._replace(erase=0.0),
}


def smooth(spec: ImageSpec, seed: int, height: int = 36, width: int = 50) -> np.ndarray:
    """(H, W, C) samples over their full range; the channels differ."""
    coarse = np.random.default_rng(seed).uniform(0, 1, (4, 5, spec.channels))
    channels = [
        cv2.resize(coarse[..., c], (width, height), interpolation=cv2.INTER_LINEAR) for c in range(coarse.shape[2])
    ]
    return (np.stack(channels, 2) * spec.full).round().astype(spec.dtype)


def array_bytes(array: np.ndarray, **how: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **how)
    return file.getvalue()


def folder_of(spec: ImageSpec, folder: Path) -> tuple[Path, np.ndarray, list[np.ndarray]]:
    """ROWS images, as .npy where they are no pictures, and what they are."""
    images = [smooth(spec, row, 36 + row, 50 - row) for row in range(ROWS)]
    extension = "npy" if spec.channels not in (1, 3) else "png"
    for row, image in enumerate(images):
        if extension == "npy":
            np.save(folder / f"{row}.npy", image)
        else:
            cv2.imwrite(str(folder / f"{row}.png"), image[..., ::-1])
    return folder, np.array([f"{row}.{extension}" for row in range(ROWS)], np.bytes_), images


# ---- what a spec says -----------------------------------------------------------------------------------------------


def test_a_spec_in_numbers() -> None:
    assert (ImageSpec() == RGB) and RGB.suffix == "" and ImageSpec(6, "uint16").suffix == "-6xuint16"
    assert len({spec.suffix for spec in [RGB, *SPECS]}) == 1 + len(SPECS)
    assert [spec.full for spec in (ImageSpec(6), ImageSpec(6, "uint16"))] == [255.0, 65535.0]
    assert [spec.middle for spec in (ImageSpec(6), ImageSpec(6, "uint16"))] == [128, 32768]
    assert RGB.grey.tolist() == [124, 116, 104] and RGB.grey.dtype == np.uint8
    assert ImageSpec(3, "uint16").grey.tolist() == [124 * 257, 116 * 257, 104 * 257]
    assert ImageSpec(6).grey.tolist() == [115] * 6, "the mean of ImageNet's, 114.67"
    assert ImageSpec(1, "uint16").grey.tolist() == [29470] and ImageSpec(1, "uint16").grey.dtype == np.uint16
    assert image_spec(build({"competition": {"channels": 6, "samples": "uint16"}}).competition) == ImageSpec(
        6, "uint16"
    )
    assert image_spec(build({}).competition) == RGB


def test_the_normalisation_of_weights_for_rgb() -> None:
    imagenet = Normalisation((0.5, 0.4, 0.3), (0.3, 0.2, 0.1))
    assert RGB.for_channels(imagenet) is imagenet
    for channels in (1, 6):
        found = ImageSpec(channels).for_channels(imagenet)
        assert found.mean == pytest.approx([0.4] * channels) and found.std == pytest.approx([0.2] * channels)


@each_spec
def test_an_example_is_what_a_network_gets(spec: ImageSpec) -> None:
    x = example_input(spec, 2, 8)
    assert x.shape == (2, spec.channels, 8, 8) and x.dtype == torch.float32 and not x.any()
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert example_input(spec, 1, 8, "meta").device.type == "meta"


def test_visible() -> None:
    six = smooth(ImageSpec(6), 0)
    np.testing.assert_array_equal(ImageSpec(6).visible(six), six[..., :3])
    np.testing.assert_array_equal(ImageSpec(1).visible(six[..., :1]), six[..., [0, 0, 0]])
    np.testing.assert_array_equal(ImageSpec(2).visible(six[..., :2]), six[..., [0, 0, 0]])
    np.testing.assert_array_equal(ImageSpec(6).visible(six[None]), six[None, ..., :3])  # a batch as well
    assert RGB.visible(six[..., :3]).base is six or (RGB.visible(six[..., :3]) == six[..., :3]).all()
    shown = ImageSpec(6, "uint16").visible(six.astype(np.uint16) * 257)
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown, six[..., :3])


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_layouts_of_an_array(channels: int, samples: str) -> None:
    spec = ImageSpec(channels, samples)
    image = smooth(spec, 3)
    layouts = [image, image.transpose(2, 0, 1), np.asfortranarray(image)] + ([image[..., 0]] if channels == 1 else [])
    for array in layouts:
        found = spec.read(array_bytes(array), 64)
        assert found.dtype == spec.dtype and found.flags.c_contiguous
        np.testing.assert_array_equal(found, image)


def test_numbers_of_other_kinds() -> None:
    eight, sixteen = ImageSpec(6), ImageSpec(6, "uint16")
    image = smooth(eight, 3)
    image[0, 0] = 255
    wide = image.astype(np.uint16) * 257
    for array in (image / 255, (image / 255).astype(np.float32), image.astype(np.int64), wide, wide.astype(np.float64)):
        np.testing.assert_array_equal(eight.read(array_bytes(array), 64), image)
        np.testing.assert_allclose(sixteen.read(array_bytes(array), 64), wide, atol=1)
    dark = np.full((4, 4, 6), 200, np.uint16)  # by the range of its type, whatever the largest number is
    for order in "<>":
        array = dark.astype(f"{order}u2")
        np.testing.assert_array_equal(sixteen.read(array_bytes(array), 64), dark)
        assert (eight.read(array_bytes(array), 64) == round(200 / 257)).all()
    odd = np.full((4, 4, 6), 0.5)
    odd[0, 0, 0], odd[1, 1, 1] = np.nan, -np.inf
    found = eight.read(array_bytes(odd), 64)
    assert found[0, 0, 0] == found[1, 1, 1] == 0 and (found[2:] == 128).all()
    assert set(np.unique(eight.read(array_bytes(np.random.default_rng(0).random((9, 9, 6)) > 0.5), 64))) == {0, 255}


def test_an_array_is_shrunk_as_a_picture_is() -> None:
    for samples in ("uint8", "uint16"):
        spec = ImageSpec(6, samples)
        image = smooth(spec, 1, 200, 100)
        found = spec.read(array_bytes(image), 20)
        assert found.shape == (40, 20, 6)
        for c in range(6):
            alone = cv2.resize(np.ascontiguousarray(image[..., c]), (20, 40), interpolation=cv2.INTER_AREA)
            np.testing.assert_allclose(found[..., c].astype(int), alone, atol=1)
        assert spec.read(array_bytes(smooth(spec, 1, 300, 30)), 30).shape == (60, 6, 6), "not longer than twice as wide"


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (array_bytes(np.zeros((20, 30, 5))), r"holds an array of 20 x 30 x 5, but competition\.channels=6"),
        (array_bytes(np.zeros((20, 30))), r"holds an array of 20 x 30 x 1, but competition\.channels=6"),
        (array_bytes(np.zeros(6)), r"holds an array of 6, but competition\.channels=6"),
        (array_bytes(np.zeros((2, 8, 8, 6))), r"holds an array of 2 x 8 x 8 x 6, but competition\.channels=6"),
        (array_bytes(np.zeros((0, 8, 6))), r"holds an array of 0 x 8 x 6, but competition\.channels=6"),
        (array_bytes(np.zeros((300, 400, 6), bool)), r"above competition\.max_megapixels"),
        (array_bytes(np.array(["text"])), "instead of plain numbers"),
        (array_bytes(np.zeros((8, 8, 6), complex)), "complex128 instead of plain numbers"),
        (array_bytes(np.zeros((8, 8, 6), "M8[s]")), "instead of plain numbers"),
        (array_bytes(np.zeros((8, 8, 6), [("a", "u1")])), "instead of plain numbers"),
        (array_bytes(np.array([{}] * 6, object), allow_pickle=True), r"not a readable array \(.*allow_pickle=False"),
        (array_bytes(np.zeros((8, 8, 6)))[:-9], "not a readable array"),
        (b"\x93NUMPY\x01\x00\xff", "not a readable array"),
        (array_bytes(np.zeros((8, 8, 6))).replace(b"(8, 8, 6)", b"(8, 8, 'x"), "not a readable array"),
        (pickle.dumps(np.zeros((8, 8, 6))), "not a readable image"),
        (cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes(), r"1 or 3 channels.*competition\.channels=6"),
    ],
)  # fmt: skip
def test_an_array_that_does_not_do_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    for cache in (None, tmp_path / "cache"):
        store = ImageStore(tmp_path, np.array([b"a.npy"]), 32, cache, max_megapixels=0.1, spec=ImageSpec(6))
        with pytest.raises(UserError, match=words) as caught:
            store.pixels(0)
        assert str(caught.value).startswith(f"{tmp_path / 'a.npy'}: ") and "\n" not in str(caught.value)


def test_no_code_of_a_pickle_is_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (tmp_path.joinpath("exploded").mkdir, ())

    for content in (array_bytes(np.array([Bomb()] * 6, object), allow_pickle=True), pickle.dumps(Bomb())):
        with pytest.raises(UserError):
            ImageSpec(6).read(content, 32)
    assert not (tmp_path / "exploded").exists()


def test_one_channel_is_the_luma_and_16_bits_are_kept() -> None:
    deep = smooth(ImageSpec(3, "uint16"), 5)
    grey = deep[..., 0]
    colour, plain = (cv2.imencode(".png", image)[1].tobytes() for image in (deep[..., ::-1], grey))
    np.testing.assert_array_equal(ImageSpec(3, "uint16").read(colour, 64), deep)
    np.testing.assert_array_equal(ImageSpec(1, "uint16").read(plain, 64)[..., 0], grey)
    luma = deep @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(ImageSpec(1, "uint16").read(colour, 64)[..., 0], luma, atol=4)
    np.testing.assert_allclose(ImageSpec(1).read(colour, 64)[..., 0], luma / 257, atol=1)
    np.testing.assert_allclose(ImageSpec(3).read(colour, 64), deep / 257, atol=0.51)
    jpeg = cv2.imencode(".jpg", (deep // 257).astype(np.uint8))[1].tobytes()
    np.testing.assert_array_equal(ImageSpec(3, "uint16").read(jpeg, 64), RGB.read(jpeg, 64).astype(int) * 257)


# ---- resizing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 8, 11])
def test_by_fours_is_each_channel_alone(channels: int, dtype: type) -> None:
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (41, 57, channels)).astype(dtype)
    matrix = np.array([[0.9, 0.2, -3], [-0.1, 1.1, 2]])
    works = {
        "area": lambda part, out: cv2.resize(part, (19, 13), out, interpolation=cv2.INTER_AREA),
        "linear": lambda part, out: cv2.resize(part, (70, 45), out, interpolation=cv2.INTER_LINEAR),
        "warp": lambda part, out: cv2.warpAffine(part, matrix, (30, 20), out, borderMode=cv2.BORDER_REFLECT_101),
    }
    for work in works.values():
        found = by_fours(work, image)
        alone = np.stack([work(np.ascontiguousarray(image[..., c]), None) for c in range(channels)], axis=2)
        assert found.dtype == dtype and found.shape == alone.shape
        np.testing.assert_allclose(found.astype(int), alone.astype(int), atol=1)
        place = np.zeros_like(found)
        by_fours(work, image, place)
        np.testing.assert_array_equal(place, found)


# ---- the store ------------------------------------------------------------------------------------------------------


@each_spec
@pytest.mark.parametrize("cached", [True, False])
def test_the_store_gives_back_what_is_in_the_files(
    tmp_path: Path, spec: ImageSpec, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, names, images = folder_of(spec, tmp_path)
    cache = tmp_path / "cache" if cached else None
    for attempt in range(2):
        if cached and attempt:
            monkeypatch.setattr("src.data.cache.read_file", lambda *_: pytest.fail("read again"))
        store = ImageStore(root, names, SIDE, cache, spec=spec)
        for row in [*range(ROWS), 0, 3]:  # the last ones must not have been written over
            height, width = images[row].shape[:2]
            found = store.pixels(row)
            assert found.dtype == spec.dtype
            if min(height, width) <= SIDE:
                np.testing.assert_array_equal(found, images[row])
            else:
                assert min(found.shape[:2]) == SIDE
    if cached:
        assert store.file is not None
        slots = store.file.with_suffix(".pixels").stat().st_size
        assert slots == ROWS * 2 * SIDE * SIDE * spec.channels * spec.dtype.itemsize


def test_the_widest_image_fits_its_slot(tmp_path: Path) -> None:
    spec = ImageSpec(6, "uint16")
    for row in range(3):
        np.save(tmp_path / f"{row}.npy", smooth(spec, row, 16, 32))
    names = np.array([b"0.npy", b"1.npy", b"2.npy"])
    store = ImageStore(tmp_path, names, 16, tmp_path / "cache", spec=spec)
    for row in (2, 1, 0):
        store.pixels(row)
    for row in range(3):
        np.testing.assert_array_equal(store.pixels(row), smooth(spec, row, 16, 32))


def test_each_kind_of_image_has_a_file_of_its_own(tmp_path: Path) -> None:
    root, names, _ = folder_of(ImageSpec(3, "uint16"), tmp_path)
    stores = [ImageStore(root, names, 16, tmp_path / "cache", spec=spec) for spec in (RGB, *SPECS)]
    assert len({store.file for store in stores}) == len(stores)


def test_room_is_asked_for_by_what_an_image_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = 1e9 + 1000 * 4 * 100**2 * 2 + 1  # for 2,000 in colour
    monkeypatch.setattr("src.data.cache.shutil.disk_usage", lambda folder: namedtuple("Usage", "free")(room))
    asked = {
        spec: [n for n in (500, 1000, 2000, 6000) if has_room(tmp_path, n, 100, spec)][-1] for spec in [RGB, *SPECS]
    }
    assert list(asked.values()) == [2000, 6000, 2000, 1000, 1000, 500]


@each_spec
def test_statistics_are_numpys(tmp_path: Path, spec: ImageSpec) -> None:
    root, names, images = folder_of(spec, tmp_path)
    found = pixel_statistics(ImageStore(root, names, 64, spec=spec), np.arange(ROWS))
    shares = [image.reshape(-1, spec.channels) / spec.full for image in images]
    mean = np.mean([share.mean(0) for share in shares], axis=0)
    np.testing.assert_allclose(found.mean, mean)
    np.testing.assert_allclose(found.std, np.sqrt(np.mean([(share**2).mean(0) for share in shares], axis=0) - mean**2))
    weights = [0.299, 0.587, 0.114] if spec.channels == 3 else [1 / spec.channels] * spec.channels
    np.testing.assert_allclose(found.brightness, [share.mean(0) @ weights for share in shares], rtol=1e-6)


# ---- batches --------------------------------------------------------------------------------------------------------


@each_spec
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("step", STEPS)
def test_each_channel_is_cropped_and_turned_alike(tmp_path: Path, spec: ImageSpec, cached: bool, step: str) -> None:
    """As the grey pictures of each channel are, in a store of their own."""
    root, names, images = folder_of(spec, tmp_path)
    store = ImageStore(root, names, 64, tmp_path / "cache" if cached else None, spec=spec)
    order = Order(np.array([3, 0, 5, 5]), 24, STEPS[step], (4, 2))
    batch = training_batch(store, order)
    assert batch.images.shape == (1, 4, 24, 24, spec.channels) and batch.readable.tolist() == [True] * 4
    assert batch.images.numpy().dtype == spec.dtype
    assert batch.colour is not None and batch.colour.shape == (4, spec.channels, spec.channels + 1)
    one = ImageSpec(1, spec.samples)
    for c in range(spec.channels):
        (tmp_path / f"c{c}").mkdir()
        for row, image in enumerate(images):
            np.save(tmp_path / f"c{c}" / f"{row}.npy", image[..., c])
        alone = ImageStore(tmp_path / f"c{c}", np.array([f"{row}.npy" for row in range(ROWS)], "S"), 64, spec=one)
        expected = training_batch(alone, order).images[..., 0]
        np.testing.assert_allclose(batch.images[..., c].int(), expected.int(), atol=1 + spec.full / 500)
    (again,) = batches(store, [order], workers=1)
    assert torch.equal(again.images.int(), batch.images.int())


@each_spec
def test_erased_samples_are_the_grey(tmp_path: Path, spec: ImageSpec) -> None:
    root, names, _ = folder_of(spec, tmp_path)
    store, rows = ImageStore(root, names, 64, spec=spec), np.arange(ROWS)
    erased, whole = (
        training_batch(store, Order(rows, 24, Augment(erase=share), (7,))).images[0].numpy() for share in (1.0, 0.0)
    )
    boxes = sample(Augment(erase=1.0), ROWS, np.random.default_rng((7,))).erase
    for image, before, box in zip(erased, whole, boxes, strict=True):
        top, left, bottom, right = (round(float(edge) * 24) for edge in box)
        expected = before.copy()
        level = [0.4862745, 0.4549020, 0.4078431] if spec.channels == 3 else [0.4496732] * spec.channels
        expected[top:bottom, left:right] = np.round(np.array(level) * spec.full)
        np.testing.assert_array_equal(image, expected)
        assert bottom > top and right > left


@each_spec
@pytest.mark.parametrize("cached", [True, False])
def test_windows_of_any_samples(tmp_path: Path, spec: ImageSpec, cached: bool) -> None:
    root, names, images = folder_of(spec, tmp_path)
    store = ImageStore(root, names, 64, tmp_path / "cache" if cached else None, "mark", spec=spec)
    names_in_order = [2, 0, 4, -1]
    windows = (Window(), Window((1.0, 0.0), 1.2), Window(squash=True))
    (root / names[4].decode()).write_bytes(b"torn")
    store = ImageStore(root, names, 64, tmp_path / "cache" if cached else None, "mark", spec=spec)
    batch = evaluation_batch(store, Order(np.array(names_in_order), 24, crop=0.875, windows=windows))
    assert batch.images.shape == (3, 4, 24, 24, spec.channels) and batch.images.numpy().dtype == spec.dtype
    assert batch.rows.tolist() == names_in_order and batch.readable.tolist() == [True, True, False, True]
    assert (batch.images[:, 2].numpy() == round(spec.full / 2 + 0.5)).all() and not batch.images[:, 3].int().any()
    for i, row in enumerate([2, 0]):
        for w, window in enumerate(windows):
            for c in range(spec.channels):
                alone = np.ascontiguousarray(images[row][..., c : c + 1])
                if window.squash:
                    expected = resize(alone, 24, 24)
                else:
                    expected = centre_view(alone, 24, 0.875 / window.zoom, window.position)
                found = batch.images[w, i, ..., c].int().numpy()
                np.testing.assert_allclose(found, expected[..., 0].astype(int), atol=1)


# ---- the network's input --------------------------------------------------------------------------------------------


def naive_input(
    images: np.ndarray, full: float, mean: list[float], std: list[float], colour: np.ndarray | None
) -> np.ndarray:
    """(B, C, S, S) pixel by pixel in float64."""
    count, height, width, channels = images.shape
    made = np.empty((count, channels, height, width))
    for n, y, x in np.ndindex(count, height, width):
        shares = [float(sample) / full for sample in images[n, y, x]]
        if colour is not None:
            m = colour[n].astype(np.float64)
            shares = [sum(m[i, j] * shares[j] for j in range(channels)) + m[i, channels] for i in range(channels)]
        made[n, :, y, x] = [(share - of) / by for share, of, by in zip(shares, mean, std, strict=True)]
    return made


@pytest.mark.parametrize("coloured", ["no", "jitter", "any matrix"])
@pytest.mark.parametrize("spec", [RGB, ImageSpec(2), ImageSpec(4), *SPECS], ids=lambda s: f"{s.channels}x{s.samples}")
def test_preprocess_is_the_naive_formula(spec: ImageSpec, coloured: str) -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(0, spec.full, (3, 5, 5, spec.channels), endpoint=True).astype(spec.dtype)
    mean = np.linspace(0.3, 0.6, spec.channels).tolist()
    std = np.linspace(0.4, 0.2, spec.channels).tolist()
    colour = {
        "no": None,
        "jitter": sample(WILD, 3, rng, spec.channels).colour,
        "any matrix": rng.normal(0, 1, (3, spec.channels, spec.channels + 1)).astype(np.float32),
    }[coloured]
    preprocess = Preprocess(Normalisation(tuple(mean), tuple(std)), spec=spec)
    found = preprocess(torch.from_numpy(images), None if colour is None else torch.from_numpy(colour))
    assert found.dtype == torch.float32 and found.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(found.numpy(), naive_input(images, spec.full, mean, std, colour), atol=3e-5)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_the_colour_matrix_of_other_channels(channels: int) -> None:
    """Brightness, then contrast about mid-grey, alike in all channels; the rest means nothing for them."""
    rng = np.random.default_rng(2)
    b, c, s, h = (rng.uniform(0.5, 1.5, 4) for _ in range(4))
    matrix = colour_matrix(b, c, s, h, rng.normal(0, 1, (4, 3)), channels)
    assert matrix.shape == (4, channels, channels + 1) and matrix.dtype == np.float32
    shares = rng.random((4, channels))
    found = np.einsum("bij,bj->bi", matrix[..., :channels], shares) + matrix[..., channels]
    expected = (shares * b[:, None] - 0.5) * c[:, None] + 0.5
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(
        sample(WILD, 5, np.random.default_rng(0), channels).erase, sample(WILD, 5, np.random.default_rng(0)).erase
    )


# ---- networks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "resnet18"])
def test_weights_for_rgb_in_other_channels(tmp_path: Path, name: str) -> None:
    """As timm adapts its own: on the same picture in every channel, the network says what it says of it in RGB."""
    rgb, _ = build_model(name, 5, WeightsSource("scratch"), seed=3)
    file = tmp_path / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in rgb.state_dict().items()}, file)
    grey = torch.rand(2, 1, 64, 64)
    expected = rgb.eval()(grey.expand(-1, 3, -1, -1))
    colours = torch.rand(2, 3, 64, 64)
    for channels in (1, 6):
        network, normalisation = build_model(name, 5, WeightsSource("file", file), seed=9, spec=ImageSpec(channels))
        assert len(normalisation.mean) == len(normalisation.std) == channels
        torch.testing.assert_close(network.eval()(grey.expand(-1, channels, -1, -1)), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(network(colours.repeat(1, 2, 1, 1)), rgb(colours), atol=1e-4, rtol=1e-4)

    # what a run has saved has its channels already
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, file)
    again, _ = build_model(name, 5, WeightsSource("run", file), seed=1, spec=ImageSpec(6))
    six = torch.rand(2, 6, 64, 64)
    torch.testing.assert_close(again.eval()(six), network(six))
    with pytest.raises(UserError, match="of another shape"):
        build_model(name, 5, WeightsSource("file", file), spec=ImageSpec(4))


@pytest.mark.parametrize("spec", [ImageSpec(1), ImageSpec(6, "uint16")], ids=["1", "6"])
def test_predictions_of_any_channels_against_a_loop(tmp_path: Path, spec: ImageSpec) -> None:
    root, names, images = folder_of(spec, tmp_path)
    (root / names[2].decode()).write_bytes(b"torn")
    network, normalisation = build_model("test_resnet", 4, WeightsSource("scratch"), seed=1, spec=spec)
    store, rows = ImageStore(root, names, 64, None, "mark", spec=spec), np.array([5, 2, 0])
    views = [View(), View(Window((0.0, 1.0), 1.2), flip=True, weight=2.0)]
    found = predict(
        network,
        store,
        rows,
        accelerator=Accelerator(cpu=True),
        preprocess=Preprocess(normalisation, spec=spec),
        views=views,
        size=32,
        crop=0.875,
        batch_size=2,
        workers=0,
    )
    assert found.shape == (3, 4) and np.isnan(found[1]).all()
    for i, row in ((0, 5), (2, 0)):
        expected = torch.zeros(4)
        for view in views:
            image = centre_view(images[row], 32, 0.875 / view.window.zoom, view.window.position)
            x = naive_input(image[None], spec.full, list(normalisation.mean), list(normalisation.std), None)
            x = torch.from_numpy(x).float()
            with torch.no_grad():
                expected += view.weight / 3 * network(x.flip(3) if view.flip else x)[0].softmax(0)
        np.testing.assert_allclose(found[i], expected, atol=1e-4)


def test_preprocess_keeps_to_its_device() -> None:
    meta = Preprocess(Normalisation((0.5,), (0.5,)), "meta", ImageSpec(1))
    images = torch.zeros(2, 8, 8, 1, dtype=torch.uint8)
    assert meta(images).device.type == "meta" and isinstance(
        nn.Conv2d(1, 2, 3, device="meta")(meta(images)), torch.Tensor
    )
    assert meta(images, torch.zeros(2, 1, 2)).device.type == "meta"
