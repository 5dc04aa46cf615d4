"""Encoded images and what is known of them, read by number from a TFDS data set in ArrayRecord files.

`PairDataset` names a prepared data set of images with captions; `.open()` gives a `RecordSource`, a sequence of
`PairRecord` that reads each record when it is asked for, so its size in memory does not depend on their number. The
features read are `image` (encoded bytes), `text`, and where they are there `aliases` (more captions of the same image)
and `key`. Images with labels are in `labelled.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, SupportsIndex, TypeVar, runtime_checkable

import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from tensorflow_datasets.proto import tf_example_pb2

Example = getattr(tf_example_pb2, "Example")  # noqa: B009 (made at run time, where type checkers cannot see it)


class DatasetNotPreparedError(FileNotFoundError):
    """There is no data set where one was named; the message says which command prepares it."""


PAIRS_COMMAND = "align-jax data folder --input DIR_OR_LIST --name {name} --data-dir {data_dir}"
_COMMANDS = {
    "openmoji": "align-jax data openmoji --data-dir {data_dir}",
    "openmoji_groups": "align-jax data openmoji-groups --data-dir {data_dir}",
    "coyo700m": "align-jax data img2dataset --input DIR --source coyo700m --data-dir {data_dir}",
    "coyo_labeled300m": "align-jax data img2dataset --input DIR --source coyo-labeled300m --data-dir {data_dir}",
    "imagenet2012": "tfds build imagenet2012 --file_format array_record --data_dir {data_dir}",
}
"""What prepares the data sets that recipes name."""


class DatasetError(ValueError):
    """A data set is there, but cannot be used."""


class RecordError(ValueError):
    """One record of a data set cannot be read as an image with what belongs to it."""


@runtime_checkable
class Record(Protocol):
    """What every record has."""

    @property
    def key(self) -> str:
        """Names the record within its data set."""
        ...

    @property
    def image(self) -> bytes:
        """The image file as it was found."""
        ...


@runtime_checkable
class RecordSequence(Protocol):
    """What loaders read from: records by number. `RecordSource` is one, and so is a list of records."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record: ...


@dataclass(frozen=True)
class PairRecord:
    """An encoded image with its captions.

    Attributes:
      key: names the record within its data set.
      image: the image file as it was found.
      texts: one or more captions, the main one first.
    """

    key: str
    image: bytes
    texts: tuple[str, ...]


