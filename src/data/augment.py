"""Random geometry on uint8 pixels and random colour as one 3x4 matrix per image.

Everything random is drawn in `sample` from a generator that the caller seeds per batch, so a batch is a function of
(seed, step) alone: the same on any number of workers, and the same after a resume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from src.data.resizing import LINEAR_BELOW, by_fours, resize

# Principal colours of ImageNet, eigenvectors (columns) times eigenvalues, pixels in 0..1 (AlexNet, Krizhevsky 2012).
PRINCIPAL_COLOURS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], np.float32
) * np.array([0.2175, 0.0188, 0.0045], np.float32)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
RGB_TO_YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float32)
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ).astype(np.float32)


class Augment(NamedTuple):
    """Ranges of the random transforms; the fields are explained at `config.AugmentConfig`."""

    crop_area: tuple[float, float] = (1.0, 1.0)
    crop_ratio: tuple[float, float] = (1.0, 1.0)
    flip: bool = False
    vflip: bool = False
    rotate: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    pca: float = 0.0
    erase: float = 0.0
    albumentations: tuple[dict[str, Any] | str, ...] = ()

    def at_strength(self, s: float) -> Augment:
        """Every range scaled towards the identity: s = 0 leaves whole images, s = 1 the ranges as they are."""
        low, high = self.crop_area
        narrow, wide = self.crop_ratio
        return self._replace(
            crop_area=(1 - (1 - low) * s, 1 - (1 - high) * s),
            crop_ratio=(narrow**s, wide**s),
            **{
                name: getattr(self, name) * s
                for name in (
                    "rotate", "shear", "zoom", "shift", "brightness", "contrast", "saturation", "hue", "pca", "erase",
                )
            },
            albumentations=self.albumentations if s > 0 else (),
        )  # fmt: skip


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch of B images, (B,) unless noted."""

    area: np.ndarray  # share of the image's area
    ratio: np.ndarray  # width / height of the crop
    centre: np.ndarray  # (B, 2) position of the crop in its free room, y and x in 0..1
    flip: np.ndarray  # bool
    vflip: np.ndarray  # bool
    angle: np.ndarray  # degrees
    shear: np.ndarray  # degrees
    zoom: np.ndarray  # factor on the content
    shift: np.ndarray  # (B, 2) share of the side, y and x
    colour: np.ndarray  # (B, C, C + 1) float32: samples in 0..1 -> the same, before normalisation
    erase: np.ndarray  # (B, 4) top, left, bottom, right in shares of the side; all 0 where nothing is erased
    warped: bool  # whether any of angle, shear, zoom, shift is used at all


def sample(augment: Augment, count: int, rng: np.random.Generator, channels: int = 3) -> Draws:
    """All random numbers for `count` images, vectorised: one image costs microseconds. They are the same for any number
    of channels; what is about colour is left out where there are not three."""

    def spread(amount: float, *shape: int) -> np.ndarray:
        return rng.uniform(-amount, amount, (count, *shape))

    low, high = np.log(augment.crop_ratio)
    return Draws(
        area=rng.uniform(*augment.crop_area, count),
        ratio=np.exp(rng.uniform(low, high, count)),
        centre=rng.random((count, 2)),
        flip=(rng.random(count) < 0.5) & augment.flip,
        vflip=(rng.random(count) < 0.5) & augment.vflip,
        angle=spread(augment.rotate),
        shear=spread(augment.shear),
        zoom=1 + spread(augment.zoom),
        shift=spread(augment.shift, 2),
        colour=colour_matrix(
            brightness=1 + spread(augment.brightness),
            contrast=1 + spread(augment.contrast),
            saturation=1 + spread(augment.saturation),
            hue=spread(augment.hue) * np.pi,
            pca=rng.normal(0, 1, (count, 3)) * augment.pca,
            channels=channels,
        ),
        erase=_erase_boxes(augment.erase, count, rng),
        warped=any((augment.rotate, augment.shear, augment.zoom, augment.shift)),
    )


def colour_matrix(
    brightness: np.ndarray,
    contrast: np.ndarray,
    saturation: np.ndarray,
    hue: np.ndarray,
    pca: np.ndarray,
    channels: int = 3,
) -> np.ndarray:
    """Colour jitter of B images as one affine map each, (B, C, C + 1) float32: v' = M[:, :C] @ v + M[:, C].

    brightness, contrast, saturation: (B,) factors; hue: (B,) radians, a rotation in YIQ; pca: (B, 3) weights of the
    principal colours. Every step is linear in rgb (contrast about mid-grey), so their product is exact and one matrix
    product on the device replaces five passes over the pixels. Values outside 0..1 are kept, as in MXNet's recipe.
    Where there are not three channels, saturation, hue and principal colours mean nothing and are left out.
    """
    count = len(brightness)
    if channels != 3:
        scaled = (brightness * contrast)[:, None, None] * np.eye(channels)
        offset = np.broadcast_to(0.5 * (1 - contrast)[:, None, None], (count, channels, 1))
        return np.concatenate([scaled, offset], axis=2).astype(np.float32)
    grey = np.broadcast_to(np.outer(np.ones(3, np.float32), LUMA), (count, 3, 3))
    saturate = saturation[:, None, None] * np.eye(3) + (1 - saturation)[:, None, None] * grey
    turn = np.zeros((count, 3, 3), np.float32)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(hue)
    turn[:, 1, 2], turn[:, 2, 1] = -np.sin(hue), np.sin(hue)
    linear = (brightness * contrast)[:, None, None] * (YIQ_TO_RGB @ turn @ RGB_TO_YIQ @ saturate)
    offset = 0.5 * (1 - contrast)[:, None] + pca @ PRINCIPAL_COLOURS.T
    return np.concatenate([linear, offset[:, :, None]], axis=2).astype(np.float32)


