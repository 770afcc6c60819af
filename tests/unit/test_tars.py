"""Tar files read in place: the same members and contents as tarfile unpacks, and the same competition as its files."""

from __future__ import annotations

import io
import os
import tarfile
from multiprocessing import get_context
from pathlib import Path

import pytest

from src.archives import beginning, extent, is_folder, list_files, read_bytes, unread_archive, walk_files
from src.errors import UserError
from src.tars import _number, members_of

LONG = "deep/" * 30 + "name" * 20  # of 230 characters
CONTENTS = {
    "a.jpg": b"one",
    "train/b.jpg": b"x" * 512,
    "train/ä/ö.jpg": b"y" * 513,
    "train/empty.jpg": b"",
    "./dotted/c.jpg": b"dotted",
    "/absolute.jpg": b"absolute",
    f"{LONG}.jpg": b"long",
    "n" * 100 + "/" + "m" * 99: b"just fits",
    "twice.jpg": b"later",
}


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", **more: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in more.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(content))


def make_tar(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> None:
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members.items():
            add(archive, name, content)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_members_that_tarfile_unpacks(tmp_path: Path, form: int) -> None:
    long_target = f"{LONG}.jpg" if form != tarfile.USTAR_FORMAT else "a.jpg"
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
        add(archive, "twice.jpg", b"earlier")
        add(archive, "train", type=tarfile.DIRTYPE)
        for name, content in CONTENTS.items():
            add(archive, name, content)
        add(archive, "hard.jpg", type=tarfile.LNKTYPE, linkname="train/b.jpg")
        add(archive, "longer.jpg", type=tarfile.LNKTYPE, linkname=long_target)
        add(archive, "train/soft.jpg", type=tarfile.SYMTYPE, linkname="../dotted/c.jpg")
        add(archive, "train/softer.jpg", type=tarfile.SYMTYPE, linkname="soft.jpg")
        add(archive, "train/nowhere.jpg", type=tarfile.SYMTYPE, linkname="none.jpg")
        add(archive, "circle", type=tarfile.SYMTYPE, linkname="circle")
        add(archive, "pipe", type=tarfile.FIFOTYPE)
        add(archive, "../outside.jpg", b"outside")
        add(archive, "last.jpg", b"last")
    with tarfile.open(tmp_path / "a.tar") as archive:
        archive.extractall(tmp_path / "out", [info for info in archive if "outside" not in info.name], filter="tar")
    (tmp_path / "out" / "circle").unlink(), (tmp_path / "out" / "pipe").unlink()
    unpacked = {
        os.fsencode(Path(folder, name).relative_to(tmp_path / "out")): Path(folder, name).read_bytes()
        for folder, _, names in os.walk(tmp_path / "out")
        for name in names
        if name != "nowhere.jpg"
    }
    assert len(unpacked) == len(CONTENTS) + 5
    found = {name: read_bytes(tmp_path, b"a.tar/" + name) for name in members_of(os.fsencode(tmp_path / "a.tar"))}
    assert found == unpacked
    both = [top + name for top in (b"a.tar/", b"out/") for name in unpacked]
    assert walk_files(tmp_path) == sorted(both)
    for directory in {os.path.dirname(name) for name in unpacked} | {b"deep", b"none", b"a.jpg", b"trai"}:
        inside, outside = (os.path.join(top, directory).rstrip(b"/") for top in (b"a.tar", b"out"))
        assert list_files(tmp_path, inside) == list_files(tmp_path, outside), directory
        assert is_folder(tmp_path, inside) == is_folder(tmp_path, outside), directory


def test_extents_and_beginnings_are_those_of_the_files(tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", {"b.jpg": b"content"})
    (tmp_path / "b.jpg").write_bytes(b"content")
    assert extent(tmp_path, b"a.tar/b.jpg") == extent(tmp_path, b"b.jpg") == "7;"
    assert beginning(tmp_path, b"a.tar/b.jpg", 3) == b"con" and extent(tmp_path, b"a.tar/none") == "missing;"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "too short"),
        (b"x" * 1024, "no header of a member at byte 0"),
        (b"\x1f\x8b" + b"\0" * 1022, "compressed"),
        ("cut", "ends in the middle of it"),
        ("altered", "no header of a member at byte 1024"),
    ],
)
def test_what_is_no_tar_file_or_damaged_is_one_line(tmp_path: Path, content: bytes | str, says: str) -> None:
    make_tar(tmp_path / "good.tar", {"a": b"a", "b": b"b" * 600}, tarfile.USTAR_FORMAT)
    good = (tmp_path / "good.tar").read_bytes()
    made = {"cut": good[:2000], "altered": good[:1030] + b"?" + good[1031:]}
    (tmp_path / "bad.tar").write_bytes(content if isinstance(content, bytes) else made[content])
    with pytest.raises(UserError) as error:
        read_bytes(tmp_path, b"bad.tar/b")
    assert str(error.value).startswith(f"{tmp_path}/bad.tar/b: cannot read the file (") and says in str(error.value)


def test_sizes_of_8_gb_and_more() -> None:
    assert _number(b"00000001750\0") == 1000 and _number(b"    1750 \0\0\0") == 1000 and _number(b"\0" * 12) == 0
    for size in (8 << 30, 1 << 40):
        field = tarfile.TarInfo().create_gnu_header(
            {**tarfile.TarInfo("a").get_info(), "size": size}, "utf-8", "strict"
        )
        assert _number(field[124:136]) == size
    assert _number(b"damaged     ") == -1


def _wrong(root: Path) -> int:
    return sum(read_bytes(root, b"a.tar/%d" % i) != bytes([i % 251]) * (37 * i) for i in range(299, -1, -1))


def test_forked_processes_read_one_tar(tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", {str(i): bytes([i % 251]) * (37 * i) for i in range(300)})
    assert _wrong(tmp_path) == 0
    with get_context("fork").Pool(2) as pool:
        assert pool.map(_wrong, [tmp_path] * 4, chunksize=1) == [0] * 4


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("train.tar.gz", "gunzip {path}"),
        ("train images.TGZ", "gunzip '{path}'"),
        ("train.tar.xz", "unxz {path}"),
        ("train.7z", "7z x -o{folder} {path}"),
    ],
)
def test_archives_that_are_not_read_in_place_have_a_cure(tmp_path: Path, name: str, cure: str) -> None:
    (tmp_path / "labels.zip").touch()
    assert unread_archive(tmp_path) == unread_archive(tmp_path / "none") == ""
    (tmp_path / name).touch()
    told = cure.format(path=tmp_path / name, folder=tmp_path)
    assert unread_archive(tmp_path) == f"{tmp_path / name} cannot be read in place; {told}"
