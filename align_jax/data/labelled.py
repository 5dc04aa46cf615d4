"""Encoded images with the numbers of their classes, from a TFDS data set in ArrayRecord files.

The features read are `image` (encoded bytes), `labels` (a sequence of integers) or `label` (one integer), and where
they are there `label_probs` (a probability for each of `labels`) and `key`: those of COYO-Labeled-300M, and those of
the labelled data sets of TFDS such as `imagenet2012`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from align_jax.data.records import DatasetError, Example, OpenSplit, RecordError, RecordSource, key_of, open_split
from align_jax.types import NO_LABEL, LabelBatch

LABELS_COMMAND = "tfds build {name} --file_format array_record --data_dir {data_dir}"


@dataclass(frozen=True)
class LabelledRecord:
    """An encoded image with its classes.

    Attributes:
      key: names the record within its data set.
      image: the image file as it was found.
      labels: the numbers of its classes, each once, counted from 0; none where the image is known to show none of them.
    """

    key: str
    image: bytes
    labels: tuple[int, ...]


@dataclass(frozen=True)
class LabelledDataset:
    """A prepared data set of labelled images, by name.

    Attributes:
      name: the data set's name, with its configuration where several are prepared.
      split: as `PairDataset.split`.
      data_dir: the folder that all data sets lie in.
      least_probability: labels that are less probable by `label_probs` are left out; all count when absent.
    """

    name: str
    split: str
    data_dir: str
    least_probability: float | None = None

    @property
    def description(self) -> str:
        """What the order of examples follows from, besides the number of records."""
        return f"{self.name}, {self.split}"

    def class_names(self) -> tuple[str, ...] | None:
        """The classes, in order, by number where they have no names; `None` where the labels are bare integers.

        Raises:
          DatasetNotPreparedError: no such data set under `data_dir`.
          DatasetError: no such split, no records, or records of another kind.
        """
        features = self._opened().info.features
        label = features["labels"].feature if "labels" in features else features["label"]
        if not isinstance(label, tfds.features.ClassLabel) or label.num_classes is None:
            return None
        return tuple(label.names)

    def open(self) -> RecordSource[LabelledRecord]:
        """A random-access source of the split's records.

        Raises:
          DatasetNotPreparedError: no such data set under `data_dir`.
          DatasetError: no such split, no records, or records of another kind.
        """
        opened = self._opened()
        parse = partial(parse_labelled, least_probability=self.least_probability)
        return RecordSource(opened.serialized, opened.files, parse)

    def _opened(self) -> OpenSplit:
        opened = open_split(self.name, self.split, self.data_dir, LABELS_COMMAND)
        missing = [] if "image" in opened.features else ["image"]
        missing += [] if {"labels", "label"} & opened.features else ["labels"]
        missing += [] if self.least_probability is None or "label_probs" in opened.features else ["label_probs"]
        if missing:
            raise DatasetError(
                f"{opened.name} has no feature {' and no '.join(missing)}; classification needs image and labels, and "
                "label_probs where a least_probability is given"
            )
        return opened


def parse_labelled(serialized: bytes, position: int, *, least_probability: float | None = None) -> LabelledRecord:
    """Reads one `tf.train.Example`; `position` stands in for the key where the record has none."""
    features = Example.FromString(serialized).features.feature
    images = features["image"].bytes_list.value
    if not images:
        raise RecordError(f"record {position} has no image")
    labels = [*features["labels"].int64_list.value, *features["label"].int64_list.value]
    if least_probability is not None:
        probabilities = features["label_probs"].float_list.value
        if len(probabilities) != len(labels):
            raise RecordError(f"record {position} has {len(labels)} labels and {len(probabilities)} label_probs")
        pairs = zip(labels, probabilities, strict=True)
        labels = [label for label, probability in pairs if probability >= least_probability]
    return LabelledRecord(key_of(features, position), images[0], tuple(dict.fromkeys(labels)))


@dataclass(frozen=True)
class LabelBatching:
    """Makes batches of images and classes.

    Attributes:
      class_count: classes there are.
      max_labels: classes of one example at most.
      least_labels: and at least.
    """

    class_count: int
    max_labels: int
    least_labels: int = 0

    def read(self, record: LabelledRecord) -> tuple[int, ...]:
        """The classes of a record.

        Raises:
          RecordError: if one of them is no class, or there are too many or too few.
        """
        outside = [label for label in record.labels if not 0 <= label < self.class_count]
        if outside:
            raise RecordError(f"label {outside[0]} is not one of the model's {self.class_count} classes")
        if not self.least_labels <= len(record.labels) <= self.max_labels:
            raise RecordError(
                f"it has {len(record.labels)} labels, not {self.least_labels} to {self.max_labels} (data.max_labels)"
            )
        return record.labels

    def draw(self, labels: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
        """All of them, always."""
        del rng
        return labels

    def batch(self, images: UInt8[np.ndarray, "B H W 3"], labels: Sequence[tuple[int, ...]]) -> LabelBatch:
        """Rows of labels, filled with `NO_LABEL`."""
        rows = np.full((len(labels), self.max_labels), NO_LABEL, np.int32)
        for row, of_example in zip(rows, labels, strict=True):
            row[: len(of_example)] = of_example
        return LabelBatch(images, rows)
