"""Garbage in is noticed: what augmentation makes of pictures, and what a network would see of them."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from src.data.augment import Augment
from src.data.cache import ImageStore
from src.data.loader import Order, training_batch
from src.data.sight import doubts, see, told_by_colour
from src.data.spec import ImageSpec
from src.data.transforms import check_albumentations
from src.errors import UserError
from src.words import full_words, key_of

SIDE = 32
# ---- albumentations: a spec, channels, and what is said of it; None: it is taken
SPECS: dict[str, tuple[Any, int, str | None]] = {
    "blur": ({"Blur": {"p": 0.1}}, 3, None),
    "a bare name": ("HorizontalFlip", 3, None),
    "without arguments": ({"Blur": None}, 3, None),
    "one of": ({"OneOf": {"transforms": [{"Blur": {}}, {"MedianBlur": {}}], "p": 0.5}}, 3, None),
    "one of, in short": ({"OneOf": [{"Blur": {}}, "MedianBlur"]}, 3, None),
    "some of": ({"SomeOf": {"transforms": [{"Blur": {}}, {"Transpose": {}}], "n": 1}}, 3, None),
    "nested twice": ({"Sequential": [{"OneOf": [{"Blur": {}}, {"Sequential": [{"Transpose": {}}]}]}]}, 3, None),
    "one of, by name": ({"OneOf": {"transforms": {"Blur": {"p": 1.0}, "MedianBlur": {}}}}, 3, None),
    "one or other": ({"OneOrOther": {"first": {"Blur": {}}, "second": "Transpose"}}, 3, None),
    "one or other of a kind": ({"OneOrOther": {"first": "Blur", "second": "Normalize"}}, 3, "OneOrOther makes .*32 of"),
    "one of none": ({"OneOf": []}, 3, r"OneOf: takes a list of transforms, \{OneOf: \[\{Blur"),
    "one of nothing": ("OneOf", 3, r"OneOf: takes a list of transforms"),
    "one of, without a list": ({"OneOf": {"p": 0.5}}, 3, r"OneOf: takes a list of transforms"),
    "grey in three channels": ({"ToGray": {}}, 3, None),
    "crop and resize": ({"Sequential": [{"RandomCrop": {"height": 20, "width": 20}},
                                        {"Resize": {"height": SIDE, "width": SIDE}}]}, 3, None),
    "resized crop": ({"RandomResizedCrop": {"size": [SIDE, SIDE]}}, 3, None),
    "normalise": ({"Normalize": {}}, 3, "Normalize makes 32 x 32 x 3 of float32 .*; leave it out: pictures are norm"),
    "normalise, rarely": ({"Normalize": {"p": 0.01}}, 3, "Normalize makes .* of float32"),
    "normalise in one of": ({"OneOf": [{"Normalize": {"p": 1.0}}, {"Blur": {"p": 1.0}}]}, 3, "OneOf makes .*float32"),
    "to float": ({"ToFloat": {"max_value": 255}}, 3, "ToFloat makes .* of float32 .*; leave it out: pictures become"),
    "from float": ({"FromFloat": {}}, 3, "FromFloat (fails on|makes)"),
    "to tensor": ({"ToTensorV2": {}}, 3, r"ToTensorV2 makes 3 x 32 x 32 of torch\.uint8 .*; leave it out: batches"),
    "random crop": ({"RandomCrop": {"height": 20, "width": 24}}, 3, "RandomCrop makes 20 x 24 x 3 of .*Sequential"),
    "centre crop, rarely": ({"CenterCrop": {"height": 9, "width": 9, "p": 0.05}}, 3, "CenterCrop makes 9 x 9 x 3"),
    "too large a crop": ({"RandomCrop": {"height": 99, "width": 99}}, 3, "RandomCrop fails on 32 x 32 pictures of 3"),
    "resize": ({"Resize": {"height": 64, "width": 64}}, 3, "Resize makes 64 x 64 x 3 .*; leave it out: size= decides"),
    "padding": ({"PadIfNeeded": {"min_height": 40, "min_width": 40}}, 3, "PadIfNeeded makes 40 x 40 x 3"),
    "grey in one channel": ({"ToGray": {"num_output_channels": 1}}, 3, "ToGray makes 32 x 32 of .*_channels=3"),
    "colours of four channels": ({"HueSaturationValue": {}}, 4, "HueSaturationValue fails on 32 x 32 pictures of 4 ch"),
    "a typo": ({"GausianBlur": {}}, 3, "no transform 'GausianBlur'; did you mean 'GaussianBlur'?"),
    "a name in small letters": ({"gaussianblur": {}}, 3, "no transform 'gaussianblur'; did you mean 'GaussianBlur'?"),
    "a name of a module": ({"blur": {}}, 3, "no transform 'blur'; did you mean 'Blur'?"),
    "a name with its module": ({"albumentations.Blur": {}}, 3, "no transform 'albumentations.Blur'"),
    "a typo in one of": ({"OneOf": [{"Blurr": {}}]}, 3, "no transform 'Blurr'; did you mean 'Blur'?"),
    "no transform": ({"np": {}}, 3, "no transform 'np'"),
    "no such argument": ({"Blur": {"blurr": 3}}, 3, "Blur: "),
    "no such value": ({"Blur": {"blur_limit": "much"}}, 3, "Blur: "),
    "no spec": ({"Blur": {}, "MedianBlur": {}}, 3, "should be one name with its arguments"),
    "a number": (3, 3, "should be one name with its arguments"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.filterwarnings("ignore")
def test_transforms_are_tried_before_training(tmp_path: Path, name: str) -> None:
    spec, channels, message = SPECS[name]
    if message is not None:
        with pytest.raises(UserError, match=message) as error:
            check_albumentations((spec,), [SIDE], channels, np.dtype(np.uint8))
        assert "\n" not in str(error.value)
        return
    check_albumentations((spec,), [SIDE], channels, np.dtype(np.uint8))
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 40, 3), 99, np.uint8))
    store = ImageStore(tmp_path, np.array([b"a.png"]), SIDE)
    order = Order(np.zeros(4, np.int64), SIDE, Augment(albumentations=(spec,)))
    assert training_batch(store, order).images.shape == (1, 4, SIDE, SIDE, 3)


def test_what_a_trial_has_missed_is_no_noise(tmp_path: Path) -> None:
    """Batches are looked at as well."""
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 40, 3), 99, np.uint8))
    store = ImageStore(tmp_path, np.array([b"a.png"]), SIDE)
    for spec in ({"Normalize": {"p": 1.0}}, {"ToGray": {"num_output_channels": 1, "p": 1.0}}):
        with pytest.raises(UserError, match=r"augment\.albumentations: one of them makes"):
            training_batch(store, Order(np.zeros(4, np.int64), SIDE, Augment(albumentations=(spec,))))


def test_the_cure_of_a_crop_is_followed() -> None:
    crop = {"RandomCrop": {"height": 20, "width": 20}}
    with pytest.raises(UserError) as error:
        check_albumentations((crop,), [SIDE], 3, np.dtype(np.uint8))
    behind = re.search(r"put \{Resize: (\{.*?\})\} into one Sequential behind it", str(error.value))
    assert behind is not None
    resize = {"Resize": ast.literal_eval(re.sub(r"(\w+):", r"'\1':", behind[1]))}
    check_albumentations(({"Sequential": [crop, resize]},), [SIDE], 3, np.dtype(np.uint8))


# ---- what a network will see ----------------------------------------------------------------------------------------


def stripes(level: int, n: int) -> np.ndarray:
    """(24, 24) uint8, of which each is another picture."""
    return (np.indices((24, 24))[0] * (3 + n) % 64 + level).astype(np.uint8)


def in_alpha(n: int) -> np.ndarray:
    alpha = np.where(stripes(0, n) > 30, 255, 0).astype(np.uint8)
    return np.dstack([np.zeros((24, 24, 3), np.uint8), alpha])


# name: (picture number n, the keys it is read with, what is said, whether the cure makes it silent)
PICTURES: dict[str, tuple[Any, ImageSpec, str | None, bool]] = {
    "plain": (lambda n: stripes(100, n), ImageSpec(), None, False),
    "colour": (lambda n: np.dstack([stripes(level, n) for level in (10, 90, 150)]), ImageSpec(), None, False),
    "black and white": (lambda n: np.where(stripes(0, n) > 30, 255, 0).astype(np.uint8), ImageSpec(), None, False),
    "one flat picture": (lambda n: stripes(100, n) * (n > 0), ImageSpec(), None, False),
    "12 bits in 16": (lambda n: stripes(0, n).astype(np.uint16) * 60, ImageSpec(), "16 levels|15 levels", True),
    "10 bits in 16": (lambda n: stripes(0, n).astype(np.uint16) * 16, ImageSpec(), "nearly black", True),
    "13 bits in 16": (lambda n: stripes(0, n).astype(np.uint16) * 90, ImageSpec(), "nearly black", True),
    "12 bits, kept": (
        lambda n: stripes(0, n).astype(np.uint16) * 60, ImageSpec(1, "uint16"), "nearly black", True
    ),
    "0 and 1": (lambda n: (stripes(0, n) > 30).astype(np.uint8), ImageSpec(), "flat colour", False),
    "0 to 15": (lambda n: stripes(0, n) // 4, ImageSpec(), "nearly black", False),
    "all in alpha": (in_alpha, ImageSpec(), "6 of 6 pictures are of one flat colour", True),
    "all in alpha, over black": (in_alpha, ImageSpec(alpha="black"), "of one flat colour", True),
    "all in alpha, kept": (in_alpha, ImageSpec(4, alpha="keep"), None, False),
    "all black": (lambda n: np.zeros((24, 24), np.uint8), ImageSpec(), "6 of 6 pictures are of one flat", False),
    "a third is flat": (lambda n: stripes(100, n) * (n % 3 > 0), ImageSpec(), "2 of 6 pictures", False),
}  # fmt: skip


def look(root: Path, spec: ImageSpec) -> tuple[str, list[str]]:
    files = sorted(path.name.encode() for path in root.glob("*.png"))
    store = ImageStore(root, np.array(files), 24, spec=spec)
    sight = see(store, np.arange(len(files)))
    assert sight is not None
    return sight.line(), doubts(sight, store, np.full(len(files), "x"))


@pytest.mark.parametrize("name", PICTURES)
def test_what_will_be_seen(tmp_path: Path, name: str) -> None:
    make, spec, said, curable = PICTURES[name]
    for n in range(6):
        cv2.imwrite(str(tmp_path / f"{n}.png"), make(n))
    line, found = look(tmp_path, spec)
    assert line.startswith("pictures: 6 looked at, ")
    assert bool(found) is (said is not None), found
    if said is None:
        return
    assert re.search(said, found[0]) and found[0].startswith("warning: ") and "\n" not in found[0]
    if curable:
        cure = re.search(r"; try (.*?) \(", found[0])
        assert cure is not None, found
        words = full_words_of(shlex.split(cure[1]))
        changed = ImageSpec(
            int(words.get("channels", spec.channels)),
            words.get("samples", spec.samples),  # type: ignore[arg-type]
            tuple(ast.literal_eval(words["range"])) if "range" in words else spec.range,
            words.get("alpha", spec.alpha),  # type: ignore[arg-type]
        )
        assert look(tmp_path, changed)[1] == []


def full_words_of(words: list[str]) -> dict[str, str]:
    from src.verbs import VERBS

    full = full_words(VERBS["train"], words)
    return {key_of(word).removeprefix("competition."): word.partition("=")[2].strip("'") for word in full}


def test_pictures_that_cannot_be_read_are_not_looked_at(tmp_path: Path) -> None:
    for n in range(4):
        cv2.imwrite(str(tmp_path / f"{n}.png"), stripes(100, n))
    (tmp_path / "1.png").write_bytes(b"torn")
    files = np.array([b"0.png", b"1.png", b"2.png", b"3.png", b"gone.png"])
    for policy in ("error", "blank", "mark"):
        sight = see(ImageStore(tmp_path, files, 24, None, policy), np.arange(5))
        assert sight is not None and sight.rows.tolist() == [0, 2, 3] and not sight.flat.any()
    assert see(ImageStore(tmp_path, files[1:2], 24), np.arange(1)) is None


def test_classes_by_their_mean_colour(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for n in range(20):
        cv2.imwrite(str(tmp_path / f"{n:02}.png"), (stripes(100 * (n % 2), n) + rng.integers(0, 9)).astype(np.uint8))
    files = np.array([f"{n:02}.png".encode() for n in range(20)])
    store = ImageStore(tmp_path, files, 24)
    sight = see(store, np.arange(20))
    assert sight is not None
    (note,) = doubts(sight, store, np.array(["cat", "dog"] * 10))
    assert "the mean colour alone tells the class of 100% of 20 pictures (50% by chance)" in note
    assert doubts(sight, store, np.array(["cat", "cat", "dog", "dog"] * 5)) == []
    assert doubts(sight, store, np.array([f"c{n}" for n in range(20)])) == []


def test_the_nearest_mean_leaves_the_row_itself_out() -> None:
    colours = np.array([[0.0], [0.1], [1.0], [0.9], [0.02]])
    assert told_by_colour(colours, np.array([0, 0, 1, 1, 1])) == 4 / 5
    assert told_by_colour(colours[:3], np.array([0, 0, 1])) == 2 / 3, "a class of one row is told by nothing"
