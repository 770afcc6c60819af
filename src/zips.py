"""Zip files as folders: an index of their members, each of which is read from its place in the file.

No file is kept open, so there may be thousands of them. What cannot be read raises OSError.
"""

from __future__ import annotations

import bz2
import lzma
import os
import struct
import zipfile
import zlib

import numpy as np

from src.members import Members, kept_while_unchanged, read_at

SUFFIXES = (b".zip",)
LOCAL = struct.Struct("<4s22xHH")  # before a member's data: the signature, and the lengths of its name and extra field
ENCRYPTED = 1
DAMAGED = (zipfile.BadZipFile, NotImplementedError, ValueError, zlib.error, lzma.LZMAError, EOFError, struct.error)


def members_of(archive: bytes) -> Members:
    """Raises OSError if it is no zip file."""
    return _index(archive).members


def extent(archive: bytes, name: bytes) -> str:
    """The size and checksum of a member."""
    index = _index(archive)
    number = index.members.find(name)
    return f"{index.sizes[number]}:{index.checksums[number]}"


def read_member(archive: bytes, name: bytes) -> bytes:
    index = _index(archive)
    number = index.members.find(name)
    if index.flags[number] & ENCRYPTED:
        raise OSError("it is encrypted; unpack the archive with its password")
    size, packed = int(index.sizes[number]), int(index.packed[number])
    with open(archive, "rb", buffering=0) as file:
        start = int(index.offsets[number])
        try:
            signature, of_name, of_extra = LOCAL.unpack(os.pread(file.fileno(), LOCAL.size, start))
            if signature != b"PK\x03\x04":
                raise OSError("the archive is damaged: no member where its list has one")
            data = read_at(file.fileno(), start + LOCAL.size + of_name + of_extra, packed)
            content = _unpacked(data, int(index.methods[number]), size)
        except DAMAGED as error:
            raise OSError(" ".join(str(error).split()) or "damaged") from None
    if len(content) != size or zlib.crc32(content) != index.checksums[number]:
        raise OSError("damaged: another CRC-32 than in the archive's list")
    return content


def _unpacked(data: bytes, method: int, size: int) -> bytes:
    if method == zipfile.ZIP_STORED:
        return data
    if method == zipfile.ZIP_DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)  # no more, whatever it swells to
    if method == zipfile.ZIP_BZIP2:
        return bz2.BZ2Decompressor().decompress(data, size + 1)
    if method == zipfile.ZIP_LZMA:
        return zipfile.LZMADecompressor().decompress(data)  # type: ignore[attr-defined]
    raise OSError(f"compressed by method {method}, which Python does not know; pack it anew with deflate")


class _Index:
    """The members of a zip file with what their list says of each, in the order of `members`."""

    def __init__(self, archive: bytes) -> None:
        with zipfile.ZipFile(os.fsdecode(archive)) as file:
            infos = [info for info in file.infolist() if not info.is_dir()]
        self.members = Members([_member_path(info) for info in infos])
        order = self.members.given
        self.offsets = np.array([info.header_offset for info in infos], np.int64)[order]
        self.packed = np.array([info.compress_size for info in infos], np.int64)[order]
        self.sizes = np.array([info.file_size for info in infos], np.int64)[order]
        self.checksums = np.array([info.CRC for info in infos], np.uint32)[order]
        self.methods = np.array([info.compress_type for info in infos], np.uint16)[order]
        self.flags = np.array([info.flag_bits for info in infos], np.uint16)[order]


def _member_path(info: zipfile.ZipInfo) -> bytes:
    """Of a member, utf-8. Names without a mark of their encoding are utf-8 where they can be: zipfile reads them as
    cp437. Old Windows programs write backslashes."""
    path = info.filename.replace("\\", "/")
    if info.flag_bits & 0x800 or path.isascii():
        return path.encode("utf-8", "surrogateescape")
    raw = path.encode("cp437")
    try:
        raw.decode("utf-8")
        return raw
    except UnicodeDecodeError:
        return path.encode("utf-8")


@kept_while_unchanged
def _index(archive: bytes) -> _Index:
    try:
        return _Index(archive)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise OSError(f"no zip file, or damaged: {error}") from None
