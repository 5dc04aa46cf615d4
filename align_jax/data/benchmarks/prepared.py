"""Images that TFDS has prepared: captioned as in `coco_captions`, labelled as in `imagenet2012`, or with such features.

    image                         the encoded image
    captions {text, id}           its captions; or text and aliases, as `align-jax data` stores them
    label, or labels              its class, a `ClassLabel`; labelled images are those that `data/labelled.py` reads

Files of captioned images are ArrayRecord or TFRecord; no TensorFlow is needed for either, and the checksums of both are
compared. Files of labelled images are ArrayRecord.
"""

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

from align_jax.data.benchmarks.images import BenchmarkError, ImageSet
from align_jax.data.collections.array_record import data_set_folder, is_data_set
from align_jax.data.crc32c import masked_crc32c
from align_jax.data.labelled import LabelledDataset
from align_jax.data.records import Example

_LENGTH_BYTES, _CHECKSUM_BYTES = 8, 4


class PreparedLabels(NamedTuple):
    """Images with a class each.

    Attributes:
        images: in the order of the data set.
        labels: numbers of their classes.
        names: of the classes, or their numbers; `None` where nothing says how many there are.
        split: which one it is.
    """

    images: ImageSet
    labels: list[int]
    names: tuple[str, ...] | None
    split: str


def is_prepared(folder: Path) -> bool:
    """Whether a folder is a prepared data set, or holds one."""
    return is_data_set(folder)


def read_prepared(folder: Path, split: str) -> tuple[ImageSet, tuple[tuple[str, ...], ...]]:
    """The images of a split and their captions.

    Args:
        folder: with `dataset_info.json`, or one above it with a single data set in it.
        split: such as "test".

    Raises:
        CollectionError: if there are several data sets.
        BenchmarkError: if it has no such split, no captions, or damaged records.
    """
    info = tfds.builder_from_directory(data_set_folder(folder)).info
    features = set(info.features or ())
    if "image" not in features or not features & {"captions", "text"}:
        raise BenchmarkError(f"{folder} has the features {', '.join(sorted(features))}; image and captions are needed")
    try:
        instructions = info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise BenchmarkError(f"{folder} has no split {split!r}; it has {', '.join(sorted(info.splits))}") from error
    if not instructions:
        raise BenchmarkError(f"split {split!r} of {folder} is empty; name another")
    records = _open(folder, info.file_format and info.file_format.value, instructions)

    def features_of(row: int) -> Any:
        try:
            return Example.FromString(records[row]).features.feature
        except Exception as error:  # ArrayRecord's checksum errors are RuntimeError, protobuf's DecodeError
            raise BenchmarkError(f"record {row} of {folder} cannot be read: {error}; prepare it again") from error

    ids, captions = [], []
    for row in range(len(records)):
        values = {name: list(feature.bytes_list.value) for name, feature in features_of(row).items()}
        texts = values.get("captions/text") or [*values.get("text", ()), *values.get("aliases", ())]
        if not values.get("image") or not texts:
            raise BenchmarkError(f"record {row} of {folder} has no {'caption' if values.get('image') else 'image'}")
        key = values.get("key")
        ids.append(key[0].decode("utf-8", "replace") if key else str(row))
        captions.append(tuple(text.decode("utf-8", "replace").strip() for text in texts))
    return ImageSet(tuple(ids), lambda row: features_of(row)["image"].bytes_list.value[0]), tuple(captions)


def read_prepared_labels(folder: Path, split: str | None) -> PreparedLabels:
    """The images of a split and the class of each.

    Args:
        folder: as that of `read_prepared`.
        split: such as "held_out"; where it is absent, "validation", or the only one besides "train".

    Raises:
        CollectionError: if there are several data sets.
        BenchmarkError: if the split is to be named, or an image has not exactly one class.
        DatasetError: if it has no such split, or not these features.
    """
    place = data_set_folder(folder)
    split = split or _evaluated_split(folder, sorted(tfds.builder_from_directory(place).info.splits))
    data_set = LabelledDataset(f"{place.parent.name}/{place.name}", split, str(place.parent.parent))
    source, names = data_set.open(), data_set.class_names()
    ids, labels = [], []
    for row in range(len(source)):
        record = source[row]
        if len(record.labels) != 1:
            raise BenchmarkError(
                f"{record.key} in {folder} has {len(record.labels)} classes, and images of one are evaluated here; "
                "a ClassificationEvaluation beside a training takes several"
            )
        ids.append(record.key)
        labels.append(record.labels[0])
    return PreparedLabels(ImageSet(tuple(ids), lambda row: source[row].image), labels, names, split)


def _evaluated_split(folder: Path, known: Sequence[str]) -> str:
    others = [name for name in known if name != "train"]
    if "validation" in others or len(others) == 1:
        return "validation" if "validation" in others else others[0]
    raise BenchmarkError(f"{folder} has the splits {', '.join(known)}; choose one with --split")


def _open(folder: Path, file_format: str | None, instructions: Sequence[Any]) -> Any:
    if file_format == "array_record":
        return ArrayRecordDataSource(instructions)
    if file_format == "tfrecord":
        return _TfRecords(instructions)
    raise BenchmarkError(f"{folder} is stored as {file_format}; prepare it as array_record or tfrecord")


class _TfRecords:
    """Records of TFRecord files by number; where each lies is found out from the lengths in front of them.

    A record is its length, the checksum of that, its bytes, and their checksum, which is compared at the first reading.
    """

    def __init__(self, instructions: Sequence[Any]):
        self._places: list[tuple[str, int, int]] = []
        self._compared: set[int] = set()
        for one in instructions:
            path = os.fspath(one.filename)
            places = _places(path)
            stop = one.skip + (len(places) - one.skip if one.take == -1 else one.take)
            if stop > len(places):
                raise BenchmarkError(f"{path} holds {len(places)} records, not {stop}; it is cut, so copy it again")
            self._places += [(path, *place) for place in places[one.skip : stop]]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, row: int) -> bytes:
        path, start, length = self._places[row]
        with Path(path).open("rb") as file:
            file.seek(start)
            content, checksum = file.read(length), file.read(_CHECKSUM_BYTES)
        if row not in self._compared:
            if checksum != _checksum(content):
                raise BenchmarkError(f"its checksum in {path} is another; the file is damaged")
            self._compared.add(row)
        return content


def _checksum(content: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(content))


def _places(path: str) -> list[tuple[int, int]]:
    """Start and length of every record."""
    size, places, position = Path(path).stat().st_size, [], 0
    with Path(path).open("rb") as file:
        while position < size:
            file.seek(position)
            head, checksum = file.read(_LENGTH_BYTES), file.read(_CHECKSUM_BYTES)
            length = struct.unpack("<Q", head)[0] if checksum == _checksum(head) else size
            start = position + _LENGTH_BYTES + _CHECKSUM_BYTES
            position = start + length + _CHECKSUM_BYTES
            if position > size:
                raise BenchmarkError(f"{path} ends within record {len(places)}; it is cut or damaged, so copy it again")
            places.append((start, length))
    return places
