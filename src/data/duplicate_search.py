"""A 63-bit perceptual hash, and the pairs of rows whose hashes differ in a few bits, without comparing all with all.

The hash is the signs of the 63 lowest frequencies of a 32 x 32 DCT (pHash). Sixteen tables are keyed by some of the
bits each; a row is looked up under its own key and under those with the three least certain of them turned, and also as
its mirror image, which only turns the signs of the odd horizontal frequencies.
"""

from __future__ import annotations

import cv2
import numpy as np

BITS, TABLES, DOUBTFUL, TURNED = 63, 16, 16, 3
# Of 400 photographs cropped by 3 % at each edge or by 3 % at one corner, 99 % differ in at most 16 bits; pairs of
# different ones differ in 19 or fewer in 1 % of the cases. The tables find 98 % of both kinds of crops.
MOST_BITS = 16
# Rows of one bucket that are looked at, and candidates that are kept per row: bounds memory where many images are
# alike. More than enough elsewhere: buckets of photographs hold 1 to 30 rows.
BUCKET, NEAREST = 256, 16
BLOCK = 65_536  # rows looked up at a time
_Y, _X = np.mgrid[:32, :32].reshape(2, -1)
ORDER = np.argsort((_Y + _X) * 100 + abs(_Y - _X), kind="stable")[1 : BITS + 1]  # low frequencies first, no mean
MIRROR = np.bitwise_or.reduce(np.left_shift(np.uint64(1), np.flatnonzero(_X[ORDER] % 2).astype(np.uint64)))
SPREAD = 1.0 / (1 + (_Y + _X)[ORDER])  # natural images have amplitudes of about 1 / frequency


def perceptual_bits(grey: np.ndarray) -> tuple[np.uint64, np.ndarray]:
    """The hash of a grey image (H, W) uint8, and its 16 least certain bits, (16,) uint8, the least certain first."""
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    waves = cv2.dct(small).reshape(-1)[ORDER]
    return _pack(waves[None] > 0)[0], np.argsort(np.abs(waves) / SPREAD, kind="stable")[:DOUBTFUL].astype(np.uint8)


def candidates(
    bits: np.ndarray, doubt: np.ndarray, most_bits: int = MOST_BITS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of rows to compare closely: first, second (P,) int64 with first < second, ordered, and mirrored (P,) bool.

    bits (N,) uint64 and doubt (N, K) uint8 as `perceptual_bits` gives them. Each row keeps its NEAREST candidates.
    """
    count = len(bits)
    # about one row in sixteen buckets if the bits were independent, which they are not quite
    width = int(np.clip(np.ceil(np.log2(max(2, count))) + 4, 12, 24))
    random = np.random.RandomState(0)  # its stream is frozen: the same tables with every NumPy
    found = np.zeros((4, 0), np.int64)  # first, second, mirrored, bits that differ
    for _ in range(TABLES):
        chosen = random.permutation(BITS)[:width]
        keys, in_key = _gather(bits, chosen), np.isin(np.arange(BITS), chosen)
        starts = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=1 << width))])
        rows = np.argsort(keys, kind="stable")
        parts = [found]
        for low in range(0, count, BLOCK):
            asked = np.arange(low, min(count, low + BLOCK))
            weak = np.argsort(~in_key[doubt[asked]], axis=1, kind="stable")[:, :TURNED]
            weak = np.take_along_axis(doubt[asked], weak, axis=1)
            for mirrored in (0, 1):
                plain = bits[asked] ^ (MIRROR if mirrored else np.uint64(0))
                for turned in range(1 << TURNED):
                    key = _gather(plain ^ _turn(weak, turned), chosen)
                    parts.append(_look_up(bits, asked, plain, starts[key], starts[key + 1], rows, mirrored, most_bits))
        found = _nearest(np.concatenate(parts, axis=1))
    first, second, flips, _ = found
    order = np.lexsort((flips, second, first))
    return first[order], second[order], flips[order].astype(bool)


def _look_up(
    bits: np.ndarray,
    asked: np.ndarray,
    plain: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    rows: np.ndarray,
    mirrored: int,
    most_bits: int,
) -> np.ndarray:
    """(4, K) int64: pairs of each row of `asked` with those in its bucket, rows[start:stop], of few different bits."""
    sizes = np.minimum(stop - start, BUCKET)
    owner = np.repeat(np.arange(len(asked)), sizes)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + start[owner]
    other = rows[place]
    differ = popcount(plain[owner] ^ bits[other])
    kept = (differ <= most_bits) & (asked[owner] != other)
    one, other = asked[owner[kept]], other[kept]
    return np.stack([np.minimum(one, other), np.maximum(one, other), np.full(len(one), mirrored), differ[kept]])


def _nearest(found: np.ndarray) -> np.ndarray:
    """Each pair once, and of each first row only the NEAREST pairs with the fewest different bits."""
    found = found[:, np.lexsort((found[1], found[3], found[2], found[0]))]
    order = np.lexsort((found[2], found[1], found[0]))
    twice = (np.diff(found[:3, order], axis=1) == 0).all(axis=0)
    keep = np.ones(found.shape[1], bool)
    keep[order[1:][twice]] = False
    found = found[:, keep]
    found = found[:, np.lexsort((found[1], found[3], found[0]))]
    begins = np.searchsorted(found[0], found[0])
    return found[:, np.arange(found.shape[1]) - begins < NEAREST]


def popcount(values: np.ndarray) -> np.ndarray:
    """Number of ones in each of `values` (N,) uint64, (N,) int64. np.bitwise_count needs NumPy 2."""
    return np.bitwise_count(values).astype(np.int64) if hasattr(np, "bitwise_count") else _popcount_in_bytes(values)


def _popcount_in_bytes(values: np.ndarray) -> np.ndarray:
    return np.unpackbits(np.ascontiguousarray(values).view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1, dtype=np.int64)


def _gather(bits: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The chosen bits side by side as a key, (N,) int64."""
    key = np.zeros(len(bits), np.int64)
    for place, bit in enumerate(chosen):
        key |= ((bits >> np.uint64(bit)) & np.uint64(1)).astype(np.int64) << place
    return key


def _turn(weak: np.ndarray, which: int) -> np.ndarray:
    """(N,) uint64 with those of the bits `weak` (N, K) set that the binary digits of `which` name."""
    mask = np.zeros(len(weak), np.uint64)
    for place in range(weak.shape[1]):
        if which >> place & 1:
            mask |= np.uint64(1) << weak[:, place].astype(np.uint64)
    return mask


def _pack(signs: np.ndarray) -> np.ndarray:
    """(N, 63) bool -> (N,) uint64, the first sign in the lowest bit."""
    padded = np.zeros((len(signs), 64), np.uint8)
    padded[:, :BITS] = signs
    return np.packbits(padded, axis=1, bitorder="little").view("<u8").reshape(-1).astype(np.uint64)
