import io
import itertools
from contextlib import closing

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from align_jax.data.images import ImageTransform
from align_jax.data.labelled import LabelBatching, LabelledDataset, LabelledRecord, parse_labelled
from align_jax.data.loader import TrainLoader
from align_jax.data.quarantine import Quarantine
from align_jax.data.records import DatasetError, RecordError


def serialized(labels=(), probabilities=(), label=None, image=b"png"):
    example = tf_example_pb2.Example()
    features = example.features.feature
    features["image"].bytes_list.value.extend([image] if image else [])
    features["labels"].int64_list.value.extend(labels)
    features["label_probs"].float_list.value.extend(probabilities)
    features["label"].int64_list.value.extend([] if label is None else [label])
    return example.SerializeToString()


def test_labels_are_read_each_once_with_or_without_a_threshold():
    record = serialized([7, 3, 7, 1], [0.5, 0.25, 0.5, 0.1])
    assert parse_labelled(record, 4) == LabelledRecord("4", b"png", (7, 3, 1))
    assert parse_labelled(record, 4, least_probability=0.25).labels == (7, 3)
    assert parse_labelled(record, 4, least_probability=0.9).labels == ()
    assert parse_labelled(serialized(label=5), 0).labels == (5,)


def test_records_that_cannot_be_used_say_why():
    with pytest.raises(RecordError, match="record 3 has no image"):
        parse_labelled(serialized([1], image=None), 3)
    with pytest.raises(RecordError, match="2 labels and 1 label_probs"):
        parse_labelled(serialized([1, 2], [0.5]), 3, least_probability=0.1)
    batching = LabelBatching(class_count=10, max_labels=2, least_labels=1)
    refused = {(10,): "label 10 is not", (-1,): "label -1 is not", (): "0 labels, not 1 to 2", (1, 2, 3): "3 labels"}
    for labels, reason in refused.items():
        with pytest.raises(RecordError, match=reason):
            batching.read(LabelledRecord("key", b"", labels))


class Dots(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = "dots"
    code_path = None
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(shape=(None, None, None)), "labels": tfds.features.Sequence(np.int32)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(6):
            file = io.BytesIO()
            Image.new("RGB", (12, 10), (number, number, number)).save(file, "PNG")
            yield number, {"image": file.getvalue(), "labels": [number] if number < 5 else [99]}


def test_batches_hold_the_labels_of_their_images_and_bad_labels_are_put_aside(tmp_path):
    Dots(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    source = LabelledDataset("dots", "train", str(tmp_path)).open()
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", 1)
    transform = ImageTransform(resize_px=8, crop_px=8, flip=True, smallest_area=0.3)
    loader = TrainLoader(source, transform, LabelBatching(10, 3), batch_size=4, seed=0, quarantine=quarantine)
    with closing(loader.iterate()) as batches:
        for batch in itertools.islice(batches, 3):
            assert (batch.images.shape, batch.images.dtype) == ((4, 8, 8, 3), np.uint8)
            assert (batch.labels.shape, batch.labels.dtype) == ((4, 3), np.int32)
            np.testing.assert_array_equal(batch.images[:, 4, 4, 0], batch.labels[:, 0])
            assert (batch.labels[:, 1:] == -1).all()
    assert quarantine.count == 1
    with pytest.raises(DatasetError, match="no feature label_probs"):
        LabelledDataset("dots", "train", str(tmp_path), least_probability=0.1).open()
