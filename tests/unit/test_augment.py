"""Random geometry and colour against naive per-pixel formulas, and the batches that are made of them."""

from __future__ import annotations

import gc
import multiprocessing
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from src.config import AugmentConfig
from src.data.augment import (
    PRINCIPAL_COLOURS,
    Augment,
    centre_view,
    colour_matrix,
    crop_box,
    geometry,
    sample,
    warp_matrix,
)
from src.data.cache import ImageStore
from src.data.loader import (
    Order,
    Window,
    batches,
    evaluation_batch,
    evaluation_orders,
    kept_workers,
    training_batch,
)
from src.data.preprocess import to_input
from src.data.resizing import LINEAR_BELOW, resize
from src.data.transforms import albumentations_pipeline
from src.errors import UserError
from src.fold.measured import ranges

REFERENCE = Augment(
    crop_area=(0.08, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    flip=True,
    brightness=0.4,
    saturation=0.4,
    hue=0.4,
    pca=0.1,
)
WILD = REFERENCE._replace(vflip=True, rotate=30, shear=10, zoom=0.2, shift=0.1, contrast=0.4, erase=0.5)
ONE = np.ones(1)
NO_PCA = np.zeros((1, 3))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth, asymmetric uint8 picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    names = []
    for row in range(10):
        names.append(f"{row}.png")
        cv2.imwrite(str(tmp_path / names[-1]), picture(40 + 3 * row, 70 - 2 * row, row))
    return ImageStore(tmp_path, np.array(names, np.bytes_), 48)


# ---- the random numbers ---------------------------------------------------------------------------------------------


def test_reference_ranges() -> None:
    draws = sample(REFERENCE, 20_000, np.random.default_rng(0))
    assert draws.area.min() >= 0.08 and draws.area.max() <= 1
    assert draws.ratio.min() >= 3 / 4 and draws.ratio.max() <= 4 / 3
    # area is uniform, the ratio uniform in its logarithm: compare the quantiles
    shares = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(np.quantile(draws.area, shares), 0.08 + 0.92 * shares, atol=0.02)
    low, high = np.log(3 / 4), np.log(4 / 3)
    np.testing.assert_allclose(np.quantile(np.log(draws.ratio), shares), low + (high - low) * shares, atol=0.02)
    assert not draws.vflip.any() and not draws.warped and not draws.erase.any()


@pytest.mark.parametrize(
    ("field", "amount", "name", "centre"),
    [
        ("rotate", 20.0, "angle", 0),
        ("shear", 5.0, "shear", 0),
        ("zoom", 0.3, "zoom", 1),
        ("shift", 0.2, "shift", 0),
    ],
)
def test_geometric_ranges(field: str, amount: float, name: str, centre: float) -> None:
    draws = sample(Augment(**{field: amount}), 5000, np.random.default_rng(0))
    found = getattr(draws, name) - centre
    assert draws.warped and np.abs(found).max() <= amount
    np.testing.assert_allclose(
        np.quantile(found, [0.01, 0.5, 0.99]), [-0.98 * amount, 0, 0.98 * amount], atol=amount / 15
    )


@pytest.mark.parametrize("field", ["flip", "vflip"])
def test_flip_frequency(field: str) -> None:
    draws = sample(Augment(**{field: True}), 10_000, np.random.default_rng(1))
    other = "vflip" if field == "flip" else "flip"
    assert abs(getattr(draws, field).mean() - 0.5) < 0.02  # four standard deviations
    assert not getattr(draws, other).any()


def test_flips_are_independent() -> None:
    draws = sample(Augment(flip=True, vflip=True), 10_000, np.random.default_rng(1))
    assert abs((draws.flip & draws.vflip).mean() - 0.25) < 0.02


@pytest.mark.parametrize("field", ["brightness", "contrast", "saturation"])
def test_colour_factor_ranges(field: str) -> None:
    """The drawn factor is read back from the matrix: 0.6 to 1.4 for an amount of 0.4."""
    colour = sample(Augment(**{field: 0.4}), 5000, np.random.default_rng(2)).colour.astype(np.float64)
    if field == "saturation":  # M = s·I + (1-s)·luma, so s = M[0, 0] - M[1, 0]
        factor = colour[:, 0, 0] - colour[:, 1, 0]
    else:
        factor = colour[:, 0, :3].sum(1)  # grey is scaled by the factor
    assert factor.min() >= 0.6 - 1e-3 and factor.max() <= 1.4 + 1e-3
    np.testing.assert_allclose(np.quantile(factor, [0.01, 0.5, 0.99]), [0.608, 1.0, 1.392], atol=0.03)


def test_hue_range() -> None:
    """The turn, read back from the matrix: how far it takes pure I in the plane of I and Q; 0.6 to 1.4 half turns."""
    colour = sample(Augment(hue=0.4), 5000, np.random.default_rng(2)).colour[:, :, :3].astype(np.float64)
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    turned = colour @ np.linalg.solve(to_yiq, [0, 1, 0]) @ to_yiq.T
    factor = 1 + np.arctan2(turned[:, 2], turned[:, 1]) / np.pi
    assert factor.min() >= 0.6 - 1e-3 and factor.max() <= 1.4 + 1e-3
    np.testing.assert_allclose(np.quantile(factor, [0.01, 0.5, 0.99]), [0.608, 1.0, 1.392], atol=0.03)


def test_the_defaults_are_the_reference() -> None:
    """Bag of Tricks 2.1, as the configuration has it; all else is off."""
    assert ranges(AugmentConfig()) == REFERENCE._replace(crop_ratio=(0.75, 1.3333))


def test_pca_noise_is_normal() -> None:
    colour = sample(Augment(pca=0.1), 20_000, np.random.default_rng(3)).colour
    weights = np.linalg.solve(PRINCIPAL_COLOURS.astype(np.float64), colour[:, :, 3].T.astype(np.float64)).T
    np.testing.assert_allclose(weights.std(0), 0.1, rtol=0.03)
    np.testing.assert_allclose(weights.mean(0), 0, atol=0.003)
    assert (np.abs(weights) < 0.1).mean() == pytest.approx(0.683, abs=0.01)  # one sigma


def test_same_seed_same_draws() -> None:
    first, again = (sample(WILD, 8, np.random.default_rng((1, 2, 3))) for _ in range(2))
    other = sample(WILD, 8, np.random.default_rng((1, 2, 4)))
    for name in ("area", "ratio", "centre", "angle", "shear", "zoom", "shift", "colour", "erase"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert not np.array_equal(getattr(first, name), getattr(other, name))


# ---- strength -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(30, 90), (90, 30), (64, 64), (1, 1), (3, 500)])
def test_strength_0_is_the_whole_image(shape: tuple[int, int]) -> None:
    still = WILD._replace(flip=False, vflip=False, albumentations=({"GaussianBlur": {"p": 1.0}},)).at_strength(0)
    draws = sample(still, 3, np.random.default_rng(0))
    image = picture(*shape)
    for i in range(3):
        assert crop_box(*shape, draws.area[i], draws.ratio[i], draws.centre[i]) == (0, 0, *shape)
        np.testing.assert_array_equal(geometry(image, 32, draws, i), resize(image, 32, 32))
    np.testing.assert_allclose(draws.colour[:, :, :3], np.tile(np.eye(3), (3, 1, 1)), atol=1e-6)
    np.testing.assert_allclose(draws.colour[:, :, 3], 0, atol=1e-6)
    assert not draws.erase.any() and still.albumentations == ()


def test_strength_1_changes_nothing_and_half_is_between() -> None:
    for mine, full in zip(WILD.at_strength(1), WILD, strict=True):
        assert mine == pytest.approx(full)
    half = WILD.at_strength(0.5)
    assert half.crop_area == pytest.approx((0.54, 1.0))
    assert half.crop_ratio == pytest.approx(((3 / 4) ** 0.5, (4 / 3) ** 0.5))
    assert (half.rotate, half.hue, half.erase, half.pca) == pytest.approx((15, 0.2, 0.25, 0.05))


# ---- crop -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(200, 300), (300, 200), (256, 256)])
def test_crop_has_the_asked_area_and_ratio_where_it_fits(shape: tuple[int, int]) -> None:
    height, width = shape
    rng, fitting = np.random.default_rng(0), 0
    for _ in range(500):
        area, ratio = rng.uniform(0.08, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = (area * height * width * ratio) ** 0.5, (area * height * width / ratio) ** 0.5
        top, left, bottom, right = crop_box(height, width, area, ratio, rng.random(2))
        if w <= width and h <= height:
            fitting += 1
            assert abs((right - left) - w) <= 0.5 and abs((bottom - top) - h) <= 0.5
        else:  # one side is the image's, the area stays
            assert bottom - top == height or right - left == width
            assert (bottom - top) * (right - left) == pytest.approx(area * height * width, abs=0.51 * max(shape))
    assert fitting > 200


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 500), (500, 3), (7, 7), (1, 4000), (64, 48)])
def test_crop_is_always_inside(shape: tuple[int, int]) -> None:
    height, width = shape
    rng = np.random.default_rng(0)
    corners = [np.array(c, float) for c in ((0, 0), (0, 1), (1, 0), (1, 1))]  # 1 itself never comes, but must not hurt
    for i in range(300):
        centre = corners[i % 4] if i < 40 else rng.random(2)
        area, ratio = rng.uniform(1e-4, 1), np.exp(rng.uniform(-2, 2))
        top, left, bottom, right = crop_box(height, width, area, ratio, centre)
        assert 0 <= top < bottom <= height and 0 <= left < right <= width


