"""Files in zip and HDF5 archives: listed, walked and read like files in folders, by forked workers too."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
import pytest

from src.archives import beginning, extent, is_folder, list_files, read_bytes, stamp, walk_files
from src.errors import UserError


def make_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "plain" / "deep").mkdir(parents=True)
    (tmp_path / "plain" / "a.jpg").write_bytes(b"plain a")
    (tmp_path / "plain" / "deep" / "b.jpg").write_bytes(b"plain b")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "c.jpg").write_bytes(b"hidden")
    (tmp_path / "table.csv").write_text("id\n")
    (tmp_path / "folder.zip").mkdir()  # a folder that is called like an archive
    (tmp_path / "folder.zip" / "d.jpg").write_bytes(b"a folder after all")
    make_zip(
        tmp_path / "train.zip",
        {
            "train/1.jpg": b"one",
            "train/ä/2.jpg": b"two",
            "top.txt": b"top",
            "__MACOSX/train/._1.jpg": b"mac",
            "train/.hidden": b"hidden",
        },
    )
    with h5py.File(tmp_path / "train.hdf5", "w") as file:
        file["ISIC_1"] = np.void(b"\xff\xd8 encoded \0")
        file["ISIC_2"] = np.frombuffer(b"\x89PNG bytes", np.uint8)
        file.create_dataset("group/text", data=np.bytes_(b"\xff\xd8 fixed"))
        file["group/array"] = np.arange(24, dtype=np.int16).reshape(4, 6)
        file["many"] = np.arange(20 * 32 * 24 * 3).reshape(20, 32, 24, 3).astype(np.float32)
        file["number"] = 3.0
        ragged = file.create_dataset("ragged", (3,), h5py.vlen_dtype(np.uint8))
        ragged[1] = np.frombuffer(b"of any length", np.uint8)
    return tmp_path


def test_walk_opens_archives_and_leaves_hidden_files_out(root: Path) -> None:
    assert walk_files(root) == sorted(
        [
            b"folder.zip/d.jpg",
            b"plain/a.jpg",
            b"plain/deep/b.jpg",
            b"table.csv",
            b"train.zip/train/1.jpg",
            "train.zip/train/ä/2.jpg".encode(),
            b"train.zip/top.txt",
            b"train.hdf5/ISIC_1",
            b"train.hdf5/ISIC_2",
            b"train.hdf5/group/array",
            b"train.hdf5/group/text",
            b"train.hdf5/many",
            b"train.hdf5/number",
            b"train.hdf5/ragged",
        ]
    )


@pytest.mark.parametrize(
    ("directory", "names"),
    [
        (b"plain", {b"a.jpg"}),
        (b"plain/deep", {b"b.jpg"}),
        (b"train.zip", {b"top.txt"}),
        (b"train.zip/train", {b"1.jpg", b".hidden"}),
        ("train.zip/train/ä".encode(), {b"2.jpg"}),
        (b"train.zip/none", set()),
        (b"folder.zip", {b"d.jpg"}),
        (b"train.hdf5", {b"ISIC_1", b"ISIC_2", b"many", b"number", b"ragged"}),
        (b"train.hdf5/group", {b"text", b"array"}),
        (b"train.hdf5/many", {b"%d" % row for row in range(20)}),
        (b"train.hdf5/ragged", {b"0", b"1", b"2"}),
        (b"train.hdf5/ISIC_1", set()),
        (b"none", set()),
        (b"table.csv", set()),
    ],
)
def test_lists_of_folders(root: Path, directory: bytes, names: set[bytes]) -> None:
    assert list_files(root, directory) == names
    assert list_files("/", os.fsencode(root) + b"/" + directory) == names  # absolute
    assert is_folder(root, directory) == (bool(names) and directory != b"table.csv")


def test_the_root_itself(root: Path) -> None:
    assert list_files(root, b"") == {b"table.csv", b"train.zip", b"train.hdf5"}
    assert is_folder(root, b"train.zip") and is_folder(root, b"") and is_folder(root, b"train.hdf5/group")


def test_contents(root: Path) -> None:
    for path, content in {
        b"plain/a.jpg": b"plain a",
        b"folder.zip/d.jpg": b"a folder after all",
        b"train.zip/train/1.jpg": b"one",
        "train.zip/train/ä/2.jpg".encode(): b"two",
        b"train.hdf5/ISIC_1": b"\xff\xd8 encoded \0",
        b"train.hdf5/ISIC_2": b"\x89PNG bytes",
        b"train.hdf5/group/text": b"\xff\xd8 fixed",
        b"train.hdf5/ragged/1": b"of any length",
        b"train.zip": (root / "train.zip").read_bytes(),
    }.items():
        assert read_bytes(root, path) == content, path
        assert read_bytes("/somewhere/else", os.fsencode(root) + b"/" + path) == content
    found = np.load(io.BytesIO(read_bytes(root, b"train.hdf5/group/array")))
    np.testing.assert_array_equal(found, np.arange(24, dtype=np.int16).reshape(4, 6))
    found = np.load(io.BytesIO(read_bytes(root, b"train.hdf5/many/7")))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.arange(20 * 32 * 24 * 3).reshape(20, 32, 24, 3)[7])


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (b"none.jpg", "No such file"),
        (b"train.zip/none.jpg", "no such file in the archive"),
        (b"train.hdf5/none", "no such dataset"),
        (b"train.hdf5/many/20", "no such dataset"),
        (b"train.hdf5/group", "a group"),
        (b"train.hdf5/number", "no image"),
        (b"bad.zip/a.jpg", "no zip file"),
        (b"bad.h5/a", "open file"),
        (b"cut.zip/a", "CRC"),
    ],
)
def test_what_cannot_be_read_is_named(root: Path, path: bytes, says: str) -> None:
    (root / "bad.zip").write_bytes(b"PK no zip")
    (root / "bad.h5").write_bytes(b"no HDF5")
    make_zip(root / "cut.zip", {"a": b"x" * 100}, zipfile.ZIP_STORED)
    content = (root / "cut.zip").read_bytes()
    (root / "cut.zip").write_bytes(content.replace(b"x" * 100, b"y" * 100))
    with pytest.raises(UserError) as error:
        read_bytes(root, path)
    assert str(error.value).startswith(f"{root}/{path.decode()}: cannot read the file (") and says in str(error.value)


def test_archives_that_cannot_be_read_count_as_files(tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"PK no zip")
    (tmp_path / "bad.h5").write_bytes(b"no HDF5")
    assert walk_files(tmp_path) == [b"bad.h5", b"bad.zip"]
    with pytest.raises(UserError, match=r"bad\.zip: the archive cannot be read \(no zip file"):
        list_files(tmp_path, b"bad.zip")


def test_names_without_a_mark_of_their_encoding(tmp_path: Path) -> None:
    make_zip(tmp_path / "a.zip", {"xyz/ab.jpg": b"1", "w\\v.jpg": b"2"}, zipfile.ZIP_STORED)
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace(b"ab.jpg", "ä.jpg".encode()))  # utf-8, unmarked
    assert walk_files(tmp_path) == [b"a.zip/w/v.jpg", "a.zip/xyz/ä.jpg".encode()]
    assert read_bytes(tmp_path, "a.zip/xyz/ä.jpg".encode()) == b"1"


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").write_bytes(b"x")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "a" / "up").symlink_to("..")
    assert walk_files(tmp_path) == [b"a/x.jpg", b"b/x.jpg"]


def test_a_new_archive_is_read_anew(tmp_path: Path) -> None:
    make_zip(tmp_path / "a.zip", {"x": b"old"})
    before = stamp(tmp_path, b"a.zip/x"), stamp(tmp_path, b"none\na.zip/x"), stamp(tmp_path, b"a.zip")
    assert read_bytes(tmp_path, b"a.zip/x") == b"old" and before[0] == before[2] != before[1]
    make_zip(tmp_path / "a.zip", {"x": b"newer", "y": b""})
    assert read_bytes(tmp_path, b"a.zip/x") == b"newer" and list_files(tmp_path, b"a.zip") == {b"x", b"y"}
    assert before[0] != stamp(tmp_path, b"a.zip/x") and before[1] != stamp(tmp_path, b"none\na.zip/x")


def _wrong(root: Path, start: int) -> int:
    """How many of the members are not what they should be, in an order of this process' own."""
    order = np.random.default_rng(start).permutation(300)
    wrong = sum(read_bytes(root, b"a.zip/%d" % i) != bytes([i % 251]) * (500 + 37 * i) for i in order.tolist())
    return wrong + sum(read_bytes(root, b"a.h5/%d" % i) != b"\xff" + bytes([i % 251]) * 50 for i in order.tolist())


