"""Prediction against a naive loop over images and views, and the row order that makes it safe."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from torch import nn

from src.data import cache
from src.data.augment import centre_view
from src.data.cache import ImageStore
from src.data.decode import decode
from src.data.loader import Order, Window, evaluation_batch
from src.data.preprocess import Preprocess
from src.data.spec import Normalisation
from src.errors import UserError
from src.inference.predict import fill_unreadable, in_order, predict
from src.inference.tta import CENTRE, CORNERS, VIEWS, View, apply_symmetry, parse_views, weights_of, windows

torch.set_num_threads(1)  # the networks are so small that threads only cost

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
PREPROCESS = Preprocess(Normalisation(tuple(MEAN.tolist()), tuple(STD.tolist())))
SIZE, CROP = 24, 0.875


@pytest.fixture(scope="module")
def accelerator():
    from accelerate import Accelerator

    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for row in range(11):
        coarse = np.random.default_rng(row).integers(0, 256, (4, 5, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{row:02d}.png"), cv2.resize(coarse, (30 + 3 * row, 50 - row)))
    return folder


class CountingStore(ImageStore):
    def pixels(self, row: int) -> np.ndarray:
        self.__dict__.setdefault("calls", Counter())[row] += 1
        return super().pixels(row)


@pytest.fixture
def store(root: Path) -> CountingStore:
    return CountingStore(root, np.array([f"{row:02d}.png" for row in range(11)], np.bytes_), 40)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Sees left from right and up from down; dropout and BatchNorm would show a forgotten eval()."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8 * 5 * 5, 4),
    )


def run(model: nn.Module, store: ImageStore, rows: object, accelerator: object, views: list[View], **how: object):
    asked = {"size": SIZE, "crop": CROP, "batch_size": 4, "workers": 0, "preprocess": PREPROCESS} | how
    return predict(model, store, np.array(rows, np.int64), accelerator=accelerator, views=views, **asked)


def naive(model: nn.Module, store: ImageStore, row: int, views: list[View], crop: float = CROP) -> np.ndarray:
    """One image at a time through torchvision's normalise and flips; what was seen before does not count."""
    model.eval()
    total, weights, seen = torch.zeros(4, dtype=torch.float64), 0.0, set()
    for view in views:
        window = view.window
        if window.squash:
            image = cv2.resize(store.pixels(row), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        else:
            image = centre_view(store.pixels(row), SIZE, crop / window.zoom, window.position)
        turned = (image.tobytes(), view.transpose, view.vflip, view.flip)
        if turned in seen:
            continue
        seen.add(turned)
        weights += view.weight
        x = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255
        x = tv.normalize(x, MEAN.tolist(), STD.tolist())
        if view.transpose:
            x = x.transpose(1, 2)
        if view.vflip:
            x = tv.vertical_flip(x)
        if view.flip:
            x = tv.horizontal_flip(x)
        with torch.no_grad():
            total += view.weight * model(x[None])[0].double().softmax(0)
    return (total / weights).numpy()


WEIGHTED = parse_views(
    [
        {"weight": 3},
        {"flip": True, "weight": 0.5},
        {"position": [0, 1], "zoom": 1.2},
        {"transpose": True, "vflip": True},
    ]
)


@pytest.mark.parametrize("views", [*VIEWS.values(), WEIGHTED], ids=[*VIEWS, "weighted"])
def test_mean_of_views_equals_a_naive_loop(views, model, store, accelerator) -> None:
    rows = [7, 0, 10, 3, 5]
    found = run(model, store, rows, accelerator, views)
    assert found.shape == (5, 4) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(found, [naive(model, store, row, views) for row in rows], atol=1e-5)


def test_views_differ(model, store, accelerator) -> None:
    """So that the test above can fail."""
    found = [run(model, store, [2], accelerator, [view])[0] for view in VIEWS["d4"]]
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(found) for b in found[:i])


@pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
def test_rows_in_any_order_and_padding_dropped(batch_size, model, store, accelerator) -> None:
    everything = run(model, store, np.arange(11), accelerator, VIEWS["flip"], batch_size=11)
    for rows in (np.random.default_rng(0).permutation(11), [9], [8, 1, 6], np.arange(11)[::-1]):
        found = run(model, store, rows, accelerator, VIEWS["flip"], batch_size=batch_size)
        np.testing.assert_allclose(found, everything[rows], atol=1e-6)


def test_workers_make_no_difference(model, store, accelerator) -> None:
    rows = [4, 2, 9, 0, 1, 3]
    plain = run(model, store, rows, accelerator, VIEWS["crops"])
    np.testing.assert_array_equal(run(model, store, rows, accelerator, VIEWS["crops"], workers=2), plain)