def test_every_crop_position_is_equally_likely() -> None:
    centres = np.random.default_rng(0).random((4000, 2))
    boxes = np.array([crop_box(10, 10, 0.49, 1.0, centre) for centre in centres])  # 7 x 7: four places each way
    for side in (0, 1):
        counts = np.bincount(boxes[:, side], minlength=4)
        assert len(counts) == 4 and abs(counts / 4000 - 0.25).max() < 0.03


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (500, 3), (50, 50)])
@pytest.mark.parametrize("augment", [REFERENCE, WILD], ids=["crop", "warp"])
def test_geometry_of_extreme_shapes(shape: tuple[int, int], augment: Augment) -> None:
    draws = sample(augment, 20, np.random.default_rng(0))
    for i in range(20):
        out = geometry(picture(*shape), 16, draws, i)
        assert out.shape == (16, 16, 3) and out.dtype == np.uint8


def test_flips_mirror_the_output() -> None:
    image = picture(40, 60)
    draws = sample(REFERENCE._replace(vflip=True), 1, np.random.default_rng(0))
    outputs = {}
    for flip in (False, True):
        for vflip in (False, True):
            draws.flip[0], draws.vflip[0] = flip, vflip
            outputs[flip, vflip] = geometry(image, 24, draws, 0).copy()
    plain = outputs[False, False]
    np.testing.assert_array_equal(outputs[True, False], np.fliplr(plain))
    np.testing.assert_array_equal(outputs[False, True], np.flipud(plain))
    np.testing.assert_array_equal(outputs[True, True], np.rot90(plain, 2))
    assert not np.array_equal(plain, np.fliplr(plain))