def crop_box(height: int, width: int, area: float, ratio: float, centre: np.ndarray) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of a random-resized crop in an image of height x width pixels.

    A crop that would not fit is narrowed to the image, so its ratio changes before its area does; torchvision redraws
    ten times instead and then falls back to a centre crop, which costs more and biases towards the middle.
    """
    crop_w = min(float(width), (area * height * width * ratio) ** 0.5)
    crop_h = min(float(height), area * height * width / crop_w)
    crop_w = min(float(width), area * height * width / crop_h)
    h, w = max(1, round(crop_h)), max(1, round(crop_w))
    top, left = int(centre[0] * (height - h + 1)), int(centre[1] * (width - w + 1))
    top, left = min(top, height - h), min(left, width - w)
    return top, left, top + h, left + w


def geometry(image: np.ndarray, size: int, draws: Draws, i: int, out: np.ndarray | None = None) -> np.ndarray:
    """Image i of the batch, (H, W, C) samples, cropped, warped, flipped and resized to (size, size, C).

    Written into `out` if that is given (its place in the batch, contiguous), which saves a copy.
    """
    height, width = image.shape[:2]
    box = crop_box(height, width, draws.area[i], draws.ratio[i], draws.centre[i])
    mirrored = draws.flip[i] or draws.vflip[i]
    straight = None if mirrored else out
    if draws.warped:
        (tall, wide), within = before_warp(height, width, box, size)
        image = resize(image, tall, wide)
        matrix = warp_matrix(within, size, draws.angle[i], draws.shear[i], draws.zoom[i], draws.shift[i])
        kind = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REFLECT_101}
        made = by_fours(lambda part, place: cv2.warpAffine(part, matrix, (size, size), place, **kind), image, straight)
    else:
        made = resize(image[box[0] : box[2], box[1] : box[3]], size, size, straight, LINEAR_BELOW)
    if not mirrored:
        return made
    # not made[:, ::-1]: numpy would copy it to its place in the batch three bytes at a time
    turned = cv2.flip(made, -1 if draws.flip[i] and draws.vflip[i] else 1 if draws.flip[i] else 0, out)
    return turned if turned.ndim == 3 else turned[..., None]


def before_warp(
    height: int, width: int, box: tuple[int, int, int, int], size: int
) -> tuple[tuple[int, int], tuple[float, float, float, float]]:
    """The (height, width) that an image is resized to before it is warped, and its crop `box` in that.

    A warp interpolates between four pixels: what lies between them would alias, so the image is shrunk first.
    """
    shrink = min(box[2] - box[0], box[3] - box[1]) / size
    if shrink <= 1.5:
        return (height, width), box
    tall, wide = max(1, round(height / shrink)), max(1, round(width / shrink))
    by_h, by_w = tall / height, wide / width
    return (tall, wide), (box[0] * by_h, box[1] * by_w, box[2] * by_h, box[3] * by_w)


def warp_matrix(
    box: tuple[float, float, float, float], size: int, angle: float, shear: float, zoom: float, shift: np.ndarray
) -> np.ndarray:
    """(2, 3) float64 map from pixels of the image to pixels of the size x size output: crop, then rotate, shear, zoom
    and shift about the centre of the crop."""
    top, left, bottom, right = box
    scale = np.diag([size / (right - left), size / (bottom - top)])
    turn, slant = np.deg2rad(angle), np.tan(np.deg2rad(shear))
    rotate = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = zoom * rotate @ np.array([[1, slant], [0, 1]]) @ scale
    centre_in = np.array([(left + right - 1) / 2, (top + bottom - 1) / 2])
    centre_out = np.array([(size - 1) / 2] * 2) + size * shift[::-1]
    return np.column_stack([linear, centre_out - linear @ centre_in])


def centre_view(image: np.ndarray, size: int, crop: float, position: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    """The evaluation crop: short side to round(size / crop), then a size x size window, in the middle by default.

    position: (y, x) of the window in its free room, 0 = top or left, 1 = bottom or right.
    """
    height, width = image.shape[:2]
    short = max(size, round(size / crop))
    scale = short / min(height, width)
    image = resize(image, max(size, round(height * scale)), max(size, round(width * scale)))
    top = round(position[0] * (image.shape[0] - size))
    left = round(position[1] * (image.shape[1] - size))
    return image[top : top + size, left : left + size]


def _erase_boxes(probability: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random erasing (1708.04896): 2-33 % of the area, ratio 0.3-3.3, as (B, 4) shares of the side."""
    if not probability:
        return np.zeros((count, 4), np.float32)
    area, ratio = rng.uniform(0.02, 0.33, count), np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3), count))
    h, w = np.minimum(1, np.sqrt(area / ratio)), np.minimum(1, np.sqrt(area * ratio))
    top, left = rng.random(count) * (1 - h), rng.random(count) * (1 - w)
    boxes = np.stack([top, left, top + h, left + w], 1)
    return (boxes * (rng.random(count) < probability)[:, None]).astype(np.float32)
