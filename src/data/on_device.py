"""Images that lie decoded on a device, and the augmented crops that are made of them there.

The crops are those of `loader.training_batch`: the same draws, boxes, sizes and kinds of interpolation. All that
resizes is linear in the pixels and separable, so it is two matrix products per image, whose matrices hold OpenCV's own
weights: of areas where it averages areas, of two neighbours where it is linear. A warp gathers its four neighbours.

How far the two may be apart, in samples of 8 bits: OpenCV works with weights of 11 bits and rounds, this with float32
and rounds, so resized crops differ by at most 1. Warped ones too where OpenCV interpolates at exact places (OpenCV 5);
OpenCV 4 rounds places to 1/32 pixel, so a pixel may differ by 1/64 of the step between its neighbours in each
direction: at most 9 at an edge from black to white, below 1 in the mean even of noise. Erased boxes are equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from src.data.augment import Draws, before_warp, crop_box, sample, warp_matrix
from src.data.cache import ImageStore
from src.data.loader import Batch, Order
from src.data.resizing import LINEAR_BELOW, averages
from src.log import Ticker

# Pixels that are worked on at a time: with their places and as floats of three channels they take 23 bytes each.
AT_ONCE = 2**23
READ_AT_ONCE = 256  # images
TYPES = {"uint8": torch.uint8, "uint16": torch.uint16}


@dataclass(frozen=True)
class Parts:
    """Boxes of B pictures that lie among the pixels of a buffer, and what they become; (B,) int64 each, on the host.

    base: the pixel that a picture begins with. stride: pixels in its rows. top … width: the box. tall, wide: what it is
    resized to. upside, mirrored: flips of the result. area: whether areas are averaged.
    """

    base: np.ndarray
    stride: np.ndarray
    top: np.ndarray
    left: np.ndarray
    height: np.ndarray
    width: np.ndarray
    tall: np.ndarray
    wide: np.ndarray
    upside: np.ndarray
    mirrored: np.ndarray
    area: np.ndarray

    def of(self, some: np.ndarray) -> Parts:
        return Parts(*(values[some] for values in vars(self).values()))

    def to(self, device: torch.device) -> list[Tensor]:
        return list(sent(np.stack(list(vars(self).values())), device))


class Resident:
    """The images of `rows` (n,) int64 of a store, decoded, on a device: one flat buffer of pixels, and where in it each
    row begins, its height and its width, all (len(store),) int64 on the host; -1 where a row is not there."""

    def __init__(self, store: ImageStore, rows: np.ndarray, device: torch.device | str, workers: int = 0) -> None:
        """Fetches each image once, by `workers` threads. Raises the store's UserError for one that cannot be read."""
        self.spec, self.device = store.spec, torch.device(device)
        self.begin, self.height, self.width = (np.full(len(store), -1, np.int64) for _ in range(3))
        parts, there = [], 0
        ticker = Ticker("images to the device", len(rows))
        for some in np.split(rows, range(READ_AT_ONCE, len(rows), READ_AT_ONCE)):
            images = fetched(store, some, workers)
            for row, image in zip(some, images, strict=True):
                self.begin[row], self.height[row], self.width[row] = there, *image.shape[:2]
                there += image.shape[0] * image.shape[1]
            flat = np.concatenate([image.reshape(-1, store.spec.channels) for image in images])
            # torch indexes no unsigned numbers of 16 bits: their bits as signed ones
            parts.append(torch.from_numpy(flat if flat.dtype == np.uint8 else flat.view(np.int16)).to(self.device))
            ticker.step(len(some))
        ticker.close()
        self.pixels = torch.cat(parts)

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes

    def training_batch(self, order: Order) -> Batch:
        """`loader.training_batch` with its images on the device; rows, colour and readable are on the host."""
        assert order.augment is not None and not order.augment.albumentations
        count, size = len(order.rows), order.size
        draws = sample(order.augment, count, np.random.default_rng(order.seed), self.spec.channels)
        with torch.autocast(self.device.type, enabled=False):  # of who asks: products of pixels want all their bits
            values = self._warped(order.rows, size, draws) if draws.warped else self._straight(order.rows, size, draws)
        if draws.erase.any():
            values = erased(values, (draws.erase * size).round().astype(np.int64), self.spec.grey)
        # by int32, because some devices make no unsigned numbers of 16 bits from floats
        images = values.to(TYPES[self.spec.samples]) if self.spec.samples == "uint8" else values.int().to(torch.uint16)
        on_host = (torch.from_numpy(each) for each in (draws.colour, order.rows, np.ones(count, bool)))
        return Batch(images[None], *on_host)

    def _boxes(self, rows: np.ndarray, draws: Draws) -> np.ndarray:
        """(B, 4) int64 top, left, bottom, right."""
        shapes = zip(self.height[rows].tolist(), self.width[rows].tolist(), strict=True)
        boxes = [crop_box(h, w, draws.area[i], draws.ratio[i], draws.centre[i]) for i, (h, w) in enumerate(shapes)]
        return np.array(boxes, np.int64).reshape(-1, 4)

    def _straight(self, rows: np.ndarray, size: int, draws: Draws) -> Tensor:
        """Crop, resize, flip: (B, S, S, C) float32, whole numbers."""
        top, left, bottom, right = self._boxes(rows, draws).T
        height, width, sizes = bottom - top, right - left, np.full(len(rows), size)
        area = np.array([averages(each, (size, size), LINEAR_BELOW) for each in zip(height, width, strict=True)])
        place = (self.begin[rows], self.width[rows], top, left, height, width)
        return resized(self.pixels, Parts(*place, sizes, sizes, draws.vflip, draws.flip, area))

    def _warped(self, rows: np.ndarray, size: int, draws: Draws) -> Tensor:
        """The same by an affine map, of images that are shrunk before it where they are much larger."""
        height, width, boxes = self.height[rows], self.width[rows], self._boxes(rows, draws)
        shrunk, inverse = np.empty((len(rows), 2), np.int64), np.empty((len(rows), 6))
        for i, box in enumerate(boxes.tolist()):
            shrunk[i], within = before_warp(int(height[i]), int(width[i]), box, size)
            matrix = warp_matrix(within, size, draws.angle[i], draws.shear[i], draws.zoom[i], draws.shift[i])
            inverse[i] = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2].ravel()
        out = torch.empty(len(rows), size, size, self.spec.channels, device=self.device)
        whole = (shrunk == np.stack([height, width], 1)).all(1)
        for some in batched(np.flatnonzero(whole), size * size):
            shape = np.stack([self.begin[rows[some]], width[some], height[some], width[some]])
            out[sent(some, self.device)] = warped(
                self.pixels, shape, inverse[some], size, draws.vflip[some], draws.flip[some]
            )
        tall, wide = shrunk.T
        zero, no = np.zeros(len(rows), np.int64), np.zeros(len(rows), bool)
        area = np.array([averages((h, w), (t, v)) for h, w, t, v in zip(height, width, tall, wide, strict=True)])
        parts = Parts(self.begin[rows], width, zero, zero, height, width, tall, wide, no, no, area)
        for some in batched(np.flatnonzero(~whole), int(height.max() * width.max())):
            small = resized(self.pixels, parts.of(some))
            base = np.arange(len(some)) * (small.shape[1] * small.shape[2])
            shape = np.stack([base, np.full(len(some), small.shape[2]), tall[some], wide[some]])
            pixels = small.reshape(-1, self.spec.channels)
            out[sent(some, self.device)] = warped(
                pixels, shape, inverse[some], size, draws.vflip[some], draws.flip[some]
            )
        return out


