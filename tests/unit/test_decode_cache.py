"""Decoding against PIL, and the store of decoded pixels: read once, shared by processes, never stale."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from src.data.cache import ImageStore
from src.data.decode import decode, stored_size
from src.data.headers import jpeg_size
from src.errors import UserError

REPO = Path(__file__).resolve().parents[2]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth, asymmetric uint8 RGB picture: what survives JPEG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


# ---- decode ---------------------------------------------------------------------------------------------------------


def test_png_is_exact(tmp_path: Path) -> None:
    rgb = picture(40, 60)
    found = decode(saved(tmp_path / "a.png", Image.fromarray(rgb)), 40)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, rgb)


def test_jpeg_is_close_and_rgb(tmp_path: Path) -> None:
    rgb = picture(40, 60)
    rgb[..., 0] //= 4  # swapped channels would show
    path = saved(tmp_path / "a.jpg", Image.fromarray(rgb), quality=95)
    reference = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(decode(path, 40) - reference).max() <= 6


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "I;16", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    rgb = picture(30, 40)
    if mode == "I;16":
        grey = np.asarray(Image.fromarray(rgb).convert("L"))
        image = Image.fromarray(grey.astype(np.uint16) * 257)
        expected = np.repeat(grey[..., None], 3, axis=2)
    else:
        image = Image.fromarray(rgb).convert(mode)
        expected = np.asarray(image.convert("RGB"))
    if mode == "RGBA":  # alpha is left out, whatever it says: pixels under it are kept
        image.putalpha(Image.fromarray((np.indices((30, 40))[1] > 20).astype(np.uint8) * 255))
    name = "a.jpg" if mode == "CMYK" else "a.png"
    found = decode(saved(tmp_path / name, image), 30)
    assert found.shape == (30, 40, 3) and found.dtype == np.uint8
    if mode == "CMYK":
        expected = np.asarray(Image.open(tmp_path / name).convert("RGB"))
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= (12 if mode == "CMYK" else 1), difference.max()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("short_side", [40, 10], ids=["full", "reduced"])
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, short_side: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.jpg", Image.fromarray(picture(40, 80)), exif=exif.tobytes(), quality=95)
    upright = ImageOps.exif_transpose(Image.open(path))
    found = decode(path, short_side)
    target = (short_side * 2, short_side) if orientation >= 5 else (short_side, short_side * 2)
    assert found.shape[:2] == target
    reference = np.asarray(upright.resize(target[::-1], Image.Resampling.BOX)).astype(int)
    assert np.abs(found - reference).mean() < 3


@pytest.mark.parametrize(
    ("shape", "short_side", "expected"),
    [
        ((300, 400), 96, (96, 128)),
        ((400, 300), 96, (128, 96)),
        ((333, 517), 97, (97, 151)),
        ((97, 97), 97, (97, 97)),
        ((50, 60), 96, (50, 60)),  # never enlarged
        ((96, 300), 96, (61, 192)),  # the long side is capped at twice the short one
        ((1000, 100), 96, (192, 19)),
        ((1, 5000), 96, (1, 192)),
        ((1, 1), 96, (1, 1)),
        ((50, 300), 96, (32, 192)),  # small and long: capped all the same
        ((50, 190), 96, (50, 190)),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_sizes(tmp_path: Path, shape: tuple[int, int], short_side: int, expected: tuple[int, int], suffix: str) -> None:
    assert stored_size(*shape, short_side) == expected
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(picture(*shape)))
    found = decode(path, short_side).shape
    assert min(found[:2]) == min(expected)
    assert max(found[:2]) == pytest.approx(max(expected), abs=1 if suffix == "jpg" else 0)  # JPEG is reduced first


def test_stored_size_over_many_sizes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(3000):
        height, width, side = (int(v) for v in np.exp(rng.uniform(0, 8, 3)).astype(int))
        h, w = stored_size(height, width, side)
        assert 1 <= h <= height and 1 <= w <= width
        assert max(h, w) <= 2 * side and h * w <= 2 * side * side  # what a slot of the store holds
        if min(height, width) >= side and max(height, width) <= 2 * min(height, width):
            assert min(h, w) == side


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": b"\xff\xc0" * 30}, {"quality": 5}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_declares_what_pil_says(tmp_path: Path, options: dict[str, object], mode: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "\xff\xc0 in a description"
    image = Image.fromarray(picture(37, 1203)).convert(mode)
    data = saved(tmp_path / "a.jpg", image, exif=exif, icc_profile=b"\xff\xc2" * 40_000, **options).read_bytes()
    assert jpeg_size(data) == (37, 1203)
    assert jpeg_size(data[:2] + b"\xff\xff\xff" + data[2:]) == (37, 1203), "fill bytes before a marker"
    for end in range(0, len(data), 997):
        assert jpeg_size(data[:end]) in (None, (37, 1203))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_end_the_search_for_a_size(data: bytes) -> None:
    found = jpeg_size(b"\xff\xd8" + data)
    assert found is None or min(found) > 0


@pytest.mark.parametrize("factor", [2, 4, 8, 11])
@pytest.mark.parametrize("rest", [0, 3], ids=["multiple", "rest"])
def test_reduced_decoding_is_close_to_full_decoding(tmp_path: Path, factor: int, rest: int) -> None:
    rgb = picture(32 * factor + rest, 40 * factor + rest)
    path = saved(tmp_path / "a.jpg", Image.fromarray(rgb), quality=95)
    found = decode(path, 32).astype(int)
    full = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    reference = cv2.resize(full, found.shape[1::-1], interpolation=cv2.INTER_AREA)
    difference = np.abs(found - reference)
    assert min(found.shape[:2]) == 32
    if not rest:
        assert difference.mean() < 1.5 and difference.max() <= 8
    else:  # the decoder rounds sizes up, so content moves by less than a pixel
        assert difference.mean() < 6
        for axis in (0, 1):
            for step in (-1, 1):
                moved = np.abs(found - np.roll(reference, step, axis))[2:-2, 2:-2]
                assert difference[2:-2, 2:-2].mean() < moved.mean()


def test_the_decoder_does_reduce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.jpg", Image.fromarray(picture(320, 400)))
    flags, real = [], cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda data, flag: flags.append(flag) or real(data, flag))
    for short_side in (40, 41, 80, 81, 160, 161, 320, 500):
        decode(path, short_side)
    by_8, by_4, by_2 = cv2.IMREAD_REDUCED_COLOR_8, cv2.IMREAD_REDUCED_COLOR_4, cv2.IMREAD_REDUCED_COLOR_2
    assert flags == [by_8, by_4, by_4, by_2, by_2, *[cv2.IMREAD_COLOR] * 3]


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff\xe0 torn", b"\x89PNG\r\n\x1a\n"])
def test_unreadable_files_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.jpg: not a readable image"):
        decode(path, 32)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png: cannot read the file"):
        decode(tmp_path / "gone.png", 32)
    with pytest.raises(UserError, match="cannot read the file"):
        decode(tmp_path, 32)


# ---- store ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images of mixed shapes and formats below a folder with a non-ASCII name."""
    folder = tmp_path / "images" / "é"
    folder.mkdir(parents=True)
    shapes = [(40, 60), (100, 40), (8, 8), (500, 30), (64, 64), (1, 1)]
    for row, shape in enumerate(shapes):
        saved(folder / (f"{row}.jpg" if row % 2 else f"{row}.png"), Image.fromarray(picture(*shape, seed=row)))
    return tmp_path / "images"


