import pickle
import types

import pytest
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_pb2

from align_jax.data.labelled import LabelledDataset
from align_jax.data.records import (
    DatasetError,
    DatasetNotPreparedError,
    PairDataset,
    PairRecord,
    RecordError,
    parse_record,
)


class Toy(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = "toy"
    code_path = None
    VERSION = tfds.core.Version("1.0.0")
    splits: tuple = (("train", 5), ("compositional", 2))
    features: tuple = ("key", "text")

    def _info(self):
        features = {name: tfds.features.Text() for name in self.features}
        features["image"] = tfds.features.Image(shape=(None, None, None))
        if "key" in self.features:
            features["aliases"] = tfds.features.Sequence(tfds.features.Text())
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(name, count) for name, count in self.splits}

    def _generate_examples(self, split, count):
        for number in range(count):
            example = {
                "image": b"\x89PNG" + bytes([number]),
                **{name: f"{name} {split} {number}" for name in self.features},
            }
            if "key" in self.features:
                example["aliases"] = [f"alias {index} of {number}" for index in range(number)]
            yield number, example


def prepare(data_dir, file_format="array_record", **attributes):
    kind = types.new_class("Toy", (Toy,), {"skip_registration": True}, lambda namespace: namespace.update(attributes))
    kind(data_dir=str(data_dir), file_format=file_format).download_and_prepare()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare(folder)
    return str(folder)


def test_records_come_back_as_they_were_stored(data_dir):
    source = PairDataset("toy", "train", data_dir).open()
    assert len(source) == 5
    found = sorted((source[index] for index in range(5)), key=lambda record: record.key)
    assert found[2] == PairRecord("key train 2", b"\x89PNG\x02", ("text train 2", "alias 0 of 2", "alias 1 of 2"))
    assert found[0].texts == ("text train 0",)


def test_splits_can_be_joined_and_cut(data_dir):
    joined = PairDataset("toy", "train+compositional", data_dir).open()
    assert len(joined) == 7
    assert len({record.key for record in joined}) == 7
    assert len(PairDataset("toy", "train[:3]", data_dir).open()) == 3


def test_source_survives_pickling_and_reads_the_same(data_dir):
    source = PairDataset("toy", "train", data_dir).open()
    first = source[3]
    assert pickle.loads(pickle.dumps(source))[3] == first


@pytest.mark.parametrize("index", [5, -1])
def test_record_beyond_the_end_is_an_index_error(data_dir, index):
    with pytest.raises(IndexError, match=f"record {index} of 5"):
        PairDataset("toy", "train", data_dir).open()[index]


def test_newest_version_is_read(tmp_path):
    for version in ("1.9.0", "1.10.0"):
        prepare(tmp_path, VERSION=tfds.core.Version(version), splits=(("train", 9 if version == "1.9.0" else 10),))
    assert len(PairDataset("toy", "train", str(tmp_path)).open()) == 10


def test_missing_data_set_is_an_error_that_names_place_and_command(tmp_path):
    with pytest.raises(DatasetNotPreparedError, match=rf"'openmoji' in {tmp_path}.*align-jax data openmoji --data-dir"):
        PairDataset("openmoji", "train", str(tmp_path)).open()
    with pytest.raises(DatasetNotPreparedError, match=r"align-jax data folder .*--name birds"):
        PairDataset("birds", "train", str(tmp_path / "absent")).open()


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("coyo700m", "align-jax data img2dataset --input DIR --source coyo700m --data-dir"),
        ("coyo_labeled300m", "align-jax data img2dataset --input DIR --source coyo-labeled300m --data-dir"),
        ("openmoji_groups/px72", "align-jax data openmoji-groups --data-dir"),
        ("imagenet2012", "tfds build imagenet2012 --file_format array_record --data_dir"),
        ("birds", "tfds build birds --file_format array_record --data_dir"),
    ],
)
def test_missing_labelled_images_name_what_prepares_them(tmp_path, name, command):
    with pytest.raises(DatasetNotPreparedError, match=f"prepare it with `{command} {tmp_path}`"):
        LabelledDataset(name, "train", str(tmp_path)).open()


def test_half_prepared_data_set_is_missing(tmp_path):
    (tmp_path / "openmoji" / "px72" / "incomplete.1_1.0.0").mkdir(parents=True)
    with pytest.raises(DatasetNotPreparedError):
        PairDataset("openmoji", "train", str(tmp_path)).open()


def test_unknown_split_is_an_error_that_names_those_there_are(data_dir):
    with pytest.raises(DatasetError, match="no split 'test'; it has compositional, train"):
        PairDataset("toy", "test", data_dir).open()


def test_empty_split_is_an_error(data_dir):
    with pytest.raises(DatasetError, match="is empty"):
        PairDataset("toy", "train[:0]", data_dir).open()


def test_data_set_without_captions_is_an_error(tmp_path):
    prepare(tmp_path, features=("title",))
    with pytest.raises(DatasetError, match="no feature text"):
        PairDataset("toy", "train", str(tmp_path)).open()


def test_data_set_that_cannot_be_read_at_random_is_an_error(tmp_path):
    folder = tmp_path / "toy" / "1.0.0"
    prepare(tmp_path)
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DatasetError, match="stored as tfrecord"):
        PairDataset("toy", "train", str(tmp_path)).open()


def test_several_configurations_must_be_told_apart(tmp_path):
    for name in ("px16", "px72"):
        folder = tmp_path / "toy" / name / "1.0.0"
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text("{}")
    with pytest.raises(DatasetError, match="toy/px16, toy/px72"):
        PairDataset("toy", "train", str(tmp_path)).open()


def test_damaged_file_is_a_record_error(tmp_path):
    prepare(tmp_path)
    (file,) = (tmp_path / "toy" / "1.0.0").glob("toy-train*")
    content = bytearray(file.read_bytes())
    start = content.index(b"text train")
    content[start : start + 4] = b"XXXX"
    file.write_bytes(content)
    source = PairDataset("toy", "train", str(tmp_path)).open()
    with pytest.raises(RecordError, match="cannot be read"):
        [source[index] for index in range(5)]


def serialized(**features):
    example = tf_example_pb2.Example()
    for name, values in features.items():
        example.features.feature[name].bytes_list.value.extend(values)
    return example.SerializeToString()


def test_record_without_image_or_caption_is_an_error():
    with pytest.raises(RecordError, match="record 4 has no image"):
        parse_record(serialized(text=[b"cat"]), 4)
    with pytest.raises(RecordError, match="record 4 has no caption"):
        parse_record(serialized(image=[b"png"]), 4)


def test_record_without_a_key_is_named_by_its_number():
    assert parse_record(serialized(text=[b"cat \xff"], image=[b"png"]), 4) == PairRecord("4", b"png", ("cat \ufffd",))


@given(st.binary(), st.lists(st.text(), min_size=1), st.text())
def test_any_record_survives_the_way_through_the_file_format(image, texts, key):
    encoded = [text.encode("utf-8", "replace") for text in texts]
    record = parse_record(
        serialized(image=[image], text=encoded[:1], aliases=encoded[1:], key=[key.encode("utf-8", "replace")]), 0
    )
    assert record.image == image
    assert record.texts == tuple(text.decode() for text in encoded)
