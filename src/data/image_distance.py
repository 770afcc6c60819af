"""How far two pictures are from being copies of each other: by their fine detail, aligned for a crop."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

SIDE = 64  # pixels of the thumbnails that are compared; at 32 different shirts come out as near as crops (0.06, 0.11)
# Largest distance of a copy. On the photographs the nearest different pair is at 0.15, and 98 % of 3 % crops are
# below 0.10; of re-saved, halved and brightened copies more than 99 % are below 0.06.
NEAR = 0.12
HOPELESS = 0.4  # aligned one way only; copies are then at 0.24 at most
# Images with a short side below TINY are compared as they are: 3 % of 28 pixels is less than one pixel, and aligned,
# two handwritten ones differ as little as a copy. Nearest different MNIST digits: 0.040; re-saved ones: 0.023 at most.
TINY, NEAR_TINY = 48, 0.03
LEAST_SIDE = 16  # below it only exact copies are found: there is too little to compare
LEAST_DETAIL = 1.0  # standard deviation of the fine detail in grey levels; a blank scan has nothing to compare


def image_distance(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """(distance, largest distance of a copy) of two grey images (H, W) uint8, short side at most SIDE.

    1 - correlation of their fine detail, the image less its blur: what photographs of a kind have in common, a dark
    shape on a light floor, is in the blur. Brightness and contrast do not count. From TINY pixels on, either image may
    be the other's crop. The distance is inf where there is too little to compare.
    """
    side = min(SIDE, *a.shape, *b.shape)
    if side < LEAST_SIDE:
        return np.inf, NEAR
    x, y = (cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) for image in (a, b))
    if min(_detail(x).std(), _detail(y).std()) < LEAST_DETAIL:
        return np.inf, NEAR
    if side < TINY:
        return 1 - _correlation(_detail(x), _detail(y)), NEAR_TINY
    best = 2.0
    for one, other in ((x, y), (y, x)):
        columns, rows, inside = _align(one, other)
        warped = cv2.remap(other, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        best = min(best, 1 - _correlation(_detail(one)[inside], _detail(warped)[inside]))
        if best <= NEAR or best > HOPELESS:
            break
    return best, NEAR


def _align(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where in `other` the pixels of `one` are, up to scale and shift in x and y: columns and rows (S, S) float32 for
    cv2.remap, and which of them are inside (S, S) bool.

    Gauss-Newton on scales, shifts, gain and offset, up to 10 % of the side. cv2.findTransformECC would also rotate
    and shear, which a crop does not, and which brings different images nearer.
    """
    half = (len(one) - 1) / 2
    v, u = (np.mgrid[: len(one), : len(one)].astype(np.float32) - half) / half
    smooth, moving = cv2.GaussianBlur(one, (0, 0), 1.0), cv2.GaussianBlur(other, (0, 0), 1.0)
    moved = np.zeros(4)
    best: tuple[float, Any] = (-2.0, None)
    for step in range(6):
        columns = ((u * (1 + moved[0]) + moved[1]) * half + half).astype(np.float32)
        rows = ((v * (1 + moved[2]) + moved[3]) * half + half).astype(np.float32)
        warped = cv2.remap(moving, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        inside = (columns >= 0) & (columns <= 2 * half) & (rows >= 0) & (rows <= 2 * half)
        now = _correlation(smooth[inside], warped[inside])
        if now > best[0]:
            best = (now, (columns, rows, inside))
        # What is still below 0.8 after two steps is a different image.
        if step == 5 or (step >= 2 and best[0] < 0.8):
            break
        dx, dy = cv2.Sobel(warped, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(warped, cv2.CV_32F, 0, 1, scale=1 / 8)
        slopes = np.stack([dx * u * half, dx * half, dy * v * half, dy * half, warped, np.ones_like(warped)], 2)[inside]
        normal = slopes.T @ slopes + 1e-3 * np.eye(6)
        solved = np.linalg.solve(normal, slopes.T @ smooth[inside])
        moved = np.clip(moved + solved[:4] / max(solved[4], 0.3), -0.1, 0.1)
    return best[1]


def _detail(image: np.ndarray) -> np.ndarray:
    return image - cv2.GaussianBlur(image, (0, 0), 1.5)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1e-6))