def paths(root: Path) -> np.ndarray:
    return np.array(sorted(str(path.relative_to(root)).encode() for path in root.rglob("*.*g")), np.bytes_)


def test_without_a_folder_nothing_is_kept(root: Path) -> None:
    store = ImageStore(root, paths(root), 32)
    np.testing.assert_array_equal(store.pixels(0), decode(store.path(0), 32))
    os.remove(store.path(0))
    with pytest.raises(UserError, match="cannot read"):
        store.pixels(0)


def test_second_read_does_not_touch_the_file(root: Path, tmp_path: Path) -> None:
    store = ImageStore(root, paths(root), 32, tmp_path / "cache")
    expected = [decode(store.path(row), 32) for row in range(len(store))]
    rows = [3, 0, 5, 1, 4, 2]
    first = {row: np.array(store.pixels(row)) for row in rows}
    assert len(store) == 6
    for row in rows:
        os.remove(store.path(row))
    for row in rows:
        again = store.pixels(row)
        np.testing.assert_array_equal(first[row], expected[row])
        np.testing.assert_array_equal(again, expected[row])
        assert again.dtype == np.uint8


def test_a_new_store_finds_what_another_one_left(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = paths(root)
    expected = [np.array(ImageStore(root, names, 32, tmp_path / "cache").pixels(row)) for row in range(6)]
    monkeypatch.setattr("src.data.spec.decode_bytes", lambda *_: pytest.fail("decoded again"))
    store = ImageStore(root, names, 32, tmp_path / "cache")
    for row, image in enumerate(expected):
        np.testing.assert_array_equal(store.pixels(row), image)


def test_each_size_has_its_own_file(root: Path, tmp_path: Path) -> None:
    small, large = (ImageStore(root, paths(root), side, tmp_path / "cache") for side in (16, 32))
    assert small.file != large.file
    assert small.pixels(4).shape[0] == 16 and large.pixels(4).shape[0] == 32


def test_pickled_stores_carry_no_pixels(root: Path, tmp_path: Path) -> None:
    import pickle

    store = ImageStore(root, paths(root), 256, tmp_path / "cache")
    expected = np.array(store.pixels(4))
    parcel = pickle.dumps(store)
    assert len(parcel) < 2000
    np.testing.assert_array_equal(pickle.loads(parcel).pixels(4), expected)


FILL = """
import sys, time, numpy as np
from pathlib import Path
from src.data.cache import ImageStore
root, folder, me, other = map(Path, sys.argv[1:])
names = np.array(sorted(str(p.relative_to(root)).encode() for p in root.rglob("*.*g")), np.bytes_)
store = ImageStore(root, names, 32, folder)
me.touch()
while not other.exists():
    time.sleep(0.001)
for _ in range(20):
    images = [np.array(store.pixels(row)) for row in range(len(store))]
np.savez(me.with_suffix(".npz"), *images)
"""


def test_two_processes_fill_one_cache(root: Path, tmp_path: Path) -> None:
    """They start together, each waiting for the other's sign, and see the same pixels as a plain decode."""
    signs = [tmp_path / "one", tmp_path / "two"]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", FILL, str(root), str(tmp_path / "cache"), *map(str, pair)],
            cwd=REPO,
            stderr=subprocess.PIPE,
            text=True,
        )
        for pair in (signs, signs[::-1])
    ]
    for process in running:
        _, complaint = process.communicate(timeout=60)
        assert process.returncode == 0, complaint
    store = ImageStore(root, paths(root), 32)
    one, two = (np.load(sign.with_suffix(".npz")) for sign in signs)
    assert len(one.files) == len(two.files) == len(store)
    for row, name in enumerate(one.files):
        expected = store.pixels(row)
        np.testing.assert_array_equal(one[name], expected)
        np.testing.assert_array_equal(two[name], expected)
    assert len(list((tmp_path / "cache").glob("*.pixels"))) == 1
    shared = ImageStore(root, paths(root), 32, tmp_path / "cache")
    for row in range(len(store)):
        np.testing.assert_array_equal(shared.pixels(row), store.pixels(row))


