"""Records of a prepared data set (TFDS in ArrayRecord files), with or without captions."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

from align_jax.data.collections.collection import Contents
from align_jax.data.collections.item import CollectionError, Content, Item, Refused, image_item, text_item
from align_jax.data.collections.metadata import require_columns
from align_jax.data.collections.names import name_problem, shown
from align_jax.data.records import Example, newest_version

INFO_FILE = "dataset_info.json"
_FEATURES = {"image": "image", "text": "text"}
_KEY = "key"


class ArrayRecords:
    """The records of one or more splits; its name in the collection is "".

    Args:
        folder: of a data set: the one with `dataset_info.json`, or one above it with a single data set in it.
        content: the image, or the main caption.
        split: such as "train", or several joined by "+"; all of them where `None`.
        feature: which holds the item, where it is not `image` or `text`.
        columns: features that are carried along; of several values, the first.

    Attributes:
        feature, split: those that are read.

    Raises:
        CollectionError: if there is no such data set, split or feature.
    """

    name = ""

    def __init__(self, folder: Path, content: Content, split: str | None, feature: str | None, columns: Sequence[str]):
        self.folder, self._content = folder, content
        info = tfds.builder_from_directory(data_set_folder(folder)).info
        if info.file_format is None or info.file_format.value != "array_record":
            raise CollectionError(
                f"{folder} is stored as {info.file_format and info.file_format.value}, not array_record"
            )
        self.feature, self._columns = feature or _FEATURES[content], tuple(columns)
        require_columns([self.feature, *columns], list(info.features or ()), str(folder))
        self.split = split or "+".join(sorted(info.splits))
        try:
            instructions = info.splits[self.split].file_instructions
        except (KeyError, ValueError) as error:
            known = ", ".join(sorted(info.splits))
            raise CollectionError(f"{folder} has no split {self.split!r}; it has {known}") from error
        if not instructions:
            raise CollectionError(f"split {self.split!r} of {folder} is empty; name another with --split")
        self._source = ArrayRecordDataSource(instructions)
        self._description = [
            (Path(one.filename).name, Path(one.filename).stat().st_size, one.skip, one.take) for one in instructions
        ]

    def stamp(self) -> str:
        return ""

    def look_through(self) -> Contents:
        return self._contents

    @cached_property
    def _contents(self) -> Contents:
        return Contents(len(self._source), hashlib.sha256(repr(self._description).encode()).hexdigest())

    def read(self, start: int) -> Iterator[Item | Refused]:
        for position in range(start, len(self._source)):
            yield self._entry(position)

    def _entry(self, position: int) -> Item | Refused:
        try:
            features = Example.FromString(self._source[position]).features.feature
        except Exception as error:  # ArrayRecord's checksum errors are RuntimeError, protobuf's DecodeError
            return Refused(str(position), f"the record cannot be read: {error}")
        key = _first(features[_KEY])
        name = str(position) if key is None else _text(key)
        if problem := name_problem(name):
            return Refused(shown(name), problem)
        content = _first(features[self.feature])
        if not isinstance(content, bytes):
            return Refused(name, f"the record has no {self.feature}")
        values = {column: _first(features[column]) for column in self._columns}
        columns = {column: None if value is None else _text(value) for column, value in values.items()}
        return (image_item if self._content == "image" else text_item)(name, content, columns)


def data_set_folder(folder: Path) -> Path:
    """The folder with `dataset_info.json` at or below `folder`, of the newest version.

    Raises:
        CollectionError: if there is none, or there are several data sets.
    """
    if (folder / INFO_FILE).is_file():
        return folder
    found = {path.parent.parent for depth in ("*", "*/*", "*/*/*") for path in folder.glob(f"{depth}/{INFO_FILE}")}
    if len(found) != 1:
        names = ", ".join(str(path) for path in sorted(found))
        raise CollectionError(
            f"{folder} holds {'several data sets' if found else 'no data set'}; name one{': ' if names else ''}{names}"
        )
    (data_set,) = found
    return newest_version(data_set.parent, data_set.name)


def is_data_set(folder: Path, *, deepest: int = 3) -> bool:
    """Whether a folder is a prepared data set or holds some, at most so many folders below."""
    return any(next(folder.glob("*/" * depth + INFO_FILE), None) for depth in range(deepest + 1))


def _first(feature: Any) -> bytes | int | float | None:
    kind = feature.WhichOneof("kind")
    values = getattr(feature, kind).value if kind else ()
    return values[0] if values else None


def _text(value: bytes | float) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
