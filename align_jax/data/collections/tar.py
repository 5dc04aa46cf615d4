"""Samples in tars, as webdataset and img2dataset write them: members of one name and several suffixes, one by one.

    000000012.jpg  000000012.txt  000000012.json      is one sample with the key 000000012

The members of a sample follow one another. The key ends at the first dot of the last part of a member's name.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

from align_jax.data.collections.collection import Contents
from align_jax.data.collections.item import (
    MAX_IMAGE_BYTES,
    MAX_TEXT_BYTES,
    CollectionError,
    Content,
    Item,
    Refused,
    image_item,
    text_item,
    too_large,
)
from align_jax.data.collections.metadata import MetadataError, carried_values, keys_of
from align_jax.data.collections.names import NameHashes, name_problem, normal, shown
from align_jax.data.collections.stamps import stamp_of
from align_jax.data.collections.tar_members import Member, members

IMAGE_MEMBERS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif")
TEXT_MEMBERS = ("txt",)
_METADATA_MEMBER = "json"
_STRIDE = 1024
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ\0": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}


@dataclass
class Sample:
    """Members that follow one another and have one key, or one member that can belong to none.

    Attributes:
        key: the name they have in common.
        header: where the first of them begins.
        members: by suffix.
        problem: why this is no sample.
    """

    key: str
    header: int
    members: dict[str, Member] = field(default_factory=dict)
    problem: str | None = None


class _Index(NamedTuple):
    """What is known of a tar without its bodies.

    Attributes:
        contents: how many samples there are, and the digest of all headers.
        headers: where each `_STRIDE`th sample begins.
        repeated: positions of samples whose key stood before.
    """

    contents: Contents
    headers: list[int]
    repeated: frozenset[int]


class TarFile:
    """The samples of one tar.

    Args:
        path: of the tar.
        name: within the collection; the first part of every id.
        content: which member of a sample is the item.
        member: its suffix; any of those that are usual where `None`.
        columns: keys of the `.json` member that are carried along, or "txt" for the text.

    Raises:
        CollectionError: if the tar is compressed.
    """

    def __init__(self, path: Path, name: str, content: Content, member: str | None, columns: Sequence[str]):
        self.path, self.name = path, name
        usual = IMAGE_MEMBERS if content == "image" else TEXT_MEMBERS
        self._content, self._suffixes = content, (member.lower(),) if member else usual
        self._columns = tuple(columns)
        with path.open("rb") as file:
            first = file.read(6)
        for magic, program in _COMPRESSED.items():
            if first.startswith(magic):
                raise CollectionError(
                    f"{path} is compressed, and cannot be read from the middle; unpack it with {program} first"
                )

    def stamp(self) -> str:
        return stamp_of(self.path)

    def look_through(self) -> Contents:
        return self._index.contents

    def read(self, start: int) -> Iterator[Item | Refused]:
        index = self._index
        if start >= index.contents.entries:
            return
        first = start - start % _STRIDE
        with self.path.open("rb", buffering=0) as file:
            for position, sample in enumerate(samples(file, index.headers[first // _STRIDE]), first):
                if position >= start:
                    yield self._entry(file, sample, position in index.repeated)

    def metadata_keys(self, sampled: int = 100) -> set[str]:
        """The keys that the JSON objects of the first samples have, and "txt" where there is a text."""
        found: set[str] = set()
        with self.path.open("rb", buffering=0) as file:
            for _, sample in zip(range(sampled), samples(file), strict=False):
                found |= {"txt"} & set(sample.members)
                metadata = _METADATA_MEMBER in sample.members and _body(file, sample.members[_METADATA_MEMBER])
                if metadata:
                    found |= keys_of(metadata)
        return found

    @cached_property
    def _index(self) -> _Index:
        digest, headers, names = hashlib.sha256(), [], NameHashes()
        with self.path.open("rb", buffering=0) as file:
            for position, sample in enumerate(samples(file)):
                if position % _STRIDE == 0:
                    headers.append(sample.header)
                names.add(self._unique_key(sample))
                described = [(one.name, one.size_bytes, one.checksum) for one in sample.members.values()]
                digest.update(repr((sample.key, described, sample.problem)).encode("utf-8", "backslashreplace"))

        def keys() -> Iterator[str | None]:
            with self.path.open("rb", buffering=0) as file:
                yield from map(self._unique_key, samples(file))

        return _Index(Contents(len(names), digest.hexdigest()), headers, names.repeated(keys))

    def _unique_key(self, sample: Sample) -> str | None:
        return sample.key if sample.problem is None and self._wanted(sample) else None

    def _wanted(self, sample: Sample) -> list[Member]:
        return [member for suffix, member in sample.members.items() if suffix in self._suffixes]

    def _entry(self, file: BinaryIO, sample: Sample, repeated: bool) -> Item | Refused:
        name = f"{self.name}/{sample.key}"
        if sample.problem is not None:
            return Refused(name, sample.problem)
        wanted = self._wanted(sample)
        if len(wanted) != 1:
            found = ", ".join(f".{shown(suffix)}" for suffix in sample.members)
            return Refused(name, f"the sample has {'several members' if wanted else 'nothing'} to take as the "
                           f"{self._content} in {found}")  # fmt: skip
        if repeated:
            return Refused(name, "another sample of the tar has the same key")
        if wanted[0].size_bytes > MAX_IMAGE_BYTES:
            return Refused(name, too_large(wanted[0].size_bytes))
        try:
            columns = self._carried(file, sample)
        except MetadataError as error:
            return Refused(name, str(error))
        make = image_item if self._content == "image" else text_item
        return make(name, _body(file, wanted[0]), columns)

    def _carried(self, file: BinaryIO, sample: Sample) -> dict[str, str | None]:
        if not self._columns:
            return {}
        found = {}
        for suffix in (_METADATA_MEMBER, "txt"):
            member = sample.members.get(suffix)
            if member is not None and member.size_bytes > MAX_TEXT_BYTES:
                raise MetadataError(f"its .{suffix} has {member.size_bytes} bytes; the limit is {MAX_TEXT_BYTES}")
            found[suffix] = None if member is None else _body(file, member)
        return carried_values(self._columns, found[_METADATA_MEMBER], found["txt"])


def samples(file: BinaryIO, start: int = 0) -> Iterator[Sample]:
    """The samples from a header on."""
    current: Sample | None = None
    empty = True
    for member in members(file, start):
        empty = False
        problem = member.problem or name_problem(member.name)
        key, suffix = ("", "") if problem else _key_and_suffix(member.name)
        if not problem and not key:
            problem = "its name has nothing before the suffix"
        if current is not None and (problem or key != current.key or suffix in current.members):
            yield current
            current = None
        if problem:
            yield Sample(shown(member.name), member.header, problem=problem)
            continue
        if current is None:
            current = Sample(key, member.header)
        current.members[suffix] = member
    if current is not None:
        yield current
    if empty and start == 0 and not file.seek(0, 2):
        yield Sample("", 0, problem="the tar is empty (0 bytes)")


def _key_and_suffix(name: str) -> tuple[str, str]:
    folder, slash, last = normal(name).rpartition("/")
    stem, _, suffix = last.partition(".")
    return (f"{folder}{slash}{stem}" if stem else ""), suffix.lower()


def _body(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.body)
    parts, left = [], member.size_bytes
    while left and (part := file.read(left)):  # an unbuffered read may give less than it is asked for
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