def fetched(store: ImageStore, rows: np.ndarray, workers: int) -> list[np.ndarray]:
    """The images of rows, decoded by that many threads: decoders leave Python to others."""
    first = store.pixels(int(rows[0]))  # opens the store, which one thread is to do
    with ThreadPoolExecutor(max(1, workers)) as pool:
        return [first, *pool.map(store.pixels, rows[1:].tolist())]


def sent(values: np.ndarray, device: torch.device) -> Tensor:
    """`values` on the device, without waiting for what it is doing."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def batched(which: np.ndarray, pixels: int) -> Iterator[np.ndarray]:
    """`which` in parts of at most AT_ONCE pixels, at `pixels` each, or of one."""
    step = max(1, AT_ONCE // pixels)
    return (which[start : start + step] for start in range(0, len(which), step))


def resized(pixels: Tensor, parts: Parts) -> Tensor:
    """(B, tallest, widest, C) float32 whole numbers, what is beyond a picture's own size undefined; pixels (P, C)."""
    tall, wide, count = int(parts.tall.max()), int(parts.wide.max()), len(parts.base)
    out = torch.empty(count, tall, wide, pixels.shape[1], device=pixels.device)
    for some in batched(np.arange(count), int(parts.height.max() * parts.width.max())):
        part = parts.of(some)
        high, broad = int(part.height.max()), int(part.width.max())
        base, stride, top, left, height, width, to_tall, to_wide, upside, mirrored, area = part.to(pixels.device)
        y = torch.arange(high, device=pixels.device).minimum(height[:, None] - 1) + top[:, None]
        x = torch.arange(broad, device=pixels.device).minimum(width[:, None] - 1) + left[:, None]
        found = taken(pixels, (base[:, None] + y * stride[:, None])[:, :, None] + x[:, None])  # (b, high, broad, C)
        by_rows = torch.bmm(weights(height, to_tall, upside, area, high, tall), found.flatten(2))
        turned = by_rows.view(len(some), tall, broad, -1).transpose(1, 2).flatten(2)  # (b, broad, tall * C)
        made = torch.bmm(weights(width, to_wide, mirrored, area, broad, wide), turned)
        out[some[0] : some[-1] + 1] = rounded(made.view(len(some), wide, tall, -1).transpose(1, 2))
    return out


