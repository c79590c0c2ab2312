"""Zip archives, read within limits and only where their directory tells the whole story."""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from api.gate.limits import (
    KIB,
    MAX_CONFIG_RATIO,
    MAX_DIRECTORY_BYTES,
    MAX_MEMBERS,
    MAX_NPY_HEADER_BYTES,
    MAX_UPLOAD_BYTES,
)
from api.gate.records import Refused
from api.gate.refusals import quote, suspicious, too_large

# What zipfile raises over fields that make no sense.
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error)


@contextmanager
def open_archive(path: Path, wanted: str) -> Iterator[Archive]:
    """The zip file at a path, once its directory is checked.

    Args:
        path: The upload on disk.
        wanted: What is expected in words, for whoever sent another format.

    Raises:
        Refused: When it is no zip file, or one that is not what its directory says.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        directory, total = _sniff(file, size, wanted)
        try:
            with zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
        except _ZIP_ERRORS as error:
            raise suspicious("The archive's directory cannot be read") from error
        if any(info.filename == _OFFICE for info in infos):
            raise _another_format("an Office document, such as .xlsx", wanted)
        yield Archive(file, _members(file, infos, directory, total))


class Archive:
    """A zip file whose directory has been checked; its members are read within limits."""

    def __init__(self, file: BinaryIO, members: dict[str, Member]) -> None:
        self.file = file
        self.members = members

    def allow_only(self, *names: str) -> None:
        """Refuses the archive if it holds anything else."""
        for name in self.members:
            if name not in names:
                raise suspicious(
                    f"The archive holds {quote(name)}; only {', '.join(names)} are allowed"
                )

    def read(self, member: Member, limit: int) -> bytes:
        """All of a member, of which at most `limit` bytes are ever unpacked."""
        data = self.head(member, limit + 1)
        name, info = quote(member.info.filename), member.info
        if len(data) > limit:
            raise too_large(f"{name} unpacks to more than {limit} bytes, which is the limit")
        if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
            raise suspicious(f"{name} is not what the archive's directory says of it")
        if len(data) > MAX_CONFIG_RATIO * max(info.compress_size, 64):
            raise suspicious(f"{name} unpacks to more than {MAX_CONFIG_RATIO} times its size")
        return data

    def head(self, member: Member, limit: int = MAX_NPY_HEADER_BYTES + 12) -> bytes:
        """The first `limit` bytes of a member, whatever size it declares."""
        left = member.info.compress_size
        self.file.seek(member.begin)
        if member.info.compress_type == zipfile.ZIP_STORED:
            return self.file.read(min(left, limit))
        unpack, data = zlib.decompressobj(-zlib.MAX_WBITS), bytearray()
        try:
            while left > 0 and len(data) < limit and not unpack.eof:
                packed = self.file.read(min(left, 64 * KIB))
                if not packed:
                    break
                left -= len(packed)
                data += unpack.decompress(packed, limit - len(data))
        except zlib.error as error:
            name = quote(member.info.filename)
            raise suspicious(f"{name} cannot be unpacked") from error
        return bytes(data)


@dataclass(frozen=True)
class Member:
    """One file of an archive, by its entry in the directory.

    Attributes:
        info: The entry.
        begin: Where its bytes begin in the archive.
    """

    info: zipfile.ZipInfo
    begin: int


_MAGIC = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file (.h5)",
    b"\x89PNG\r\n\x1a\n": "a PNG image",
    b"\x93NUMPY": "a single array (.npy)",
    b"PK\x05\x06": "an empty archive",
    b"\x1f\x8b": "a gzip file",
    b"\x80": "a Python pickle",
}
_OFFICE = "[Content_Types].xml"  # what every such archive begins with
_END = struct.Struct("<4s4H2LH")  # the zip format's end of central directory


def _sniff(file: BinaryIO, size: int, wanted: str) -> tuple[int, int]:
    """Where the directory begins and how many members it lists, in a file that is all archive."""
    head = file.read(8)
    file.seek(max(0, size - _END.size))
    tail = file.read(_END.size)
    ends_as_zip = len(tail) == _END.size and tail.startswith(b"PK\x05\x06")
    if not head.startswith(b"PK\x03\x04"):
        if ends_as_zip and size > _END.size:
            raise suspicious("The file is an archive hidden behind other data")
        kinds = (kind for magic, kind in _MAGIC.items() if head.startswith(magic))
        kind = next(kinds, "an unknown file" if head else "an empty file")
        raise _another_format(kind, wanted)
    if size > MAX_UPLOAD_BYTES:
        raise too_large(f"The file has {size} bytes; at most {MAX_UPLOAD_BYTES} are read")
    if not ends_as_zip:
        raise suspicious("The archive is cut short, or data follow its end")
    _, disk, first_disk, here, total, length, begin, comment = _END.unpack(tail)
    end = size - _END.size
    if disk or first_disk or comment or here != total or begin + length != end:
        raise suspicious("The archive's end does not match the file")
    if total > MAX_MEMBERS or length > MAX_DIRECTORY_BYTES:
        raise suspicious(
            f"The archive has {total} members and {length} bytes of directory; at most "
            f"{MAX_MEMBERS} and {MAX_DIRECTORY_BYTES} are allowed"
        )
    file.seek(max(0, end - 20))
    if file.read(4) == b"PK\x06\x07":
        raise suspicious("The archive uses zip64, which files of this size do not need")
    file.seek(0)
    return begin, total


def _another_format(kind: str, wanted: str) -> Refused:
    return Refused(
        "unsupported_type",
        f"The upload is {kind}; {wanted}, is expected. Save it in that format.",
    )


def _members(
    file: BinaryIO, infos: list[zipfile.ZipInfo], directory: int, total: int
) -> dict[str, Member]:
    """The members by name, once they are known to fill the file one after the other."""
    if len(infos) != total:
        raise suspicious("The archive's directory does not match its end")
    declared = sum(info.file_size for info in infos)
    if declared > MAX_UPLOAD_BYTES:
        raise too_large(
            f"The archive unpacks to {declared} bytes; at most {MAX_UPLOAD_BYTES} are allowed"
        )
    members: dict[str, Member] = {}
    position = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        name = quote(info.orig_filename)
        fault = _fault(info)
        if fault or info.filename in members:
            raise suspicious(f"The member {name} {fault or 'is there twice'}")
        begin = _data_begin(file, info)
        # A data descriptor, at most 24 bytes long, may lie between two members.
        if begin is None or not 0 <= info.header_offset - position <= 24 * bool(members):
            raise suspicious(f"The member {name} is not where the directory says")
        position = begin + info.compress_size
        members[info.filename] = Member(info, begin)
    if not 0 <= directory - position <= 24:
        raise suspicious("The members do not fill the archive")
    return members


def _fault(info: zipfile.ZipInfo) -> str:
    """What is wrong with a member by its entry in the directory, "" when nothing is."""
    name = info.orig_filename
    kind = stat.S_IFMT(info.external_attr >> 16)
    packing = info.compress_type
    stored_whole = packing != zipfile.ZIP_STORED or info.compress_size == info.file_size
    faults = (
        (not re.fullmatch(r"\w[\w. -]*(/[\w. -]+)*", name, re.ASCII), "has no plain file name"),
        (".." in name, "has a name that climbs out of the archive"),
        (kind not in (0, stat.S_IFREG), "is not a plain file"),
        (bool(info.flag_bits & 0x2061), "is encrypted or patched"),
        (
            packing not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
            "is neither stored nor deflated",
        ),
        (not stored_whole, "is stored, but with two sizes"),
    )
    return next((fault for found, fault in faults if found), "")


def _data_begin(file: BinaryIO, info: zipfile.ZipInfo) -> int | None:
    """Where a member's bytes begin, None if its own header tells another story."""
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
        return None
    flags, method = struct.unpack_from("<2H", header, 6)
    name_length, extra_length = map(int, struct.unpack_from("<2H", header, 26))
    name = file.read(name_length)
    if name != info.orig_filename.encode("ascii") or method != info.compress_type or flags & 0x2061:
        return None
    return info.header_offset + 30 + name_length + extra_length
