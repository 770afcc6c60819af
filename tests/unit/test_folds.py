"""Folds: every row once, no group on two sides, and a kept file that notices when the data change."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from src.competition.folds import fold_rows, load_folds
from src.competition.kinds.single import Single
from src.competition.sample import Sample
from src.competition.splitting import make_folds
from src.competition.spreading import spread_labels
from src.competition.tables import Competition, Rows
from src.errors import UserError


def competition(
    labels: list[int] | np.ndarray, groups: list[str] | None = None, ids: list[str] | None = None, classes: str = "xyz"
) -> Competition:
    names = ids or [f"i{number}" for number in range(len(labels))]
    nothing = np.array([], dtype=np.str_)
    return Competition(
        name="toy",
        root=Path("."),
        task=Single(np.array(list(classes))),
        train=Rows(
            np.array(names),
            np.array([b"x.jpg"] * len(labels)),
            np.array(labels, dtype=np.int64),
            None if groups is None else np.array(groups),
        ),
        test=Rows(nothing, nothing.astype("S")),
        id_column="id",
        target_column="label",
        sample=Sample(("id", "label"), nothing, "labels"),
    )


SIX = [0, 0, 1, 1, 0, 1]


def random_rows(seed: int, rows: int, classes: int, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) and groups (N,), both as uneven as a geometric distribution."""
    random = np.random.default_rng(seed)
    labels = random.geometric(0.4, rows) % classes
    return labels, np.array([f"g{number % groups}" for number in random.geometric(0.1, rows)])


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(1, 150),
    table=st.integers(0, 10**6),
    classes=st.integers(1, 4),
    count=st.integers(1, 40),
    n=st.integers(2, 6),
    seed=st.integers(0, 3),
    kind=st.sampled_from(["stratified", "group", "stratified_group", "auto"]),
)
def test_every_row_in_one_fold_and_groups_whole(
    rows: int, table: int, classes: int, count: int, n: int, seed: int, kind: str
) -> None:
    labels, groups = random_rows(table, rows, classes, count)
    counts = Counter(labels.tolist())
    rare = np.array([counts[label] < n for label in labels.tolist()])
    try:
        folds = make_folds(labels, groups, n, seed, kind)
    except UserError:
        few = kind != "stratified" and len(set(groups.tolist())) < n
        assert rare.any() or few, "refused without a reason"
        return
    event(f"made {kind}")
    assert folds.shape == labels.shape and folds.dtype == np.int64
    assert set(folds[folds >= 0].tolist()) == set(range(n))
    assert rare[folds < 0].all(), "what every fold could hold out is held out"
    assert np.array_equal(folds, make_folds(labels, groups, n, seed, kind)), "the seed decides"
    if kind != "stratified":
        assert all(len(set(folds[groups == group].tolist())) == 1 for group in set(groups.tolist()))
    else:
        assert (folds[rare] == -1).all()
        for label in set(labels[~rare].tolist()):
            per_fold = np.bincount(folds[labels == label], minlength=n)
            assert per_fold.max() - per_fold.min() <= 1
    held_out = np.concatenate([fold_rows(folds, k).val for k in range(n)])
    assert sorted(held_out.tolist()) == np.flatnonzero(folds >= 0).tolist()
    for k in range(n):
        fold = fold_rows(folds, k)
        assert not set(fold.train.tolist()) & set(fold.val.tolist())
        assert len(fold.train) + len(fold.val) == len(labels)


@pytest.mark.parametrize("kind", ["stratified", "group", "stratified_group"])
def test_another_seed_makes_other_folds(kind: str) -> None:
    labels, groups = np.tile([0, 1], 50), np.repeat([f"g{number}" for number in range(25)], 4)
    assert len({make_folds(labels, groups, 5, seed, kind).tobytes() for seed in range(5)}) == 5


def test_group_folds_are_of_equal_size() -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(1, 30, 60)
    groups = np.repeat([f"g{number}" for number in range(60)], sizes)
    counts = np.bincount(make_folds(np.zeros(len(groups), dtype=int), groups, 5, 3, "group"))
    assert counts.max() - counts.min() <= 3


def test_stratified_groups_keep_the_classes_balanced() -> None:
    """Also where scikit-learn's own shuffle would not: groups of one class each, 10 % of them rare."""
    labels = np.repeat(np.array([0] * 90 + [1] * 10), 4)
    groups = np.repeat([f"g{number}" for number in range(100)], 4)
    for seed in range(5):
        folds = make_folds(labels, groups, 5, seed, "stratified_group")
        assert np.bincount(folds[labels == 1]).tolist() == [8] * 5