@pytest.mark.parametrize("augment", [REFERENCE._replace(vflip=True), WILD._replace(vflip=True), Augment()])
@pytest.mark.parametrize("shape", [(80, 90), (24, 24), (10, 30)])
def test_geometry_into_its_place_in_the_batch(augment: Augment, shape: tuple[int, int]) -> None:
    image = picture(*shape)
    image.flags.writeable = False  # as the pages of the cache are
    draws = sample(augment, 12, np.random.default_rng(3))
    batch = np.full((12, 24, 24, 3), 77, np.uint8)
    for i in range(12):
        geometry(image, 24, draws, i, batch[i])
        np.testing.assert_array_equal(batch[i], geometry(image, 24, draws, i))
        assert (batch[i + 1 :] == 77).all()


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((30, 40), cv2.INTER_LINEAR),
        ((47, 47), cv2.INTER_LINEAR),
        ((47, 48), cv2.INTER_AREA),
        ((90, 60), cv2.INTER_AREA),
    ],
)
def test_training_crops_average_areas_from_half_size_on(shape: tuple[int, int], kind: int) -> None:
    image, whole = picture(*shape), sample(Augment(), 1, np.random.default_rng(0))
    expected = cv2.resize(image, (24, 24), interpolation=kind)
    whole.ratio[0] = shape[1] / shape[0]
    np.testing.assert_array_equal(geometry(image, 24, whole, 0), expected)


