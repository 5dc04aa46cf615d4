"""The two forms of a file that `torch.save` writes: where the pickle and the storages lie in each.

zip       NAME/data.pkl, NAME/data/KEY for each storage, NAME/byteorder; members are not compressed
stream    before release 1.6: pickles of a magic number, a version and the machine's properties, the object, the
          storages' keys; then for each key its number of elements and its little-endian bytes
"""

import io
import struct
import zipfile
import zlib
from typing import Any, NamedTuple

from align_jax.conversion.readers.inert_pickle import MalformedPickleError, read_pickle
from align_jax.conversion.readers.tensors import SourceError, listing
from align_jax.conversion.readers.torch_objects import KNOWN, Storage, storage
from align_jax.conversion.readers.weight_file import ByteOrder, WeightFile

_LONGEST_PICKLE_BYTES = 100_000_000  # 2,000 tensors take about 200 thousand

_LONGEST_LINE_BYTES = 10_000

_LOCAL_HEADER_BYTES = 30
_LOCAL_HEADER_START = b"PK\x03\x04"
_ENCRYPTED = 1  # flag

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_STREAM_VERSION = 1001


class Region(NamedTuple):
    """The bytes of a storage in the file; `checksum` is their CRC-32 where there is one."""

    start: int
    size_bytes: int
    checksum: int | None = None


class Contents(NamedTuple):
    """The object that was saved, with a `View` for each tensor, and the storages in the file by key."""

    value: Any
    regions: dict[str, Region]
    byte_order: ByteOrder = "little"


def read_container(file: WeightFile) -> Contents:
    """Reads either form, without the storages' bytes.

    Raises:
        SourceError: if it is neither, or damaged.
        MalformedPickleError, RefusedNamesError: as for `read_pickle`.
    """
    is_zip = file.stream.read(len(_LOCAL_HEADER_START)) == _LOCAL_HEADER_START
    file.stream.seek(0)
    return _read_zip(file) if is_zip else _read_stream(file)


def _read_zip(file: WeightFile) -> Contents:
    members = _list_members(file)
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise SourceError(f"{file.path} is a zip archive, but not one of torch.save: it holds {len(pickles)} data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    value = read_pickle(io.BytesIO(_read_member(file, members[pickles[0]])), KNOWN, storage)
    order = _read_member(file, members[f"{folder}byteorder"]) if f"{folder}byteorder" in members else b"little"
    if order not in (b"little", b"big"):
        raise SourceError(f"{file.path} is damaged: its byteorder is neither little nor big; fetch it again")
    prefix = f"{folder}data/"
    regions = {
        name.removeprefix(prefix): _region(file, member) for name, member in members.items() if name.startswith(prefix)
    }
    return Contents(value, regions, "little" if order == b"little" else "big")


def _list_members(file: WeightFile) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(file.stream) as archive:
            listed = archive.infolist()
    # What the standard library raises for a damaged directory, the last four from within.
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, OverflowError, OSError) as error:
        raise SourceError(
            f"{file.path} is truncated or damaged: its zip directory cannot be read ({listing([str(error)])}); fetch "
            "it again"
        ) from None
    members = {member.filename: member for member in listed}
    if len(members) != len(listed):
        raise SourceError(f"{file.path} is damaged: its zip directory names a member twice; fetch it again")
    return members


def _region(file: WeightFile, member: zipfile.ZipInfo) -> Region:
    """Where the bytes of a member lie."""
    name = listing([member.filename])
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & _ENCRYPTED:
        raise SourceError(
            f"{file.path} was packed by something else than torch.save: {name} is compressed or encrypted; pack it "
            "without"
        )
    header = file.read(member.header_offset, _LOCAL_HEADER_BYTES).tobytes()
    if not header.startswith(_LOCAL_HEADER_START):
        raise SourceError(f"{file.path} is damaged: {name} is not where its zip directory says; fetch it again")
    name_bytes, extra_bytes = struct.unpack_from("<HH", header, _LOCAL_HEADER_BYTES - 4)
    start = member.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes
    if start + member.file_size > file.size_bytes:
        raise SourceError(f"{file.path} is damaged: {name} reaches beyond its end; fetch it again")
    return Region(start, member.file_size, member.CRC or None)  # torch writes 0 when told to compute none


def _read_member(file: WeightFile, member: zipfile.ZipInfo) -> bytes:
    region, name = _region(file, member), listing([member.filename])
    if region.size_bytes > _LONGEST_PICKLE_BYTES:
        raise SourceError(f"{file.path}: {name} has {region.size_bytes} bytes, too many to describe a state dict")
    content = file.read(region.start, region.size_bytes).tobytes()
    if region.checksum is not None and zlib.crc32(content) != region.checksum:
        raise SourceError(f"{file.path} is damaged: {name} does not match its checksum; fetch it again")
    return content


def _read_stream(file: WeightFile) -> Contents:
    storages: dict[str, Storage] = {}

    def remember(identifier: Any) -> Storage:
        found = storage(identifier)
        storages.setdefault(found.key, found)
        return found

    pickles = _Pickles(file)
    try:
        magic_number = read_pickle(pickles, KNOWN, storage)
    except MalformedPickleError:
        magic_number = None
    if type(magic_number) is not int or magic_number != _MAGIC_NUMBER:
        raise SourceError(f"{file.path} is not a file that torch.save writes; is it another format, or damaged?")
    version, _, value, keys = (read_pickle(pickles, KNOWN, remember) for _ in range(4))
    if version != _STREAM_VERSION:
        raise SourceError(
            f"{file.path} is of a version of torch.save that is unknown; save it again with a newer torch"
        )
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
        raise MalformedPickleError("the storages it lists are not those of the tensors")
    return Contents(value, _find_regions(file, [storages[key] for key in keys]))


def _find_regions(file: WeightFile, storages: list[Storage]) -> dict[str, Region]:
    """The storages that follow the pickles."""
    regions = {}
    position = file.stream.tell()
    for expected in storages:
        count = int.from_bytes(file.read(position, 8).tobytes(), "little")
        if count != expected.count:
            raise SourceError(
                f"{file.path} is damaged: storage {listing([expected.key])} has {count} elements instead of "
                f"{expected.count}; fetch it again"
            )
        regions[expected.key] = Region(position + 8, count * expected.dtype.itemsize)
        position += 8 + regions[expected.key].size_bytes
    if position != file.size_bytes:
        raise SourceError(
            f"{file.path} is truncated or damaged: its storages end at byte {position}, the file at "
            f"{file.size_bytes}; fetch it again"
        )
    return regions


class _Pickles:
    """The beginning of the file; lengths that damaged pickles claim are cut to what is there."""

    def __init__(self, file: WeightFile) -> None:
        self._stream = file.stream
        self._end = min(file.size_bytes, _LONGEST_PICKLE_BYTES)

    def read(self, count: int, /) -> bytes:
        return self._stream.read(max(0, min(count, self._end - self._stream.tell())))

    def readline(self) -> bytes:
        return self._stream.readline(_LONGEST_LINE_BYTES)
