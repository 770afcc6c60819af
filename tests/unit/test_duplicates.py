"""Duplicates: copies that were made in the test are found, different images are not, and folds keep copies together."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from src.cli import main
from src.competition.folds import load_folds
from src.competition.splitting import merge_groups
from src.data import duplicates as module
from src.data.duplicate_search import candidates, popcount
from src.data.duplicates import Duplicates, find_duplicates, open_duplicates
from src.errors import UserError
from tests.unit.test_folds import competition

COPIES = ("bytes", "png", "resaved", "half", "bright", "crop", "mirror")


def scene(seed: int, height: int = 180, width: int = 240) -> np.ndarray:
    """A random picture with the spectrum of a photograph: noise at every scale, and a few shapes."""
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), 128.0)
    for side in (3, 6, 12, 24, 48):
        noise = random.normal(0, 90 / side**0.5, (side, side, 3))
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(4):
        centre = (int(random.integers(width)), int(random.integers(height)))
        cv2.circle(image, centre, int(random.integers(10, 40)), random.uniform(0, 255, 3).tolist(), -1)
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes], dict[str, bytes]]:
    """60 different scenes as PNG, and of scene 7 a copy of each kind, with their names."""
    root = tmp_path_factory.mktemp("album")
    names = []
    for seed in range(60):
        cv2.imwrite(str(root / f"s{seed:02d}.png"), scene(seed))
        names.append(f"s{seed:02d}.png".encode())
    image = scene(7)
    shutil.copyfile(root / "s07.png", root / "bytes.png")
    cv2.imwrite(str(root / "png.png"), image, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    cv2.imwrite(str(root / "resaved.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 60])
    cv2.imwrite(str(root / "half.jpg"), cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    cv2.imwrite(str(root / "bright.jpg"), (image * 1.1 + 5.0).clip(0, 255).astype(np.uint8))
    cv2.imwrite(str(root / "crop.jpg"), image[5:-5, 7:-7])
    cv2.imwrite(str(root / "mirror.jpg"), image[:, ::-1])
    assert (root / "png.png").read_bytes() != (root / "s07.png").read_bytes()
    return root, names, {kind: next(root.glob(f"{kind}.*")).name.encode() for kind in COPIES}


NOTHING = np.array([], dtype="S1")


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_found_and_nothing_else(album, kind: str) -> None:
    root, names, copies = album
    found = find_duplicates(root, np.array(names), np.array([copies[kind]]))
    assert (found.first.tolist(), found.second.tolist()) == ([7], [60])
    assert bool(found.exact[0]) == (kind in ("bytes", "png"))
    assert bool(found.flipped[0]) == (kind == "mirror")
    assert (found.distance[0] == 0) == bool(found.exact[0])
    assert len(np.unique(found.groups)) == 60, "a pair with a test row makes no group of training rows"


def test_processes_find_the_same_as_this_one(album) -> None:
    root, names, copies = album
    paths, test = np.array(names), np.array(list(copies.values()))
    here, there = find_duplicates(root, paths, test), find_duplicates(root, paths, test, workers=2)
    assert len(here.first) >= len(COPIES)
    for name in ("first", "second", "exact", "distance", "flipped", "unreadable"):
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name))


def test_different_digits_are_no_copies(mini_digits: Path) -> None:
    paths = np.array([f"train/{file.name}".encode() for file in sorted((mini_digits / "train").iterdir())])
    found = find_duplicates(mini_digits, paths, NOTHING)
    assert len(found.first) == 0


def test_unreadable_and_blank_images(tmp_path: Path) -> None:
    """Damaged files are listed; blank ones are copies only if they are equal."""
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name, grey in (("a", 0), ("b", 0), ("c", 9)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((80, 80, 3), grey, np.uint8))
    paths = np.array([b"cut.png", b"a.png", b"empty.jpg", b"b.png", b"c.png", b"gone.png"])
    found = find_duplicates(tmp_path, paths, NOTHING)
    assert found.unreadable.tolist() == [0, 2, 5]
    assert list(zip(found.first, found.second, found.exact, strict=True)) == [(1, 3, True)]


def naive_groups(rows: int, pairs: list[tuple[int, int]]) -> list[int]:
    """The smallest row that can be reached from each row, by relaxing all pairs until nothing changes."""
    least = list(range(rows))
    for _ in range(rows):
        for one, other in pairs:
            if one < rows and other < rows:
                least[one] = least[other] = min(least[one], least[other])
    return least


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(((one[:, None] == one) == (other[:, None] == other)).all())


@pytest.mark.parametrize("seed", range(10))
def test_groups_against_a_naive_reference(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = 30
    ends = np.sort(random.integers(0, rows + 10, (random.integers(0, 25), 2)), axis=1).reshape(-1, 2)
    ends = ends[ends[:, 0] < ends[:, 1]]
    count = len(ends)
    no = np.zeros(count, bool)
    found = Duplicates(rows, ends[:, 0], ends[:, 1], no, np.zeros(count, np.float32), no, np.zeros(0, np.int64))
    expected = np.array(naive_groups(rows, ends.tolist()))
    assert same_partition(found.groups, expected)

    names = np.array([f"g{number}" for number in random.integers(0, 20, rows)])
    together = [(i, j) for i in range(rows) for j in range(i) if names[i] == names[j] or expected[i] == expected[j]]
    assert same_partition(merge_groups(names, found.groups), np.array(naive_groups(rows, together)))
    assert same_partition(merge_groups(None, found.groups), expected)


def test_candidates_against_all_pairs() -> None:
    """Every pair that differs in no more than three uncertain bits, as it is or mirrored, is among the candidates."""
    random = np.random.default_rng(0)
    bits = random.integers(0, 2**63, 500).astype(np.uint64)
    doubt = np.stack([random.permutation(63)[:3] for _ in bits]).astype(np.uint8)
    for row in range(0, 100, 2):
        turned = np.bitwise_or.reduce(np.uint64(1) << doubt[row].astype(np.uint64))
        bits[row + 1] = bits[row] ^ turned ^ (module_mirror() if row % 4 else np.uint64(0))
    first, second, mirrored = candidates(bits, doubt)
    got = set(zip(first.tolist(), second.tolist(), mirrored.tolist(), strict=True))
    assert {(row, row + 1, bool(row % 4)) for row in range(0, 100, 2)} <= got
    differ = popcount(bits[first] ^ bits[second] ^ np.where(mirrored, module_mirror(), np.uint64(0)))
    naive = [
        bin(int(a) ^ int(b) ^ (int(module_mirror()) if m else 0)).count("1")
        for a, b, m in zip(bits[first], bits[second], mirrored, strict=True)
    ]
    assert differ.tolist() == naive
    assert max(naive) <= 16 and (first < second).all()


def module_mirror() -> np.uint64:
    from src.data.duplicate_search import MIRROR

    return MIRROR


def test_the_second_call_reads_the_stored_result(album, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, names, copies = album
    mine = tmp_path / "images"
    shutil.copytree(root, mine)
    arguments = (mine, np.array(names), np.array([copies["resaved"]]), tmp_path / "cache")
    before = open_duplicates(*arguments)
    decoded = []
    monkeypatch.setattr(module, "read_files", lambda root, path: decoded.append(path) or pytest.fail("read again"))
    after = open_duplicates(*arguments)
    assert not decoded
    assert vars(after).keys() == vars(before).keys()
    for name, value in vars(before).items():
        np.testing.assert_array_equal(getattr(after, name), value)
    monkeypatch.undo()

    (mine / "resaved.jpg").write_bytes((mine / "s03.png").read_bytes())  # other data: searched again
    assert open_duplicates(*arguments).first.tolist() == [3]
    for stored in (tmp_path / "cache").iterdir():
        stored.write_bytes(b"damaged")
    assert open_duplicates(*arguments).first.tolist() == [3]


def test_folds_keep_duplicates_together(tmp_path: Path) -> None:
    labels = np.arange(40) % 2
    toy = competition(labels, classes="xy")
    copies = np.arange(40)
    copies[1::4] = copies[0::4]  # ten pairs
    file = tmp_path / "folds.csv"
    folds = load_folds(file, toy, 4, 0, duplicates=copies)
    np.testing.assert_array_equal(folds[1::4], folds[0::4])
    np.testing.assert_array_equal(load_folds(file, toy, 4, 0, duplicates=copies), folds)

    torn = tmp_path / "torn.csv"
    plain = load_folds(torn, toy, 4, 0)
    apart = np.flatnonzero(plain[1::4] != plain[0::4])
    with pytest.raises(UserError) as caught:
        load_folds(torn, toy, 4, 0, duplicates=copies)
    assert f"{len(apart)} sets of duplicate images are split" in str(caught.value)
    assert f"i{4 * apart[0]} is in fold {plain[4 * apart[0]]}" in str(caught.value)
    with pytest.raises(UserError, match=r"folds\.kind=stratified"):
        load_folds(tmp_path / "new.csv", toy, 4, 0, "stratified", copies)
    alone = load_folds(tmp_path / "alone.csv", toy, 4, 0, duplicates=np.arange(40))
    np.testing.assert_array_equal(alone, plain)  # without a duplicate the folds are those without the key


def test_prepare_reports_planted_copies(mini_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "mini"
    shutil.copytree(mini_digits, root)
    with open(root / "train.csv", newline="") as file:
        header, *rows = csv.reader(file)
    originals = rows[:12]
    for name, label, writer in originals:  # a byte copy each; of three the label is wrong
        shutil.copyfile(root / "train" / f"{name}.png", root / "train" / f"x{name}.png")
        rows.append([f"x{name}", "digit-4" if len(rows) < 123 else label, writer])
    test = sorted((root / "test").iterdir())[0]
    image = cv2.imread(str(root / "train" / f"{rows[50][0]}.png"))
    cv2.imwrite(str(test), (image * 0.9).astype(np.uint8))
    with open(root / "train.csv", "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    places = [f"paths.{name}={tmp_path / name}" for name in ("cache", "folds", "runs")]
    words = ["prepare", f"competition.root={root}", "competition=folder", "folds.n=3", "workers=0", *places]
    assert main(words) == 0
    printed = capsys.readouterr().out
    with open(tmp_path / "cache" / "mini" / "duplicates.csv", newline="") as file:
        pairs = list(csv.DictReader(file))
    assert {(row["id"], row["other_id"]) for row in pairs} == {
        *((name, f"x{name}") for name, _, _ in originals), (rows[50][0], test.stem)
    }  # fmt: skip
    across = sum(row["fold"] != row["other_fold"] for row in pairs if row["other_fold"] != "test")
    assert across > 0
    lines = {line.strip()[:22].strip(): line.split()[-2:] for line in printed.splitlines()}
    assert lines["training, ACROSS FOLDS"] == [str(across), "0"]
    assert lines["training, OTHER LABELS"] == ["3", "0"]
    assert lines["training and test"] == ["0", "1"]
    assert "set folds.group_duplicates=true" in printed
    assert min(cv2.imread(str(tmp_path / "cache" / "mini" / "duplicates.png")).shape[:2]) > 200

    # the cure: the old folds are refused, new ones keep copies together, and nothing is searched twice
    assert main([*words, "folds.group_duplicates=true"]) == 2
    assert "duplicate images" in capsys.readouterr().err
    (tmp_path / "folds" / "mini.csv").unlink()
    assert main([*words, "folds.group_duplicates=true"]) == 0
    printed = capsys.readouterr().out
    assert "looking for duplicates" not in printed
    assert next(line.split()[-2:] for line in printed.splitlines() if "ACROSS FOLDS" in line) == ["0", "0"]