# ---- warp -----------------------------------------------------------------------------------------------------------


def warped(image: np.ndarray, size: int, **change: float | np.ndarray) -> np.ndarray:
    asked = {"angle": 0.0, "shear": 0.0, "zoom": 1.0, "shift": np.zeros(2)} | change
    matrix = warp_matrix((0, 0, *image.shape[:2]), size, **asked)
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


@pytest.mark.parametrize("shape", [(33, 47), (64, 64), (60, 90)])
def test_warp_without_change_is_a_plain_resize(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    plain = cv2.resize(image, (64, 64), interpolation=cv2.INTER_LINEAR)
    difference = np.abs(warped(image, 64).astype(int) - plain)[2:-2, 2:-2]  # the border is treated differently
    assert difference.max() <= 4 and difference.mean() < 0.75


def test_warp_of_a_part_is_a_resize_of_the_part() -> None:
    image, box = picture(80, 100), (10, 20, 58, 84)
    matrix = warp_matrix(box, 64, 0.0, 0.0, 1.0, np.zeros(2))
    found = cv2.warpAffine(image, matrix, (64, 64), flags=cv2.INTER_LINEAR)
    plain = cv2.resize(image[10:58, 20:84], (64, 64), interpolation=cv2.INTER_LINEAR)
    assert np.abs(found.astype(int) - plain)[2:-2, 2:-2].max() <= 4


@pytest.mark.parametrize("angle", [90, 180, 270, -90])
def test_quarter_turns(angle: int) -> None:
    image = picture(32, 32)
    np.testing.assert_array_equal(warped(image, 32, angle=float(angle)), np.rot90(image, -angle // 90))


def test_shift_moves_by_whole_pixels() -> None:
    image = picture(40, 40)
    found = warped(image, 40, shift=np.array([0.25, -0.1]))  # y, x: 10 down, 4 left
    np.testing.assert_array_equal(found[10:, :36], image[:30, 4:])


def test_zoom_enlarges_the_middle() -> None:
    image = picture(64, 64)
    found = warped(image, 64, zoom=2.0)
    middle = cv2.resize(image[16:48, 16:48], (64, 64), interpolation=cv2.INTER_LINEAR)
    assert np.abs(found.astype(int) - middle)[2:-2, 2:-2].max() <= 4


def test_shear_and_order_against_points() -> None:
    """Each point goes crop -> centre -> scale -> shear -> rotate -> zoom -> shift."""
    box, size, angle, shear, zoom, shift = (5, 10, 45, 70), 32, 25.0, 12.0, 1.3, np.array([0.1, -0.2])
    matrix = warp_matrix(box, size, angle, shear, zoom, shift)
    for x, y in ((10, 5), (70, 45), (33.5, 20)):
        u, v = (x - (10 + 69) / 2) * size / 60, (y - (5 + 44) / 2) * size / 40
        u += np.tan(np.radians(shear)) * v
        turned = (u + 1j * v) * np.exp(1j * np.radians(angle)) * zoom
        expected = [turned.real + 15.5 - 0.2 * size, turned.imag + 15.5 + 0.1 * size]
        np.testing.assert_allclose(matrix @ [x, y, 1], expected, atol=1e-9)


# ---- the evaluation view --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(100, 160), (160, 100), (128, 128), (40, 50), (50, 40), (1, 1), (3, 500)])
@pytest.mark.parametrize("crop", [0.875, 1.0, 0.7])
@pytest.mark.parametrize("size", [56, 60])  # 60: size/crop and the free room are not whole
def test_centre_view_pixels(shape: tuple[int, int], crop: float, size: int) -> None:
    image = picture(*shape)
    short = round(size / crop)
    scale = short / min(shape)
    height, width = max(short, round(shape[0] * scale)), max(short, round(shape[1] * scale))
    shrinks = height < shape[0]
    whole = image
    if (height, width) != shape:
        whole = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    assert min(whole.shape[:2]) == short
    free_y, free_x = height - size, width - size
    for position, (top, left) in {
        (0.5, 0.5): (round(free_y / 2), round(free_x / 2)),
        (0.0, 0.0): (0, 0),
        (0.0, 1.0): (0, free_x),
        (1.0, 0.0): (free_y, 0),
        (1.0, 1.0): (free_y, free_x),
    }.items():
        found = centre_view(image, size, crop, position)
        np.testing.assert_array_equal(found, whole[top : top + size, left : left + size])
        assert found.shape == (size, size, 3)


def test_centre_view_agrees_with_torchvision() -> None:
    from torchvision.transforms import v2

    image = picture(150, 200)
    theirs = v2.functional.center_crop(
        v2.functional.resize(torch.from_numpy(image).permute(2, 0, 1), [64], antialias=True), [56, 56]
    )
    difference = np.abs(centre_view(image, 56, 0.875).astype(int) - theirs.permute(1, 2, 0).numpy())
    assert difference.mean() < 2.5 and difference.max() < 16


def test_a_zoom_out_below_the_size_is_refused_by_keeping_the_size() -> None:
    assert centre_view(picture(30, 90), 32, 1.25).shape == (32, 32, 3)


# ---- colour ---------------------------------------------------------------------------------------------------------


def applied(matrix: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    return rgb @ matrix[0, :, :3].T.astype(np.float64) + matrix[0, :, 3]


def luma(rgb: np.ndarray) -> float:
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


COLOURS = np.random.default_rng(0).random((6, 3))


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
def test_colour_factors_per_pixel(factor: float) -> None:
    f = np.array([factor])
    brighter = applied(colour_matrix(f, ONE, ONE, 0 * ONE, NO_PCA), COLOURS)
    contrasted = applied(colour_matrix(ONE, f, ONE, 0 * ONE, NO_PCA), COLOURS)
    saturated = applied(colour_matrix(ONE, ONE, f, 0 * ONE, NO_PCA), COLOURS)
    for rgb, b, c, s in zip(COLOURS, brighter, contrasted, saturated, strict=True):
        np.testing.assert_allclose(b, [factor * v for v in rgb], atol=1e-6)
        np.testing.assert_allclose(c, [0.5 + factor * (v - 0.5) for v in rgb], atol=1e-6)
        np.testing.assert_allclose(s, [factor * v + (1 - factor) * luma(rgb) for v in rgb], atol=1e-6)


def test_hue_0_is_the_identity_and_a_whole_turn_too() -> None:
    for angle in (0.0, 2 * np.pi):
        matrix = colour_matrix(ONE, ONE, ONE, angle * ONE, NO_PCA)
        np.testing.assert_allclose(matrix[0], np.eye(3, 4), atol=1e-5)


@pytest.mark.parametrize("angle", [0.3, -1.2, np.pi / 2, np.pi])
def test_hue_turns_the_colour_and_keeps_the_luma(angle: float) -> None:
    """Naive: to YIQ (Python's colorsys has another matrix, so by the formulas), turn (I, Q), and back by solving."""
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    turned = applied(colour_matrix(ONE, ONE, ONE, angle * ONE, NO_PCA), COLOURS)
    for rgb, found in zip(COLOURS, turned, strict=True):
        y, i, q = to_yiq @ rgb
        z = complex(i, q) * np.exp(1j * angle)
        np.testing.assert_allclose(found, np.linalg.solve(to_yiq, [y, z.real, z.imag]), atol=1e-5)
        assert luma(found) == pytest.approx(luma(rgb), abs=1e-5)
        assert np.abs(found - rgb).max() > 0.01
    grey = np.full((3, 3), [[0.1], [0.5], [1.0]])
    np.testing.assert_allclose(applied(colour_matrix(ONE, ONE, ONE, angle * ONE, NO_PCA), grey), grey, atol=1e-5)


def test_pca_offset() -> None:
    """Krizhevsky's: to each pixel add [p1 p2 p3][α1λ1 α2λ2 α3λ3]ᵀ."""
    vectors = [[-0.5675, -0.5808, -0.5836], [0.7192, -0.0045, -0.6948], [0.4009, -0.8140, 0.4203]]
    values, alphas = [0.2175, 0.0188, 0.0045], [0.3, -1.0, 2.0]
    offset = sum(a * value * np.array(vector) for a, value, vector in zip(alphas, values, vectors, strict=True))
    found = applied(colour_matrix(ONE, ONE, ONE, 0 * ONE, np.array([alphas])), COLOURS)
    np.testing.assert_allclose(found, COLOURS + offset, atol=1e-5)


def test_all_steps_together_in_their_order() -> None:
    b, c, s, h, pca = 1.2, 0.7, 1.3, 0.5, np.array([0.1, -0.2, 0.3])
    step = colour_matrix
    each = [
        step(ONE, ONE, s * ONE, 0 * ONE, NO_PCA),
        step(ONE, ONE, ONE, h * ONE, NO_PCA),
        step(b * ONE, ONE, ONE, 0 * ONE, NO_PCA),
        step(ONE, c * ONE, ONE, 0 * ONE, NO_PCA),
        step(ONE, ONE, ONE, 0 * ONE, pca[None]),
    ]
    slow = COLOURS
    for matrix in each:
        slow = applied(matrix, slow)
    fast = step(*(np.array([v]) for v in (b, c, s, h)), pca[None])
    np.testing.assert_allclose(applied(fast, COLOURS), slow, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 5, 8, 9])
def test_to_input_of_other_channels(channels: int) -> None:
    """On a CPU as by one product, which all other devices take, and which looks at all channels for each."""
    rng = np.random.default_rng(channels)
    images = torch.from_numpy(rng.integers(0, 256, (2, 6, 6, channels)).astype(np.uint8))
    colour = torch.from_numpy(rng.normal(size=(2, channels, channels + 1)).astype(np.float32))
    mean, std = torch.rand(channels), 0.2 + torch.rand(channels)
    found = to_input(images, mean, std, colour)
    shares = images.double() / 255
    expected = torch.einsum("bhwc,bdc->bdhw", shares, colour[:, :, :channels].double())
    expected = (expected + (colour[:, :, channels, None, None] - mean[:, None, None])) / std[:, None, None]
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("coloured", [False, True])
def test_to_input_against_pixels(coloured: bool) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 5, 5, 3)).astype(np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    colour = sample(WILD, 3, rng).colour if coloured else None
    found = to_input(
        torch.from_numpy(images),
        torch.tensor(mean, dtype=torch.float32),
        torch.tensor(std, dtype=torch.float32),
        None if colour is None else torch.from_numpy(colour),
    )
    assert found.shape == (3, 3, 5, 5) and found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    for n in range(3):
        for y in range(5):
            for x in range(5):
                rgb = images[n, y, x] / 255
                if colour is not None:
                    m = colour[n].astype(np.float64)
                    rgb = [sum(m[i, j] * rgb[j] for j in range(3)) + m[i, 3] for i in range(3)]
                expected = [(rgb[i] - mean[i]) / std[i] for i in range(3)]
                np.testing.assert_allclose(found[n, :, y, x].numpy(), expected, atol=2e-5)


# ---- batches --------------------------------------------------------------------------------------------------------


def orders() -> list[Order]:
    rng = np.random.default_rng(7)
    return [
        Order(rng.integers(0, 10, 6), 24 + 8 * (step % 2), WILD.at_strength(step / 5), (0, 3, step, 0, 0))
        for step in range(6)
    ]


def same(one: list, other: list) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.images, b.images)
        and torch.equal(a.colour, b.colour)
        and torch.equal(a.rows, b.rows)
        and a.readable.all()
        for a, b in zip(one, other, strict=True)
    )