def weights(before: Tensor, after: Tensor, flipped: Tensor, area: Tensor, most: int, count: int) -> Tensor:
    """(B, count, most) float32: what each of `most` pixels of a line counts in each of the `count` that it becomes.

    before, after: their numbers in each line (B,); flipped, area: as in `Parts`.
    """
    i = torch.arange(count, device=before.device)
    i = torch.where(flipped[:, None] > 0, after[:, None] - 1 - i, i)[:, :, None].float()
    j = torch.arange(most, device=before.device).float()
    scale, last = (before / after).float()[:, None, None], (before - 1).float()[:, None, None]
    # of two neighbours: a hat about the place, which the edges hold back
    place = ((i + 0.5) * scale - 0.5).clamp_min(0).minimum(last)
    linear = (1 - (j - place).abs()).clamp_min(0)
    covered = (j + 1).minimum((i + 1) * scale) - j.maximum(i * scale)
    return torch.where(area[:, None, None] > 0, covered.clamp_min(0) / scale, linear)


def warped(
    pixels: Tensor, shapes: np.ndarray, inverse: np.ndarray, size: int, upside: np.ndarray, mirrored: np.ndarray
) -> Tensor:
    """(B, S, S, C) float32 whole numbers, interpolated linearly, the pictures reflected at their edges (101).

    pixels: (P, C). shapes: (4, B) int64 base, stride, height, width. inverse: (B, 6) maps from pixels of the result to
    those of a picture. upside, mirrored: (B,) flips of the result.
    """
    base, stride, height, width = sent(shapes, pixels.device)[..., None, None]
    maps = sent(inverse.astype(np.float32), pixels.device).T[..., None, None]
    turned = sent(np.stack([upside, mirrored]), pixels.device)[..., None]
    line = torch.arange(size, device=pixels.device)
    down, along = torch.where(turned, size - 1 - line, line).float()
    down, along = down[:, :, None], along[:, None]
    x = maps[0] * along + maps[1] * down + maps[2]
    y = maps[3] * along + maps[4] * down + maps[5]
    left, top = x.floor(), y.floor()
    share_x, share_y = (x - left)[..., None], (y - top)[..., None]
    columns = [reflected(left.long() + more, width) for more in (0, 1)]
    lines = [base + reflected(top.long() + more, height) * stride for more in (0, 1)]
    upper, lower = (taken(pixels, row + columns[0]).lerp(taken(pixels, row + columns[1]), share_x) for row in lines)
    return rounded(upper.lerp(lower, share_y))


def reflected(place: Tensor, count: Tensor) -> Tensor:
    """Places on an endless line as those of `count` pixels that are repeated back and forth, the ends once."""
    period = (2 * (count - 1)).clamp_min(1)
    within = place.remainder(period)
    return within.minimum(period - within).minimum(count - 1)


def taken(pixels: Tensor, index: Tensor) -> Tensor:
    """(…, C) float32 values of the pixels at `index` (…) int64."""
    found = pixels.index_select(0, index.flatten())
    if found.dtype == torch.int16:
        found = found.int() & 0xFFFF
    return found.float().view(*index.shape, pixels.shape[1])


def rounded(values: Tensor) -> Tensor:
    """To whole numbers, halves upwards, as OpenCV's integer code does."""
    return (values + 0.5).floor_()


def erased(images: Tensor, boxes: np.ndarray, grey: Sequence[float] | np.ndarray) -> Tensor:
    """images (B, S, S, C) with `grey` (C,) in the boxes (B, 4) int64 top, left, bottom, right; none of 0."""
    top, left, bottom, right = sent(boxes.T, images.device)[..., None]
    line = torch.arange(images.shape[1], device=images.device)
    rows, columns = (line >= top) & (line < bottom), (line >= left) & (line < right)
    fill = sent(np.asarray(grey, np.float32), images.device)
    return torch.where((rows[:, :, None] & columns[:, None])[..., None], fill, images)
