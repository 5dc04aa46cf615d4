"""Images and texts in files of their own: in a folder of any depth, or named in a list."""

import errno
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from align_jax.data.captions import IMAGE_SUFFIXES
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
from align_jax.data.collections.metadata import MetadataError, carried_values
from align_jax.data.collections.names import name_problem, shown

TEXT_SUFFIXES = frozenset({".txt"})
_NAME_ERRORS = (errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO)


class Folder:
    """The images, or the texts, of a folder and the folders in it, in the order of their names.

    The names of one folder are in memory at a time. Files with other suffixes are no entries. Links to files are
    followed, links to folders are not.

    Args:
        path: of the folder.
        content: whether its images are the items, or its `.txt` files.
        columns: keys of the `.json` file beside an item, or "txt" for the `.txt` file beside an image.
    """

    name = ""

    def __init__(self, path: Path, content: Content, columns: Sequence[str]):
        self.path, self._content, self._columns = path, content, tuple(columns)
        self._suffixes = IMAGE_SUFFIXES if content == "image" else TEXT_SUFFIXES

    def stamp(self) -> str:
        return ""

    def look_through(self) -> Contents:
        digest, entries = hashlib.sha256(), 0
        for name, problem in self._names():
            entries += 1
            try:
                size = -1 if problem else (self.path / name).stat().st_size
            except OSError:  # a link that leads nowhere; why, its entry says
                size = -1
            digest.update(f"{size} {name}\0".encode("utf-8", "surrogateescape"))
        return Contents(entries, digest.hexdigest())

    def read(self, start: int) -> Iterator[Item | Refused]:
        for name, problem in islice(self._names(), start, None):
            yield Refused(shown(name), problem) if problem else file_item(self.path, name, self._content, self._columns)

    def _names(self) -> Iterator[tuple[str, str | None]]:
        """Relative paths in order, and what is wrong with them."""
        waiting = [iter(_entries(self.path, ""))]
        while waiting:
            entry = next(waiting[-1], None)
            if entry is None:
                waiting.pop()
                continue
            name, is_folder, is_link = entry
            if is_folder and not is_link:
                waiting.append(iter(_entries(self.path, f"{name}/")))
            elif is_folder:
                yield name, "a folder that is reached through a link is not read; give it as an input of its own"
            elif os.path.splitext(name)[1].lower() in self._suffixes:  # noqa: PTH122 (a million times)
                yield name, name_problem(name)


class NamedFiles:
    """Files that are named one by one, in the order in which they are; the id is the name without its folder.

    Args:
        paths: of the files.
        content: what they hold.
        columns: as for `Folder`.

    Raises:
        CollectionError: if two have the same name.
    """

    name = ""

    def __init__(self, paths: Sequence[Path], content: Content, columns: Sequence[str]):
        self._paths, self._content, self._columns = list(paths), content, tuple(columns)
        names = Counter(path.name for path in self._paths)
        if twice := [name for name, count in names.items() if count > 1]:
            raise CollectionError(f"{twice[0]} is named twice; give the folder that the files lie in, or a list")

    def stamp(self) -> str:
        return ""

    def look_through(self) -> Contents:
        described = repr([(path.name, path.stat().st_size) for path in self._paths])
        return Contents(len(self._paths), hashlib.sha256(described.encode("utf-8", "backslashreplace")).hexdigest())

    def read(self, start: int) -> Iterator[Item | Refused]:
        for path in self._paths[start:]:
            problem = name_problem(path.name)
            yield (
                Refused(shown(path.name), problem)
                if problem
                else file_item(path.parent, path.name, self._content, self._columns)
            )


class RefusedFile:
    """A file of a collection that cannot be read at all: one refusal."""

    def __init__(self, path: Path, name: str, reason: str):
        self.path, self.name, self._reason = path, name, reason

    def stamp(self) -> str:
        return ""

    def look_through(self) -> Contents:
        return Contents(1, f"unreadable, {self.path.stat().st_size} bytes")

    def read(self, start: int) -> Iterator[Item | Refused]:
        if start == 0:
            yield Refused(self.name, self._reason)


def file_item(root: Path, name: str, content: Content, columns: Sequence[str]) -> Item | Refused:
    """The item in one file.

    Args:
        root: the folder that the name is relative to.
        name: of the file; must be safe.
        content: what the file holds.
        columns: values that lie in files beside it.
    """
    path = root / name
    limit = MAX_IMAGE_BYTES if content == "image" else MAX_TEXT_BYTES
    try:
        read = _whole(path, limit)
        beside = {
            suffix: _whole(path.with_suffix(suffix), MAX_TEXT_BYTES, absent=b"") if columns else b""
            for suffix in (".json", ".txt")
        }
        values = carried_values(columns, beside[".json"] or None, beside[".txt"] or None)
    except (_UnusableError, MetadataError) as error:
        return Refused(name, str(error))
    return image_item(name, read, values) if content == "image" else text_item(name, read, values)


class _UnusableError(ValueError):
    """The file is not one whose bytes can be taken into memory."""


def _whole(path: Path, limit_bytes: int, absent: bytes | None = None) -> bytes:
    """A plain file's bytes; `absent` where there is no such file.

    Raises:
        OSError: if the disk fails: what one bad moment took away must not be refused for good.
    """
    try:
        # A pipe would be waited for without O_NONBLOCK.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        if absent is not None:
            return absent
        raise _UnusableError("the file does not exist") from None
    except OSError as error:
        if isinstance(error, PermissionError | NotADirectoryError | IsADirectoryError) or error.errno in _NAME_ERRORS:
            raise _UnusableError(f"the file cannot be opened: {error.strerror}") from error
        raise
    with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _UnusableError("it is not a plain file")
        if status.st_size > limit_bytes:
            raise _UnusableError(
                too_large(status.st_size) if limit_bytes == MAX_IMAGE_BYTES
                else f"{path.suffix} has {status.st_size} bytes, more than the limit of {limit_bytes}"
            )  # fmt: skip
        return file.read(limit_bytes + 1)


def _entries(root: Path, folder: str) -> list[tuple[str, bool, bool]]:
    """What a folder holds, in the order of the bytes of the names: relative path, whether a folder, whether a link."""
    with os.scandir(root / folder) as found:
        entries = [(f"{folder}{entry.name}", _is_folder(entry), entry.is_symlink()) for entry in found]
    return sorted(entries, key=lambda entry: os.fsencode(entry[0]))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False