def test_training_batch_is_a_function_of_the_order(store: ImageStore) -> None:
    expected = [training_batch(store, order) for order in orders()]
    np.random.seed(99)  # global generators do not matter
    torch.manual_seed(99)
    backwards = [training_batch(store, order) for order in reversed(orders())][::-1]
    assert same(expected, backwards)
    assert same(expected, list(batches(store, orders(), workers=0)))
    assert same(expected, list(batches(store, orders(), workers=2)))
    assert same(expected[3:], list(batches(store, orders()[3:], workers=0)))  # a resume
    assert expected[1].images.shape == (1, 6, 32, 32, 3) and expected[1].colour.shape == (6, 3, 4)
    other_seed = training_batch(store, orders()[5]._replace(seed=(1, 3, 5, 0, 0)))
    assert not torch.equal(other_seed.images, expected[5].images)


def test_kept_workers_serve_the_next_pass(store: ImageStore) -> None:
    """Validations amid training: one set of processes for training, one for all validations, the same batches."""

    def children() -> set[int]:
        return {child.pid for child in multiprocessing.active_children()}

    before = children()
    expected, seen = [training_batch(store, order) for order in orders()], []
    with kept_workers():
        training = batches(store, orders(), workers=1)
        made = [next(training)]
        for _ in range(3):
            assert same(expected[2:], list(batches(store, orders()[2:], workers=1)))
            seen.append(children() - before)
            made.append(next(training))
        assert same(expected[:4], made) and len(seen[0]) == 2 and seen[0] == seen[1] == seen[2]
        training.close()  # with batches on their way: they are none of the next pass
        both = [batches(store, orders()[part:], workers=1) for part in (3, 5)]
        assert same(expected[3:], list(both[0])) and same(expected[5:], list(both[1]))
        assert children() - before == seen[0]
        del training, both
    gc.collect()
    assert children() <= before


