"""Rows of Parquet files: img2dataset's `key`, `jpg`, `txt` and metadata, or columns of any names."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from align_jax.data.arrow import parquet
from align_jax.data.collections.collection import Contents
from align_jax.data.collections.item import CollectionError, Content, Item, Refused, image_item, text_item
from align_jax.data.collections.metadata import require_columns
from align_jax.data.collections.names import NameHashes, name_problem, shown
from align_jax.data.collections.parquet_footer import ChunkSize, FooterError, read_footer, wanted_sizes
from align_jax.data.collections.stamps import stamp_of

IMAGE_COLUMNS = ("jpg", "image", "png", "webp", "jpeg")
TEXT_COLUMNS = ("txt", "text", "caption")
ID_COLUMNS = ("key",)
MAX_UNPACKED_BYTES = 2**30
"""Row groups that claim to unpack to more, and to more than `_MAX_RATIO` times what is stored, are refused."""

_MAX_RATIO = 200
_MAX_ROWS_PER_BYTE = 1000
_BATCH_ROWS = 64


class DamagedParquetError(CollectionError):
    """The file cannot be opened as Parquet."""


class _Index(NamedTuple):
    """Digest and number of the rows, and the positions of those that have the id of an earlier one."""

    contents: Contents
    repeated: frozenset[int]


class ParquetFile:
    """The rows of one Parquet file.

    Args:
        path: of the file.
        name: within the collection.
        prefix: of every id.
        content: what the items are.
        column: which holds the encoded images, as bytes or as a struct with the field `bytes`, or the texts; one of
            the usual names where `None`.
        id_column: which holds the ids; "key" where that is there, and else row numbers from 0.
        columns: carried along; all where `None`.

    Attributes:
        column, id_column: those that are read.
        column_types: of the carried columns, in Arrow.

    Raises:
        CollectionError: if a column is not there, or of a type that cannot be used.
        DamagedParquetError: if the file cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        prefix: str,
        content: Content,
        *,
        column: str | None,
        id_column: str | None,
        columns: Sequence[str] | None,
    ):
        self.path, self.name, self._prefix, self._content = path, name, prefix, content
        self._arrow, self._files = parquet(f"reading {path}")
        with self._open() as file:
            schema = file.schema_arrow
        self.column = column or usual_column(schema.names, IMAGE_COLUMNS if content == "image" else TEXT_COLUMNS)
        if self.column is None:
            flag = "--image-column" if content == "image" else "--text-column"
            raise CollectionError(f"{path} has no {content} in columns {', '.join(schema.names)}; name one with {flag}")
        self.id_column = id_column or usual_column(schema.names, ID_COLUMNS)
        self._columns = tuple(schema.names if columns is None else columns)
        wanted = [self.column, *([self.id_column] if self.id_column else []), *self._columns]
        require_columns(wanted, schema.names, str(path))
        self._require_types(schema)
        self._sizes: list[list[ChunkSize]] | None = None
        self.column_types: Mapping[str, Any] = {name: schema.field(name).type for name in self._columns}

    def stamp(self) -> str:
        return stamp_of(self.path)

    def look_through(self) -> Contents:
        return self._index.contents

    def read(self, start: int) -> Iterator[Item | Refused]:
        first = 0
        with self._open() as file:
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if start < first + rows:
                    yield from self._read_group(file, group, first, rows, max(0, start - first))
                first += rows

    def _read_group(self, file: Any, group: int, first: int, rows: int, skip: int) -> Iterator[Item | Refused]:
        """The entries of a row group of which so many rows are skipped; what cannot be read is refused row by row."""
        position, problem = first, self._bomb(file, group)
        try:
            for row in self._rows(file, group) if problem is None else ():
                if position >= first + skip:
                    yield self._entry(row, position)
                position += 1
                if position == first + rows:
                    return
        except (self._arrow.ArrowException, OSError) as error:
            problem = f"the row group cannot be read: {error}"
        for missing in range(max(position, first + skip), first + rows):
            yield Refused(f"{self._prefix}{missing}", problem or "the row group has fewer rows than it says")

    def _rows(self, file: Any, group: int) -> Iterator[dict[str, Any]]:
        """Values by column, in Arrow."""
        names = [*filter(None, (self.id_column,)), *self._columns]
        leaves = [*names, self._leaf]
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=leaves):
            content = batch.column(self.column)
            if self._leaf != self.column:
                content = content.field("bytes") if content.null_count == 0 else content.flatten()[0]
            if self._content == "text":  # as bytes, which need not be UTF-8
                content = content.cast(self._arrow.large_binary())
            for row in range(len(batch)):
                yield {name: batch.column(name)[row] for name in names} | {"": content[row]}

    def _entry(self, row: dict[str, Any], position: int) -> Item | Refused:
        name = f"{self._prefix}{position}"
        try:
            if self.id_column:
                given = row[self.id_column].as_py()
                if problem := name_problem("" if given is None else str(given)):
                    return Refused(f"{self._prefix}{shown(str(given))}", problem)
                name = f"{self._prefix}{given}"
            if position in self._index.repeated:
                return Refused(name, "an earlier row has the same id")
            columns = {column: row[column].as_py() for column in self._columns}
        except (UnicodeDecodeError, ValueError, OverflowError) as error:
            return Refused(name, f"a value of the row cannot be read: {error}")
        content = row[""].as_py()
        if content is None:
            return Refused(name, f"the row has no {self._content}")
        return (image_item if self._content == "image" else text_item)(name, content, columns)

    @cached_property
    def _index(self) -> _Index:
        with self._open() as file:
            metadata = file.metadata
            size = self.path.stat().st_size
            if metadata.num_rows > _MAX_ROWS_PER_BYTE * size:
                raise DamagedParquetError(f"{self.path} claims {metadata.num_rows} rows in {size} bytes")
            rows = sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
            ids = NameHashes()
            for name in self._ids(file) if self.id_column else ():
                ids.add(name)
            repeated = ids.repeated(lambda: self._ids(file))
        return _Index(Contents(rows, hashlib.sha256(read_footer(self.path)).hexdigest()), repeated)

    def _ids(self, file: Any) -> Iterator[str | None]:
        """The id of every row; none for those of row groups that cannot be read."""
        for group in range(file.metadata.num_row_groups):
            rows, found = file.metadata.row_group(group).num_rows, 0
            try:
                for batch in file.iter_batches(8192, row_groups=[group], columns=[self.id_column]):
                    for value in batch.column(0).cast(self._arrow.string()).to_pylist()[: rows - found]:
                        yield value
                        found += 1
            except (self._arrow.ArrowException, OSError, UnicodeDecodeError):
                pass
            yield from [None] * (rows - found)

    def _bomb(self, file: Any, group: int) -> str | None:
        """Why a row group must not be unpacked."""
        try:
            if self._sizes is None:
                self._sizes = wanted_sizes(self.path, file, {self.column, self.id_column, *self._columns})
        except FooterError as error:
            return str(error)
        packed = sum(size.packed for size in self._sizes[group])
        unpacked = sum(size.unpacked for size in self._sizes[group])
        if unpacked > MAX_UNPACKED_BYTES and unpacked > _MAX_RATIO * packed:
            return f"the row group unpacks from {packed} to {unpacked} bytes, as no images and texts do"
        return None

    def _require_types(self, schema: Any) -> None:
        types, column = self._arrow.types, schema.field(self.column).type
        self._leaf = self.column
        binary = (types.is_binary, types.is_large_binary, types.is_binary_view)
        strings = (types.is_string, types.is_large_string, types.is_string_view)
        if self._content == "image" and types.is_struct(column) and column.get_field_index("bytes") >= 0:
            column, self._leaf = column.field("bytes").type, f"{self.column}.bytes"
        usable = binary if self._content == "image" else strings
        if not any(is_usable(column) for is_usable in usable):
            wanted = "binary" if self._content == "image" else "string"
            raise CollectionError(f"{self.path}: column {self.column} is of type {column}, not {wanted}; name another")
        simple = (*strings, types.is_integer, types.is_floating, types.is_boolean)
        for name in filter(None, (self.id_column, *self._columns)):
            value = schema.field(name).type
            is_list = types.is_list(value) or types.is_large_list(value)
            element = value.value_type if is_list and name != self.id_column else value
            if not any(is_simple(element) for is_simple in simple):
                raise CollectionError(f"{self.path}: column {name} is of type {value}, which cannot be carried along")

    def _open(self) -> Any:
        try:
            return self._files.ParquetFile(self.path, pre_buffer=False, buffer_size=2**20)
        except (self._arrow.ArrowException, OSError, UnicodeDecodeError) as error:
            if isinstance(error, FileNotFoundError | PermissionError):
                raise
            raise DamagedParquetError(f"{self.path} is not a whole Parquet file: {error}") from error


def usual_column(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """The first of the usual names that is there."""
    return next((name for name in usual if name in names), None)
