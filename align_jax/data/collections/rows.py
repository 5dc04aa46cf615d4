"""Entries that stand in a text file: texts and image paths, one a line, or in a column of a CSV or TSV file."""

import csv
import hashlib
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

from align_jax.data.collections.collection import Contents
from align_jax.data.collections.item import MAX_TEXT_BYTES, CollectionError, Content, Item, Refused, text_item
from align_jax.data.collections.lines import lines, require_text
from align_jax.data.collections.metadata import TEXT_COLUMN, require_columns
from align_jax.data.collections.names import NameHashes, name_problem, normal, shown
from align_jax.data.collections.single_files import file_item
from align_jax.data.collections.stamps import stamp_of

_STRIDE = 4096
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


class Row(NamedTuple):
    """A row of a text file.

    Attributes:
        offset: where it begins.
        cells: its fields, of which bytes that are not UTF-8 are escaped (`surrogateescape`).
    """

    offset: int
    cells: list[str]


class _Index(NamedTuple):
    """Digest and number of the rows, where every `_STRIDE`th begins, and which have the id of an earlier one."""

    contents: Contents
    offsets: Sequence[int]
    repeated: frozenset[int]


class RowFile:
    """The rows of a text file.

    Args:
        path: of the file.
        name: within the collection.
        prefix: of every id; "" where there is one file only.
        content: what a row names or holds.
        root: the folder that image paths are relative to.
        column: which holds the text or the path; `None` in a file of lines without columns.
        id_column: which holds the id; without it, ids are row numbers from 0, or the image paths.
        columns: carried along.

    Attributes:
        path, name, root: as above.
        header: the names of the columns.
        column, id_column: as above, but `None` in a file of lines.

    Raises:
        CollectionError: if the file is not of this form, or lacks a column.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        prefix: str,
        content: Content,
        root: Path,
        *,
        column: str | None,
        id_column: str | None,
        columns: Sequence[str],
    ):
        self.path, self.name = path, name
        self.root, self._prefix, self._content = root, prefix, content
        self._columns = tuple(columns)
        require_text(path)
        self._delimiter = _DELIMITERS.get(path.suffix.lower())
        self.header = [TEXT_COLUMN] if self._delimiter is None else csv_header(path)
        self.column, self.id_column = (None, None) if self._delimiter is None else (column, id_column)
        if self._delimiter is None:
            column, id_column = TEXT_COLUMN, None
        elif column is None:
            flag = "--image-column" if content == "image" else "--text-column"
            raise CollectionError(f"{path} has columns {', '.join(self.header)}; name the one to read with {flag}")
        beside = content == "image" and self._delimiter is None
        wanted = [column, *([id_column] if id_column else [])]
        require_columns([*wanted, *(() if beside else columns)], self.header, str(path))
        self._beside = self._columns if beside else ()
        self._at = self.header.index(column)
        self._id_at = self.header.index(id_column) if id_column else None
        self._carried = {name: self.header.index(name) for name in columns} if not beside else {}

    def stamp(self) -> str:
        return stamp_of(self.path)

    def look_through(self) -> Contents:
        return self._index.contents

    def read(self, start: int) -> Iterator[Item | Refused]:
        index = self._index
        if start >= index.contents.entries:
            return
        first = start - start % _STRIDE
        with self.path.open("rb") as file:
            for position, row in enumerate(self._rows(file, index.offsets[first // _STRIDE]), first):
                if position >= start:
                    yield self._entry(row, position, position in index.repeated)

    @cached_property
    def _index(self) -> _Index:
        digest, offsets, ids, count = hashlib.sha256(repr(self.header).encode()), array("q"), NameHashes(), 0
        named = self._id_at is not None or self._content == "image"
        with self.path.open("rb") as file:
            for row in self._rows(file, None):
                if count % _STRIDE == 0:
                    offsets.append(row.offset)
                if named:
                    ids.add(self._named(row))
                digest.update(repr(row.cells).encode("utf-8", "surrogateescape"))
                count += 1

        def again() -> Iterator[str | None]:
            with self.path.open("rb") as file:
                yield from map(self._named, self._rows(file, None))

        return _Index(Contents(count, digest.hexdigest()), offsets, ids.repeated(again))

    def _named(self, row: Row) -> str | None:
        """The id that a row gives itself."""
        if self._id_at is not None:
            return row.cells[self._id_at] if self._id_at < len(row.cells) else None
        return self._path_in(row) if self._content == "image" else None

    def _path_in(self, row: Row) -> str | None:
        """The path in a row, relative to the root where it lies in it."""
        if self._at >= len(row.cells):
            return None
        path = row.cells[self._at].strip()
        root = self.root.absolute().as_posix().rstrip("/")
        return normal(path.removeprefix(f"{root}/"))

    def _entry(self, row: Row, position: int, repeated: bool) -> Item | Refused:
        given = self._named(row)
        name = f"{self._prefix}{position if given is None else given}"
        if problem := self._problem(row, given, repeated):
            return Refused(shown(name), problem)
        columns = {column: row.cells[at] for column, at in self._carried.items()}
        if broken := [column for column, value in columns.items() if _not_unicode(value)]:
            return Refused(name, f"column {broken[0]} is not UTF-8")
        if self._content == "text":
            return text_item(name, row.cells[self._at].encode("utf-8", "surrogateescape"), columns)
        path = self._path_in(row) or ""
        if problem := name_problem(path):
            hint = "; paths are relative to the folder of the list, or to --root" if "UTF-8" not in problem else ""
            return Refused(shown(name), f"{problem}{hint}")
        item = file_item(self.root, path, self._content, self._beside)
        return (
            item._replace(id=name, columns=columns or item.columns)
            if isinstance(item, Item)
            else item._replace(id=name)
        )

    def _problem(self, row: Row, given: str | None, repeated: bool) -> str | None:
        if repeated:
            return "an earlier row has the same id"
        if len(row.cells) != len(self.header):
            return f"the row has {len(row.cells)} fields instead of {len(self.header)}"
        if self._id_at is None:
            return None
        return name_problem(given or "")

    def _rows(self, file: BinaryIO, offset: int | None) -> Iterator[Row]:
        """The rows from an offset, or those behind the header where it is `None`."""
        if self._delimiter is None:
            for line in lines(file, offset or 0):
                cell = line.content.decode("utf-8", "surrogateescape")
                if self._content == "text" or cell.strip():  # a blank line names no image
                    yield Row(line.offset, [cell])
            return
        rows = _csv_rows(file, offset or 0, self._delimiter, self.path)
        if offset is None:
            next(rows, None)
        yield from rows


def csv_header(path: Path) -> list[str]:
    """The names of the columns of a CSV or TSV file.

    Raises:
        CollectionError: if there are none, or two are the same.
    """
    require_text(path)
    with path.open("rb") as file:
        header = next(_csv_rows(file, 0, _DELIMITERS[path.suffix.lower()], path), None)
    if header is None:
        raise CollectionError(f"{path} is empty; its first row must name the columns")
    names = [shown(name) for name in header.cells]
    if len(set(names)) < len(names):
        raise CollectionError(f"{path} has two columns of one name in {', '.join(names)}; rename one")
    return names


def _csv_rows(file: BinaryIO, offset: int, delimiter: str, path: Path) -> Iterator[Row]:
    """The rows of a CSV file, in which fields in quotes may contain line ends; blank lines are none."""
    csv.field_size_limit(max(csv.field_size_limit(), MAX_TEXT_BYTES + 1))
    end, limit = offset, 16 * MAX_TEXT_BYTES

    def texts() -> Iterator[str]:
        nonlocal end
        for line in lines(file, offset, limit):
            if len(line.content) > limit:
                raise CollectionError(
                    f"{path} has a line of more than {limit} bytes at byte {line.offset}; is it text?"
                )
            end = line.end
            yield line.content.decode("utf-8", "surrogateescape") + "\n"

    reader = csv.reader(texts(), delimiter=delimiter, strict=True)
    start = offset
    try:
        for cells in reader:  # takes the lines of one row, and not the next
            if cells:
                yield Row(start, cells)
            start = end
    except csv.Error as error:
        raise CollectionError(
            f"{path} is not CSV: {error} in the row at byte {start}; is a quote not closed?"
        ) from error


def _not_unicode(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)