def test_orders_are_taken_lazily(store: ImageStore) -> None:
    """An endless plan must not be drawn to its end before the first batch."""
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield orders()[0]

    next(batches(store, endless(), workers=0))
    assert len(taken) <= 2


def test_padding_rows(store: ImageStore) -> None:
    found = evaluation_orders(np.array([4, 1, 8, 0, 2]), 2, 24, 0.875)
    assert [order.rows.tolist() for order in found] == [[4, 1], [8, 0], [2, -1]]
    last = evaluation_batch(store, found[-1]._replace(windows=(Window(), Window((0.0, 0.0)))))
    assert last.images.shape == (2, 2, 24, 24, 3) and last.colour is None and last.rows.tolist() == [2, -1]
    assert last.readable.tolist() == [True, True]
    np.testing.assert_array_equal(last.images[0, 0], centre_view(store.pixels(2), 24, 0.875))
    np.testing.assert_array_equal(last.images[1, 0], centre_view(store.pixels(2), 24, 0.875, (0.0, 0.0)))
    assert not last.images[:, 1].any()


@pytest.mark.parametrize(("count", "world"), [(5, 1), (5, 2), (8, 2), (1, 4), (9, 4), (16, 8)])
def test_evaluation_orders_visit_each_row_once(count: int, world: int) -> None:
    rows = np.random.default_rng(0).permutation(100)[:count]
    shares = [evaluation_orders(rows, 2, 24, 1.0, rank=rank, world=world) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1  # or a collective call would hang
    assert all(len(order.rows) == 2 for share in shares for order in share)
    seen = np.concatenate([order.rows for share in shares for order in share])
    assert sorted(seen[seen >= 0]) == sorted(rows)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", [REFERENCE, None], ids=["training", "evaluation"])
def test_an_unreadable_image_is_named(store: ImageStore, workers: int, augment: Augment | None) -> None:
    (store.root / "3.png").write_bytes(b"not an image")
    good, bad = (Order(np.array(rows), 24, augment) for rows in ([0, 1], [2, 3]))
    made = batches(store, [good, bad, good], workers)
    next(made)
    with pytest.raises(UserError, match=r"3\.png: not a readable image") as caught:
        next(made)
    assert str(store.root / "3.png") in str(caught.value) and "\n" not in str(caught.value)


def test_erase_boxes() -> None:
    boxes = sample(Augment(erase=0.25), 8000, np.random.default_rng(0)).erase
    top, left, bottom, right = boxes.T
    erased = bottom > 0
    assert abs(erased.mean() - 0.25) < 0.02
    assert (boxes >= 0).all() and (boxes <= 1 + 1e-6).all()
    assert not boxes[~erased].any()
    h, w = (bottom - top)[erased], (right - left)[erased]
    area, ratio = h * w, w / h
    assert area.min() >= 0.0199 and area.max() <= 0.3301 and abs(area.mean() - 0.175) < 0.01
    assert ratio.min() >= 0.299 and ratio.max() <= 3.34
    assert not sample(Augment(erase=0.0), 50, np.random.default_rng(0)).erase.any()
    assert sample(Augment(erase=1.0), 50, np.random.default_rng(0)).erase.any(1).all()


def test_erased_pixels_are_grey_and_no_others(store: ImageStore) -> None:
    rows, seed = np.arange(8), (5,)
    augment = Augment(erase=1.0)
    found = training_batch(store, Order(rows, 40, augment, seed)).images[0].numpy()
    boxes = sample(augment, 8, np.random.default_rng(seed)).erase
    for image, row, box in zip(found, rows, boxes, strict=True):
        expected = resize(store.pixels(int(row)), 40, 40, area_from=LINEAR_BELOW).copy()
        top, left, bottom, right = (round(float(edge) * 40) for edge in box)
        assert bottom > top and right > left
        expected[top:bottom, left:right] = (124, 116, 104)
        np.testing.assert_array_equal(image, expected)


# ---- albumentations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"GaussianBlr": {}}, "GaussianBlr.*did you mean 'GaussianBlur'"),
        ({"GaussianBlur": {"p": "often"}}, "augment.albumentations: GaussianBlur"),
        ({"GaussianBlur": 3}, "augment.albumentations: GaussianBlur"),
        ({"GaussianBlur": {}, "Blur": {}}, "one name with its arguments"),
        (3, "one name with its arguments"),
        pytest.param(
            {"GaussianBlur": {"blurlimit": 3}},
            "blurlimit",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Argument")
def test_albumentations_mistakes(spec: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        albumentations_pipeline((spec,))


def test_albumentations_is_seeded_and_applied(store: ImageStore) -> None:
    specs = ({"GaussNoise": {"p": 1.0}}, {"RandomBrightnessContrast": {"p": 0.5}})
    order = Order(np.arange(4), 32, Augment(albumentations=specs), (1, 2))
    plain = training_batch(store, order._replace(augment=Augment()))
    first, again = (training_batch(store, order) for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert all(not torch.equal(a, b) for a, b in zip(first.images[0], plain.images[0], strict=True))
    assert not torch.equal(first.images, training_batch(store, order._replace(seed=(1, 3))).images)
    (through_a_worker,) = batches(store, [order], workers=1)
    assert torch.equal(first.images, through_a_worker.images)


def test_no_albumentations_no_import() -> None:
    assert albumentations_pipeline(()) is None