@pytest.mark.parametrize("name", VIEWS)
def test_one_decode_per_image(name, model, store, accelerator) -> None:
    run(model, store, [3, 1, 7, 10, 0], accelerator, VIEWS[name])
    assert store.calls == dict.fromkeys((3, 1, 7, 10, 0), 1)


def test_the_model_is_in_eval_mode_without_gradients(model, store, accelerator) -> None:
    model.train()
    before = model[1].running_mean.clone()
    one, two = (run(model, store, [1, 2], accelerator, VIEWS["none"]) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert torch.equal(model[1].running_mean, before) and int(model[1].num_batches_tracked) == 0
    assert model[0].weight.grad is None


def test_an_unreadable_image_is_named(model, root, tmp_path, accelerator) -> None:
    (tmp_path / "a.png").write_bytes(b"torn")
    store = ImageStore(tmp_path, np.array(["a.png"], np.bytes_), 40)
    with pytest.raises(UserError, match=r"a\.png: not a readable image"):
        run(model, store, [0], accelerator, VIEWS["none"])


def test_no_rows(model, store, accelerator) -> None:
    with pytest.raises(AssertionError, match="no rows to predict"):
        run(model, store, [], accelerator, VIEWS["none"])


# ---- order ----------------------------------------------------------------------------------------------------------


def test_in_order() -> None:
    rows, seen = np.array([5, 2, 9]), np.array([9, -1, 2, 5, -1])
    found = in_order(rows, seen, np.array([[9.0], [0.0], [2.0], [5.0], [0.0]], np.float32))
    assert found.tolist() == [[5.0], [2.0], [9.0]] and found.dtype == np.float32


@pytest.mark.parametrize(
    ("rows", "seen"),
    [
        ([0, 1, 2], [0, 1]),  # missing
        ([0, 1], [0, 1, 1]),  # duplicate
        ([0, 1, 2], [0, 0, 2]),  # both, so that the count is right
        ([0, 1, 2], [0, 2, 2]),
        ([1, 2, 3], [0, 2, 3]),  # another row
        ([0, 1], []),
        pytest.param(
            [0, 1, 2],
            [0, 1, 1],  # the last row is missing,
        ),
    ],
)
def test_rows_that_did_not_come_exactly_once(rows: list[int], seen: list[int]) -> None:
    with pytest.raises(AssertionError, match="predict"):
        in_order(np.array(rows), np.array(seen, np.int64), np.zeros((len(seen), 2)))


# ---- views ----------------------------------------------------------------------------------------------------------


def test_presets() -> None:
    counts = {name: (len(parse_views(name)), len(windows(parse_views(name)))) for name in VIEWS}
    assert counts == {
        "none": (1, 1),
        "flip": (2, 1),
        "whole": (4, 2),
        "d4": (8, 1),
        "crops": (10, 5),
        "scales": (6, 3),
        "shifts": (5, 5),
    }
    assert all(len(set(views)) == len(views) for views in VIEWS.values()), "no view twice"
    assert parse_views("none") == [View()]
    assert set(windows(parse_views("crops"))) == {CENTRE, *CORNERS}


def test_a_list_of_views() -> None:
    assert [
        View(weight=3),
        View(flip=True, weight=0.5),
        View(Window((0.0, 1.0), 1.2)),
        View(transpose=True, vflip=True),
    ] == WEIGHTED
    assert windows(WEIGHTED) == (Window(), Window((0.0, 1.0), 1.2))
    assert parse_views([{}]) == [View()]


@pytest.mark.parametrize(
    ("tta", "words"),
    [
        ("flips", "tta=flips: choose one of none, flip, whole, d4.*did you mean 'flip'"),
        ("", "choose one of"),
        ([], "at least one view"),
        ([{"weight": 0}], "weight above 0"),
        ([{"weight": -1}], r"tta\[0\].weight=-1: expected a number from 0"),
        ([{}, {"flipp": True}], r"tta\[1\].flipp: a view has .*did you mean 'flip'"),
        (["flip"], r"tta\[0\]"),
        *(
            pytest.param([spec], r"tta\[0\]")
            for spec, why in (
                ({"position": 3}, "TypeError instead of a UserError"),
                ({"position": [0, 1, 2]}, "ValueError instead of a UserError"),
                ({"position": [2, 0]}, "a window outside the image is let through"),
                ({"zoom": "big"}, "ValueError instead of a UserError"),
                ({"zoom": 0}, "ZeroDivisionError at the first batch"),
                ({"weight": "x"}, "TypeError instead of a UserError"),
                ({"flip": "no"}, "the text counts as true"),
            )
        ),
    ],
)
def test_mistakes_in_views(tta: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_views(tta)


def test_d4_gives_8_distinct_pictures() -> None:
    picture = torch.arange(3 * 16.0).view(1, 3, 4, 4)
    found = [apply_symmetry(picture, view) for view in VIEWS["d4"]]
    assert len({tuple(x.flatten().tolist()) for x in found}) == 8
    turned = [torch.rot90(base, k, (2, 3)) for base in (picture, picture.flip(3)) for k in range(4)]
    assert {tuple(x.flatten().tolist()) for x in found} == {tuple(x.flatten().tolist()) for x in turned}


def test_symmetries_one_by_one() -> None:
    x = torch.arange(2 * 3 * 9.0).view(2, 3, 3, 3)
    assert apply_symmetry(x, View()) is x
    assert torch.equal(apply_symmetry(x, View(flip=True)), tv.horizontal_flip(x))
    assert torch.equal(apply_symmetry(x, View(vflip=True)), tv.vertical_flip(x))
    assert torch.equal(apply_symmetry(x, View(transpose=True)), x.mT)
    both = apply_symmetry(x, View(transpose=True, flip=True))
    assert torch.equal(both, torch.rot90(x, -1, (2, 3)))  # transposed first, then flipped: a quarter turn clockwise


# ---- images that cannot be read -------------------------------------------------------------------------------------


def test_what_is_known_of_rows_is_brought_in_order_like_their_predictions() -> None:
    rows, seen = np.array([9, 0, 2, 5]), np.array([5, 9, -1, 2, 0, -1])
    readable = np.array([True, False, True, True, False, True])
    assert in_order(rows, seen, np.arange(12.0).reshape(6, 2)).tolist() == [[2, 3], [8, 9], [6, 7], [0, 1]]
    assert in_order(rows, seen, readable).tolist() == [False, False, True, True]
    with pytest.raises(AssertionError, match="twice or not at all"):
        in_order(rows, np.array([5, 9, 2, 9]), np.zeros((4, 2)))


@pytest.mark.parametrize("cached", [True, False])
def test_rows_without_an_image_are_nan_and_the_others_as_ever(
    model, root: Path, accelerator, tmp_path: Path, cached: bool
) -> None:
    names = [f"{row:02d}.png" for row in range(11)]
    whole = ImageStore(root, np.array(names, np.bytes_), 40)
    for row in range(11):
        (tmp_path / names[row]).write_bytes((root / names[row]).read_bytes() if row not in (0, 6) else b"torn")
    store = ImageStore(tmp_path, np.array(names, np.bytes_), 40, tmp_path / "cache" if cached else None, "mark")
    rows = [7, 0, 10, 6, 5]
    for _ in range(2):
        found = run(model, store, rows, accelerator, VIEWS["flip"])
        assert np.isnan(found).all(axis=1).tolist() == [False, True, False, True, False]
        expected = run(model, whole, rows, accelerator, VIEWS["flip"])
        np.testing.assert_array_equal(found[[0, 2, 4]], expected[[0, 2, 4]])
    again = run(model, store, rows, accelerator, VIEWS["flip"], workers=2)
    np.testing.assert_array_equal(again, found)


def test_a_model_that_yields_nan_is_not_an_unreadable_image(model, root: Path, accelerator, tmp_path: Path) -> None:
    class Diverged(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full((len(x), 4), torch.nan)

    (tmp_path / "a.png").write_bytes((root / "00.png").read_bytes())
    (tmp_path / "b.png").write_bytes(b"torn")
    store = ImageStore(tmp_path, np.array([b"a.png", b"b.png"]), 40, unreadable="mark")
    with pytest.raises(UserError, match=r"predictions of 1 of 2 rows hold NaN or infinity; training diverged"):
        run(Diverged(), store, [0, 1], accelerator, VIEWS["none"])
    assert np.isnan(run(Diverged(), store, [1], accelerator, VIEWS["none"])).all()


def test_rows_without_any_prediction_get_the_prior() -> None:
    pred = np.array([[0.2, 0.8], [np.nan, np.nan], [np.nan, 0.5], [0.4, 0.6]], np.float32)
    filled, rows = fill_unreadable(pred, np.array([0.25, 0.75]))
    assert rows.tolist() == [1], "one NaN alone is no unreadable image, and is not hidden"
    np.testing.assert_array_equal(filled[[0, 1, 3]], np.float32([[0.2, 0.8], [0.25, 0.75], [0.4, 0.6]]))
    assert np.isnan(filled[2, 0]) and np.isnan(pred[1]).all()


# ---- equal pictures -------------------------------------------------------------------------------------------------

SHAPES = {"square": (40, 40), "wide": (40, 56), "tall": (56, 40)}
# of the windows of each preset, how many are different pictures: without free room a position is no other window in a
# square image and one of three in a long one, and no zoom below 1 shows more than the short side
DIFFERENT = {
    ("square", 1.0): {"whole": 1, "crops": 1, "scales": 2, "shifts": 5},
    ("wide", 1.0): {"whole": 2, "crops": 3, "scales": 2, "shifts": 5},
    ("tall", 1.0): {"whole": 2, "crops": 3, "scales": 2, "shifts": 5},
    ("square", 0.875): {"whole": 2, "crops": 5, "scales": 3, "shifts": 5},
    ("wide", 0.875): {"whole": 2, "crops": 5, "scales": 3, "shifts": 5},
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    root = tmp_path_factory.mktemp("shapes")
    for name, shape in SHAPES.items():
        cv2.imwrite(str(root / f"{name}.png"), np.random.default_rng(3).integers(0, 256, (*shape, 3), np.uint8))
    return ImageStore(root, np.array([f"{name}.png" for name in SHAPES], np.bytes_), 40)


@pytest.mark.parametrize(("shape", "crop"), DIFFERENT)
def test_no_picture_counts_twice(shape: str, crop: float, shapes, model, accelerator, capsys) -> None:
    row = list(SHAPES).index(shape)
    for name, count in DIFFERENT[shape, crop].items():
        views = VIEWS[name]
        order = Order(np.array([row]), SIZE, crop=crop, windows=windows(views))
        images = evaluation_batch(shapes, order).images.numpy()
        counted = weights_of(views, images)[:, 0] > 0
        pictures = [images[windows(views).index(view.window), 0].tobytes() for view in views]
        assert len({pictures[v] for v in np.flatnonzero(counted)}) == len(set(pictures)) == count
        assert counted.sum() == count * len(views) / len(windows(views)), "each with all its symmetries"
        capsys.readouterr()
        found = run(model, shapes, [row], accelerator, views, crop=crop)
        np.testing.assert_allclose(found[0], naive(model, shapes, row, views, crop), atol=1e-5)
        printed = capsys.readouterr().out
        if counted.all():
            assert not printed
        else:
            assert f"tta: of {len(views)} views of an image {counted.sum()} are different pictures" in printed
            assert f"({SIZE} px, eval.crop={crop:g}); equal ones count once" in printed


def test_each_image_has_its_own_equal_windows(shapes, model, accelerator, capsys) -> None:
    """A square and two long images in one batch."""
    found = run(model, shapes, [1, 0, 2], accelerator, VIEWS["crops"], crop=1.0)
    expected = [naive(model, shapes, row, VIEWS["crops"], 1.0) for row in (1, 0, 2)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert "of 10 views of an image 4.67 are different pictures" in capsys.readouterr().out


def test_an_equal_window_that_is_turned_another_way_counts() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 2, 8, 8, 3), np.uint8)
    images = np.concatenate([images, images])
    images[1, 1, 7, 7, 2] ^= 1  # of the second image the windows differ, in a sample that the first look leaves out
    views = [View(), View(Window((0, 0)), flip=True), View(Window((0, 0)), weight=3.0), View(weight=0.0)]
    assert weights_of(views, images).tolist() == [[1, 1], [1, 1], [0, 3], [0, 0]]
    assert weights_of(views[::-1], images).tolist() == [[0, 0], [3, 3], [1, 1], [0, 1]]


def test_a_pass_that_ends_early_knows_the_rows_that_it_came_to(model, store, accelerator) -> None:
    answers = iter([True, False])
    whole = run(model, store, range(11), accelerator, VIEWS["none"])
    early = run(model, store, range(11), accelerator, VIEWS["none"], go_on=lambda: next(answers))
    np.testing.assert_array_equal(early[:8], whole[:8])  # two batches of four
    assert np.isnan(early[8:]).all()


def test_one_read_fills_stores_of_every_size(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = np.array([*(f"{row:02d}.png" for row in range(3)), "torn.png"], np.bytes_)
    for name in names[:3].tolist():
        shutil.copyfile(root / name.decode(), tmp_path / name.decode())
    (tmp_path / "torn.png").write_bytes(b"torn")
    reads: Counter[bytes] = Counter()
    monkeypatch.setattr(
        cache, "read_files", lambda at, path: reads.update([path]) or [(at / path.decode()).read_bytes()]
    )
    large, small = (ImageStore(tmp_path, names, side, tmp_path / "c", "mark") for side in (40, 24))
    large.companions, small.companions = [small], [large]
    for store in (large, small, large):
        found = [store.pixels(row) for row in range(4)]
        assert [store.is_marked(row) for row in range(4)] == [False] * 3 + [True]
        for row in range(3):
            own = decode(tmp_path / names[row].decode(), store.short_side)
            np.testing.assert_array_equal(found[row], own)
    assert set(reads.values()) == {1} and len(reads) == 4
