"""A collection: files of one kind, one after the other, whose entries have positions from 0."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from align_jax.data.collections.item import CollectionError, Item, Refused

_THREADS = 8


@dataclass(frozen=True)
class Contents:
    """What one look through a file finds out.

    Attributes:
        entries: items and refusals in it.
        digest: of what the entries are, as far as one can tell without reading them: of tars the headers, of Parquet
            the footer, of text files the rows (not the images that they name), of everything else names and sizes. A
            file that was rewritten to the same size is not noticed. Nor do place and time matter: a copy is the same.
    """

    entries: int
    digest: str


@dataclass(frozen=True)
class FileRecord:
    """A file of a collection as it was when it was looked through.

    Attributes:
        name: within the collection.
        stamp: changes whenever somebody writes the file; while it stays, the file need not be looked through again.
        contents: what was found.
    """

    name: str
    stamp: str
    contents: Contents


@runtime_checkable
class CollectionFile(Protocol):
    """One file, or one folder, of a collection.

    Attributes:
        name: within the collection.
    """

    @property
    def name(self) -> str: ...

    def stamp(self) -> str:
        """Size and time of change, or what else is cheap to have and changes with the file; "" where nothing is."""
        ...

    def look_through(self) -> Contents:
        """Counts the entries, and digests what names them."""
        ...

    def read(self, start: int) -> Iterator[Item | Refused]:
        """The entries from position `start` of this file."""
        ...


class Collection:
    """Entries of several files by position.

    Args:
        form: of the files, such as "tar".
        files: in the order of their names.
        column_types: of the carried columns, in Arrow; `None` for strings.
        options: what was chosen of the fields of `Options` that the form has, with the usual names found out.
        known: what is known of the files from before, by name; what has not been written since is not looked through.

    Attributes:
        form: of the files.
        column_types: of the carried columns.
        options: as above; opens the same again.
    """

    def __init__(
        self,
        form: str,
        files: Sequence[CollectionFile],
        column_types: Mapping[str, Any],
        options: Mapping[str, str | None],
        known: Mapping[str, FileRecord] | None = None,
    ):
        self.form, self.column_types, self.options = form, dict(column_types), dict(options)
        self._files, self._known = list(files), dict(known or {})

    @cached_property
    def records(self) -> list[FileRecord]:
        """The files, looked through; takes as long as reading names takes, and nothing the second time."""
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="collection") as threads:
            return list(threads.map(self._record, self._files))

    @property
    def size(self) -> int:
        """How many entries there are."""
        return sum(record.contents.entries for record in self.records)

    @property
    def digest(self) -> str:
        """Of names and contents of all files, as far as `Contents.digest` has them, and of how they are read."""
        described = [[record.name, record.contents.entries, record.contents.digest] for record in self.records]
        return hashlib.sha256(json.dumps([self.form, self.options, described], sort_keys=True).encode()).hexdigest()

    def read(self, start: int = 0) -> Iterator[Item | Refused]:
        """The entries from position `start`, in order; what lies before is skipped and not read."""
        for file, record in zip(self._files, self.records, strict=True):
            entries = record.contents.entries
            if start < entries:
                read = 0
                for entry in file.read(start):
                    read += 1
                    yield entry
                if read != entries - start:
                    raise CollectionError(f"{file.name or 'the input'} has changed while it was read; start again")
            start = max(0, start - record.contents.entries)

    def _record(self, file: CollectionFile) -> FileRecord:
        stamp, known = file.stamp(), self._known.get(file.name)
        if known is not None and stamp and known.stamp == stamp:
            return known
        return FileRecord(file.name, stamp, file.look_through())