def test_forked_processes_read_one_open_archive(tmp_path: Path) -> None:
    """They share the descriptor that the parent opened: with a shared place in the file they would read garbage."""
    make_zip(tmp_path / "a.zip", {str(i): bytes([i % 251]) * (500 + 37 * i) for i in range(300)}, zipfile.ZIP_STORED)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i in range(300):
            file[str(i)] = np.void(b"\xff" + bytes([i % 251]) * 50)
    assert _wrong(tmp_path, 0) == 0
    with get_context("fork").Pool(3) as pool:
        assert pool.starmap(_wrong, [(tmp_path, k) for k in range(6)], chunksize=1) == [0] * 6
    assert _wrong(tmp_path, 1) == 0


def test_an_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    real = os.scandir

    def refuse(path: bytes) -> object:
        if path.endswith(b"/a"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"a: the folder cannot be read \(Permission denied\)"):
        walk_files(tmp_path)
    with pytest.raises(UserError, match=r"a: the folder cannot be read \(Permission denied\)"):
        list_files(tmp_path, b"a")
    assert stat.S_ISDIR((tmp_path / "a").stat().st_mode)


def test_without_h5py(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "h5py", None)
    os.utime(root / "train.hdf5", ns=(1, 1))  # else it may be open already
    with pytest.raises(UserError, match=r"train\.hdf5: reading HDF5 needs a package; pip install h5py"):
        walk_files(root)


def test_extents_and_beginnings_are_of_contents_and_not_of_places(tmp_path: Path) -> None:
    """A checksum of data that is the same wherever they lie, and another where a picture is, of whatever form."""
    for place, content in (("here", b"one two"), ("there", b"one two"), ("other", b"one_two")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.png").write_bytes(content)
        make_zip(tmp_path / place / "t.zip", {"a.png": content})
        with h5py.File(tmp_path / place / "t.h5", "w") as file:
            file["a"] = np.frombuffer(content, np.uint8)
    for path in (b"a.png", b"t.zip/a.png", b"t.h5/a", b"a.png\nt.zip/a.png"):
        known = {
            place: (extent(tmp_path / place, path), beginning(tmp_path / place, path, 1000))
            for place in ("here", "there", "other")
        }
        assert known["here"] == known["there"] != known["other"]
        assert "missing" not in known["here"][0] and known["here"][1]
    assert beginning(tmp_path / "here", b"a.png", 3) == b"one"
    assert (extent(tmp_path, b"no.png"), beginning(tmp_path, b"no.png", 3)) == ("missing;", b"")
    assert extent(tmp_path / "here", b"t.zip/no.png") == "missing;"