def test_auto() -> None:
    labels, groups = np.tile([0, 1], 20), np.repeat([f"g{number}" for number in range(10)], 4)
    assert np.array_equal(make_folds(labels, None, 4, 0, "auto"), make_folds(labels, None, 4, 0, "stratified"))
    assert np.array_equal(
        make_folds(labels, groups, 4, 0, "auto"), make_folds(labels, groups, 4, 0, "stratified_group")
    )


@pytest.mark.parametrize(
    ("labels", "groups", "n", "kind", "message"),
    [
        ([0] * 9 + [1] * 2, None, 3, "auto", "class 'y' has 2 rows, fewer than folds.n=3; set folds.n=2 or less, or"),
        ([0] * 9 + [1], None, 3, "auto", "class 'y' has 1 row, fewer than folds.n=3; add at least one row of it"),
        ([0, 1, 2] * 2, None, 3, "auto", r"class 'x' \(and 2 more classes\) has 2 rows"),
        ([0] * 6, ["a", "b"] * 3, 3, "auto", r"2 groups \(a, b\) cannot fill folds.n=3"),
        ([0] * 6, ["a", "b"] * 3, 3, "group", "2 groups"),
        ([0] * 6, None, 3, "group", "folds.kind=group needs groups; set competition.group_column="),
        ([0] * 6, None, 3, "stratifed", "folds.kind='stratifed'; did you mean 'stratified'"),
        ([0] * 6, None, 1, "auto", "folds.n=1: cross-validation takes at least 2"),
    ],
)
def test_what_cannot_be_split(labels: list[int], groups: list[str] | None, n: int, kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_folds(np.array(labels), None if groups is None else np.array(groups), n, 0, kind, ["x", "y", "z"])


def test_made_once_then_kept(tmp_path: Path) -> None:
    path, data = tmp_path / "folds" / "toy.csv", competition([0, 1, 2] * 20)
    folds = load_folds(path, data, 5, 0)
    written = path.read_bytes()
    assert written.startswith(b"id,target,fold\ni0,x,") and written.count(b"\n") == 61
    assert np.array_equal(load_folds(path, data, 5, seed=99), folds), "the file wins over the seed"
    assert path.read_bytes() == written and [file.name for file in path.parent.iterdir()] == ["toy.csv"]


def test_folds_follow_the_rows_when_either_side_is_reordered(tmp_path: Path) -> None:
    path, data = tmp_path / "toy.csv", competition([0, 1, 2] * 20)
    folds = load_folds(path, data, 5, 0)
    header, *lines = path.read_text().splitlines()
    path.write_text("\r\n".join([header, *sorted(lines, reverse=True)]))
    assert np.array_equal(load_folds(path, data, 5, 0), folds)
    order = np.random.default_rng(0).permutation(60)
    moved = competition(data.y[order], ids=data.train.ids[order].tolist())
    assert np.array_equal(load_folds(path, moved, 5, 0), folds[order])


def test_a_file_made_by_hand_is_used(tmp_path: Path) -> None:
    path = tmp_path / "toy.csv"
    path.write_text("fold,note,target,id\n" + "".join(f"{n % 2},,{'xy'[SIX[n]]},i{n}\n" for n in range(6)))
    assert load_folds(path, competition(SIX), 2, 0).tolist() == [0, 1, 0, 1, 0, 1]


KEPT = "id,target,fold\ni0,x,0\ni1,x,1\ni2,y,0\ni3,y,1\ni4,x,0\ni5,y,1\n"
CHANGES: dict[str, tuple[Competition, int, str, list[str]]] = {
    "new and gone": (
        competition([*SIX, 0, 1], ids=["i0", "i1", "i2", "i3", "i4", "a", "b", "c"]),
        2,
        KEPT,
        ["toy.csv was made for other data: 3 ids are new (a, b, c), 1 is gone (i5); restore those, or set folds.file="],
    ),
    "one new": (competition([*SIX, 0]), 2, KEPT, ["other data: 1 id is new (i6); restore"]),
    "many gone": (competition(SIX[:2]), 2, KEPT, ["4 are gone (i2, i3, i4 …)"]),
    "target": (competition([1, *SIX[1:]]), 2, KEPT, ["1 target changed (i0: x -> y); restore those"]),
    "another n": (competition(SIX), 3, KEPT, ["toy.csv has 2 folds, but folds.n=3; set folds.n=2, or set folds.file="]),
    "repeated id": (competition(SIX), 2, KEPT + "i5,y,0\n", ["toy.csv: 1 id occurs more than once (i5)"]),
    "empty fold": (competition(SIX), 3, KEPT.replace(",1\n", ",2\n"), ["fold 1 has no rows"]),
    "not a number": (competition(SIX), 2, KEPT.replace("i3,y,1", "i3,y,1.5"), ["fold '1.5' is not a number"]),
    "negative": (competition(SIX), 2, KEPT.replace("i3,y,1", "i3,y,-2"), ["fold '-2' is not a number"]),
    "huge": (competition(SIX), 2, KEPT.replace("i3,y,1", f"i3,y,{10**30}"), ["is not a number from 0 to 1"]),
    "no fold column": (competition(SIX), 2, KEPT.replace("fold", "flod"), ["no column 'fold'", "'flod'?"]),
    "empty cell": (
        competition(SIX),
        2,
        KEPT.replace("i3,y,1", "i3,y,"),
        ["toy.csv: fold ''", "or -1 for rows that are never held out"],
    ),
    "torn group": (
        competition(SIX, groups=["p", "q", "p", "q", "r", "r"]),
        2,
        KEPT,
        ["1 group is split, e.g. 'r' is in folds 0, 1; set folds.file="],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_no_longer_fits(tmp_path: Path, name: str) -> None:
    data, n, text, parts = CHANGES[name]
    path = tmp_path / "toy.csv"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_folds(path, data, n, 0)
    for part in parts:
        assert part in str(error.value), str(error.value)
    assert "\n" not in str(error.value) and path.read_text() == text


def test_whole_groups_pass(tmp_path: Path) -> None:
    path = tmp_path / "toy.csv"
    path.write_text(KEPT)
    data = competition(SIX, groups=["p", "q", "p", "q", "r", "s"])
    assert load_folds(path, data, 2, 0).tolist() == [0, 1, 0, 1, 0, 1]


def test_awkward_ids_survive_the_file(tmp_path: Path) -> None:
    ids = ["007", "7", "a,b", 'say "hi"', "ä/猫.jpg", "NA"]
    folds = load_folds(tmp_path / "toy.csv", competition(SIX, ids=ids), 2, 0)
    assert np.array_equal(load_folds(tmp_path / "toy.csv", competition(SIX, ids=ids), 2, 0), folds)


def _load(job: tuple[Path, Competition]) -> Any:
    return load_folds(job[0], job[1], 5, 0).tolist()


@pytest.mark.process
def test_processes_race(tmp_path: Path) -> None:
    data = competition([0, 1, 2] * 50)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(_load, [(tmp_path / "toy.csv", data)] * 2, chunksize=1)
    assert first == second and [file.name for file in tmp_path.iterdir()] == ["toy.csv"]


def test_fold_rows() -> None:
    fold = fold_rows(np.array([0, 1, 0, 2]), 0)
    assert fold.train.tolist() == [1, 3] and fold.val.tolist() == [0, 2]
    for k in (-1, 3):
        with pytest.raises(UserError, match=f"fold={k}: folds go from 0 to 2"):
            fold_rows(np.array([0, 1, 0, 2]), k)


def test_a_seed_makes_the_same_folds_everywhere() -> None:
    """Checked with NumPy 1.26 and scikit-learn 1.4 as well: a kept file must be the one that others would make."""
    labels, groups = random_rows(3, 3000, 4, 300)
    digests = {
        kind: hashlib.sha256(make_folds(labels, groups, 5, 7, kind).astype("<i8").tobytes()).hexdigest()[:8]
        for kind in ("stratified", "group", "stratified_group")
    }
    assert digests == {"stratified": "379ae889", "group": "f50dbad3", "stratified_group": "7dc194ae"}


# ---- several labels per row, and rare classes -----------------------------------------------------------------------


def many_labels(seed: int, rows: int = 400, labels: int = 12) -> np.ndarray:
    """(N, L) bool, the first label in 60 % of the rows, the last in 2 %."""
    return np.random.default_rng(seed).random((rows, labels)) < np.geomspace(0.6, 0.02, labels)


@pytest.mark.parametrize("seed", range(5))
def test_each_fold_has_its_share_of_every_label(seed: int) -> None:
    y = many_labels(seed)
    folds = make_folds(np.zeros(len(y), int), None, 5, seed, several=csr_array(y, dtype=np.int32))
    assert np.bincount(folds).tolist() == [80] * 5
    for column in y.T:
        share = column.sum() / 5
        assert np.abs(np.bincount(folds[column], minlength=5) - share).max() < 2
    assert np.array_equal(folds, make_folds(np.zeros(len(y), int), None, 5, seed, several=csr_array(y, dtype=np.int32)))


@pytest.mark.parametrize("seed", range(3))
def test_groups_stay_whole_and_labels_even(seed: int) -> None:
    y, random = many_labels(seed, 2000), np.random.default_rng(seed)
    groups = np.array([f"g{number}" for number in random.integers(0, 300, 2000)])
    folds = make_folds(np.zeros(2000, int), groups, 5, seed, "auto", several=csr_array(y, dtype=np.int32))
    assert all(len(set(folds[groups == group].tolist())) == 1 for group in set(groups.tolist()))

    def unevenness(of: np.ndarray) -> float:
        counts = np.stack([np.bincount(of[column], minlength=5) for column in y.T])
        return float((counts.std(axis=1) / counts.mean(axis=1)).mean())

    by_chance = random.permutation(300)[np.unique(groups, return_inverse=True)[1]] % 5
    assert unevenness(folds) < unevenness(by_chance) / 4
    strata = np.minimum(np.arange(2000), 1990)  # nearly each row by itself: no reason to hold none of them out
    whole = make_folds(strata, groups, 5, seed, "group", several=csr_array(y, dtype=np.int32))
    assert whole.min() == 0 and all(len(set(whole[groups == group].tolist())) == 1 for group in set(groups.tolist()))
    with pytest.raises(UserError, match="2 groups"):
        make_folds(np.zeros(4, int), np.array(list("aabb")), 3, 0, several=csr_array(np.ones((4, 1), np.int32)))


def naive_spread(y: np.ndarray, units: np.ndarray, n: int, order: list[int]) -> np.ndarray:
    """Each unit of `order` into the fold with the least of its labels, by the formula alone."""
    folds, totals = np.full(len(y), -1), y.sum(axis=0)
    for unit in order:
        own = units == unit
        mass = y[own].sum(axis=0)
        crowded = [
            sum(mass[c] * y[folds == k][:, c].sum() / totals[c] for c in np.flatnonzero(mass))
            + own.sum() * (folds == k).sum() / len(y)
            for k in range(n)
        ]
        folds[own] = int(np.argmin(np.round(crowded, 9)))
    return folds


def test_the_spread_against_its_formula() -> None:
    y, random = many_labels(1, 60, 5), np.random.default_rng(3)
    units = np.unique(random.integers(0, 25, 60), return_inverse=True)[1]
    found = spread_labels(csr_array(y, dtype=np.int32), units, 3, 7)
    shuffled = np.random.RandomState(7).permutation(units.max() + 1).tolist()
    largest = {u: max(y[units == u].sum(axis=0) / np.maximum(1, y.sum(axis=0))) for u in shuffled}
    order = sorted(shuffled, key=lambda u: (-largest[u], -(units == u).sum()))
    np.testing.assert_array_equal(found, naive_spread(y.astype(int), units, 3, order))


@pytest.mark.parametrize("kind", ["auto", "stratified", "group", "stratified_group"])
def test_rare_classes_stay_in_training(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Classes y and z have fewer rows than folds; one row of z is in a group with others and goes with it."""
    labels = [0] * 12 + [1] * 12 + [2] * 3 + [3] * 2
    groups = [f"g{n // 2}" for n in range(24)] + ["r", "r", "s", "t", "g0"]
    data = competition(labels, groups if kind != "stratified" else None, classes="wxyz")
    folds = load_folds(tmp_path / "f.csv", data, 4, 0, kind)
    alone = 5 if kind in ("stratified",) else 4
    assert (folds == -1).sum() == alone and set(folds[:24].tolist()) == {0, 1, 2, 3}
    assert "2 classes have fewer rows than folds.n=4 (y, z); " in capsys.readouterr().out
    if kind != "stratified":
        assert folds[28] == folds[0]
    for k in range(4):
        fold = fold_rows(folds, k)
        assert set(np.flatnonzero(folds == -1)) <= set(fold.train.tolist())
        assert len(fold.train) + len(fold.val) == len(labels)
    assert np.array_equal(load_folds(tmp_path / "f.csv", data, 4, 0, kind), folds), "read back"