@runtime_checkable
class PairSequence(Protocol):
    """A `RecordSequence` of pairs."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> PairRecord: ...


@dataclass(frozen=True)
class PairDataset:
    """A prepared data set of pairs, by name.

    Attributes:
      name: the data set's name, with its configuration ("openmoji/px72") where several are prepared, and with its
        version ("openmoji/px72/1.0.0") where it is not to be the newest.
      split: "train", or several joined, as in "train+compositional"; the split syntax of TFDS ("train[:1000]") works.
      data_dir: the folder that all data sets lie in.
    """

    name: str
    split: str
    data_dir: str

    @property
    def description(self) -> str:
        """What the order of examples follows from, besides the number of records."""
        return f"{self.name}, {self.split}"

    def open(self) -> "RecordSource[PairRecord]":
        """A random-access source of the split's records.

        Raises:
          DatasetNotPreparedError: no such data set under `data_dir`.
          DatasetError: no such split, no records, or records of another kind.
        """
        opened = open_split(self.name, self.split, self.data_dir)
        missing = {"image", "text"} - opened.features
        if missing:
            raise DatasetError(
                f"{opened.name} has no feature {' and no '.join(sorted(missing))}; pairs need image and text"
            )
        return RecordSource(opened.serialized, opened.files, parse_record)


class OpenSplit(NamedTuple):
    """A split of a prepared data set, whose records are still serialized."""

    name: str  # for errors
    info: tfds.core.DatasetInfo
    serialized: ArrayRecordDataSource
    files: Sequence[Any]

    @property
    def features(self) -> set[str]:
        """Their names."""
        return set(self.info.features or ())


def open_split(name: str, split: str, data_dir: str, command: str = PAIRS_COMMAND) -> OpenSplit:
    """Opens a prepared data set, of whatever records.

    Args:
      name: of the data set.
      split: of it.
      data_dir: the folder that all data sets lie in.
      command: what prepares a data set whose name says nothing.

    Raises:
      DatasetNotPreparedError: no such data set under `data_dir`.
      DatasetError: no such split, no records, or files that cannot be read in any order.
    """
    info = tfds.builder_from_directory(newest_version(Path(data_dir), name, command)).info
    where = f"data set {name!r} in {data_dir}"
    if info.file_format is None or info.file_format.value != "array_record":
        raise DatasetError(
            f"{where} is stored as {info.file_format and info.file_format.value}; prepare it with "
            "file_format='array_record', which can be read in any order"
        )
    try:
        instructions = info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise DatasetError(f"{where} has no split {split!r}; it has {', '.join(sorted(info.splits))}") from error
    if not instructions:
        raise DatasetError(f"split {split!r} of {where} is empty; prepare it again, or name another split")
    return OpenSplit(where, info, ArrayRecordDataSource(instructions), instructions)


AnyRecord = TypeVar("AnyRecord", bound=Record)


class RecordSource(Sequence[AnyRecord], Generic[AnyRecord]):
    """Records of one or more splits by number; opens its files when first read, and again after pickling."""

    def __init__(
        self, serialized: ArrayRecordDataSource, files: Sequence[Any], parse: Callable[[bytes, int], AnyRecord]
    ) -> None:
        self._serialized, self._files, self._parse = serialized, files, parse

    def __len__(self) -> int:
        return len(self._serialized)

    def __getitem__(self, index: SupportsIndex) -> AnyRecord:  # pyrefly: ignore[bad-override]
        """The record at `index`.

        Raises:
          IndexError: there is no such record.
          RecordError: it is damaged, or lacks what it needs.
        """
        position = index.__index__()
        if not 0 <= position < len(self):
            raise IndexError(f"record {position} of {len(self)}")
        try:
            return self._parse(self._serialized[position], position)
        except RecordError:
            raise
        except Exception as error:  # ArrayRecord's checksum errors are RuntimeError, protobuf's DecodeError
            raise RecordError(f"record {position} cannot be read: {error}") from error

    def place(self, index: int) -> str:
        """Which file the record at `index` lies in, and where in it."""
        first = 0
        for file in self._files:
            if index < first + file.take:
                return f"record {index - first + file.skip} of {file.filename}"
            first += file.take
        return f"record {index}"


def parse_record(serialized: bytes, position: int) -> PairRecord:
    """Reads one `tf.train.Example`; `position` stands in for the key where the record has none."""
    features = Example.FromString(serialized).features.feature
    images = features["image"].bytes_list.value
    texts = [*features["text"].bytes_list.value, *features["aliases"].bytes_list.value]
    if not images or not texts:
        raise RecordError(f"record {position} has no {'caption' if images else 'image'}")
    return PairRecord(
        key=key_of(features, position),
        image=images[0],
        texts=tuple(text.decode("utf-8", "replace") for text in texts),
    )


def key_of(features: Any, position: int) -> str:
    """The key of a record's features, or its number where it has none."""
    keys = features["key"].bytes_list.value
    return keys[0].decode("utf-8", "replace") if keys else str(position)


def newest_version(data_dir: Path, name: str, command: str = PAIRS_COMMAND) -> Path:
    """The folder `data_dir/name[/config]/version` with the highest version, if `name` does not say which.

    Raises:
      DatasetNotPreparedError: it is not there; names what prepares it, which is `command` if its name says nothing.
      DatasetError: it is there in several forms.
    """
    if (data_dir / name / "dataset_info.json").is_file():
        return data_dir / name
    found = sorted(data_dir.joinpath(name).glob("*.*.*/dataset_info.json"), key=_version) or sorted(
        data_dir.joinpath(name).glob("*/*.*.*/dataset_info.json"), key=_version
    )
    configurations = sorted({path.parent.parent for path in found})
    if len(configurations) > 1:
        names = ", ".join(f"{name}/{path.name}" for path in configurations)
        raise DatasetError(f"data set {name!r} in {data_dir} is prepared in several forms; name one of {names}")
    if not found:
        known = name.split("/")[0]
        command = _COMMANDS.get(known, command).format(name=known, data_dir=data_dir)
        raise DatasetNotPreparedError(f"no data set {name!r} in {data_dir}; prepare it with `{command}`")
    return found[-1].parent


def _version(info_file: Path) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in info_file.parent.name.split("."))
