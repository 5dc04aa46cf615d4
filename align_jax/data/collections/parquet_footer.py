"""Sizes of the column chunks of a Parquet file, from its footer, before anything is unpacked.

Arrow ends the process when it is asked for a chunk whose metadata contradict themselves, so they are read here:
Thrift's compact protocol (github.com/apache/thrift, doc/specs/thrift-compact-protocol.md), with the fields of
parquet.thrift (github.com/apache/parquet-format).
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from align_jax.data.collections.item import CollectionError

_ROW_GROUPS, _CHUNKS, _METADATA, _UNPACKED, _PACKED = 4, 1, 3, 6, 7  # numbers of fields
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 11, 12
_INTEGERS = (4, 5, 6)
_MAX_DEPTH = 16


class FooterError(CollectionError):
    """The footer is damaged."""


class ChunkSize(NamedTuple):
    """Bytes of a column of a row group, as they are stored and as they unpack."""

    packed: int
    unpacked: int


def read_footer(path: Path) -> bytes:
    """The metadata at the end of the file, which say where every page of it lies, and how long it is."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(end - 8)
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, end - 8 - length))
        return file.read(length)


def wanted_sizes(path: Path, file: Any, columns: Collection[str | None]) -> list[list[ChunkSize]]:
    """For each row group, the sizes of the leaves of some columns.

    Args:
        path: of the file.
        file: opened by Arrow.
        columns: of the schema's top.

    Raises:
        FooterError: if the footer is damaged, or a row group has not the columns of the schema.
    """
    groups = chunk_sizes(read_footer(path))
    if len(groups) != file.metadata.num_row_groups or any(len(sizes) != len(file.schema) for sizes in groups):
        raise FooterError("a row group of the Parquet file has not the columns of its schema")
    tops = [file.schema.column(index).path.partition(".")[0] for index in range(len(file.schema))]
    return [[size for top, size in zip(tops, sizes, strict=True) if top in columns] for sizes in groups]


def chunk_sizes(footer: bytes) -> list[list[ChunkSize]]:
    """For each row group, the sizes of its columns, in the order of the leaves of the schema.

    Raises:
        FooterError: if it is damaged.
    """
    try:
        groups = _Reader(footer).struct(0)[_ROW_GROUPS]
        chunks = [[chunk[_METADATA] for chunk in group[_CHUNKS]] for group in groups]
        sizes = [[ChunkSize(one[_PACKED], one[_UNPACKED]) for one in group] for group in chunks]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise FooterError("the footer of the Parquet file is damaged") from error
    if any(not isinstance(size, int) or size < 0 for group in sizes for chunk in group for size in chunk):
        raise FooterError("the footer of the Parquet file has sizes that are none")
    return sizes


class _Reader:
    """Reads values one after the other."""

    def __init__(self, content: bytes):
        self._content, self._position = content, 0

    def struct(self, depth: int) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise ValueError("too deep")
        if kind in _INTEGERS:
            return self._integer()
        if kind in (_TRUE, _FALSE, _BYTE):  # booleans take a byte within lists and maps
            return self._byte()
        if kind in (_DOUBLE, _BINARY):
            return self._bytes(8 if kind == _DOUBLE else self._unsigned())
        if kind == _LIST:
            head = self._byte()
            length = head >> 4 if head >> 4 < 15 else self._unsigned()
            return [self._value(head & 15, depth + 1) for _ in range(length)]
        if kind == _MAP:
            length = self._unsigned()
            kinds = self._byte() if length else 0
            return [(self._value(kinds >> 4, depth + 1), self._value(kinds & 15, depth + 1)) for _ in range(length)]
        if kind == _STRUCT:
            return self.struct(depth + 1)
        raise ValueError(f"no kind {kind}")

    def _byte(self) -> int:
        self._position += 1
        return self._content[self._position - 1]

    def _bytes(self, length: int) -> bytes:
        self._position += length
        if self._position > len(self._content):
            raise IndexError
        return self._content[self._position - length : self._position]

    def _integer(self) -> int:
        value = self._unsigned()
        return value >> 1 ^ -(value & 1)

    def _unsigned(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 128:
            value |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise ValueError("a number is too long")
        return value | byte << shift