@pytest.mark.parametrize("change", ["content", "mtime"])
def test_a_changed_file_gets_a_new_cache(root: Path, tmp_path: Path, change: str) -> None:
    before = ImageStore(root, paths(root), 32, tmp_path / "cache")
    old = np.array(before.pixels(0))
    assert ImageStore(root, paths(root), 32, tmp_path / "cache").file == before.file
    path = before.path(0)
    if change == "content":
        Image.fromarray(picture(40, 60, seed=77)).save(path)
    else:
        stat = os.stat(path)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000_000))
    after = ImageStore(root, paths(root), 32, tmp_path / "cache")
    assert after.file != before.file
    if change == "content":
        assert not np.array_equal(after.pixels(0), old)
        np.testing.assert_array_equal(after.pixels(0), decode(path, 32))


def test_other_rows_other_cache(root: Path, tmp_path: Path) -> None:
    names = paths(root)
    files = [ImageStore(root, some, 32, tmp_path / "cache").file for some in (names, names[:-1], names[::-1])]
    assert len(set(files)) == 3


def test_a_changed_file_among_many_is_noticed(tmp_path: Path) -> None:
    names = [f"{row}.png" for row in range(200)]
    for name in names:
        cv2.imwrite(str(tmp_path / name), np.zeros((2, 2, 3), np.uint8))
    table = np.array(names, np.bytes_)
    before = ImageStore(tmp_path, table, 8, tmp_path / "cache")
    assert not before.pixels(1).any()
    cv2.imwrite(str(tmp_path / "1.png"), np.full((2, 2, 3), 255, np.uint8))
    os.utime(tmp_path / "1.png", (1, 1))
    assert ImageStore(tmp_path, table, 8, tmp_path / "cache").pixels(1).all()


def test_an_unreadable_image_is_named_and_not_kept(root: Path, tmp_path: Path) -> None:
    store = ImageStore(root, paths(root), 32, tmp_path / "cache")
    good = Path(store.path(2)).read_bytes()
    Path(store.path(2)).write_bytes(b"torn")
    with pytest.raises(UserError, match=r"2\.png: not a readable image"):
        store.pixels(2)
    Path(store.path(2)).write_bytes(good)
    np.testing.assert_array_equal(store.pixels(2), decode(store.path(2), 32))


def test_the_cache_occupies_only_what_is_filled(root: Path, tmp_path: Path) -> None:
    store = ImageStore(root, paths(root), 512, tmp_path / "cache")
    store.pixels(5)
    pixels = store.file.with_suffix(".pixels").stat()
    assert pixels.st_size == 6 * 2 * 512 * 512 * 3 and pixels.st_blocks * 512 < pixels.st_size / 4


def test_an_empty_table(tmp_path: Path) -> None:
    assert len(ImageStore(tmp_path, np.zeros(0, "S1"), 32, tmp_path / "cache")) == 0


def test_a_folder_that_cannot_hold_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("src.data.cache.os.truncate", full)
    with pytest.raises(UserError, match=r"cache.*No space left on device.*cache=false"):
        ImageStore(root, paths(root), 32, tmp_path / "cache")


def test_a_full_disk_ends_the_keeping_and_not_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a process of its own, which may write files of 100 kB at most."""
    import resource

    names = [f"{i}.png" for i in range(6)]
    for i, name in enumerate(names):
        cv2.imwrite(str(tmp_path / name), np.full((100, 100, 3), i, np.uint8))
    store = ImageStore(tmp_path, np.array(names, "S"), 100, tmp_path / "cache")
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # a slot takes 60 kB: the second does not fit
        seen = [int(store.pixels(row).max()) for row in [*range(6), *range(6)]]
        os._exit(0 if seen == [*range(6), *range(6)] else 1)
    assert os.waitpid(pid, 0)[1] == 0
    kept = [bool(np.fromfile(store.file.with_suffix(".shapes"), np.uint16)[2 * row]) for row in range(6)]
    assert kept[0] and not all(kept)
    assert [int(store.pixels(row).max()) for row in range(6)] == list(range(6))
