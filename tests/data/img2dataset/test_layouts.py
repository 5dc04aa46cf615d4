import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from align_jax.data.builders.img2dataset import Coyo700m, CoyoLabeled300m, Img2Dataset, Input
from align_jax.data.collections import CollectionError
from align_jax.data.img2dataset.shards import LAYOUTS, find_shards
from align_jax.data.records import DatasetError, Example, PairDataset
from tests.data.img2dataset.made import Sample, jpeg, samples, write

COUNTS = {
    "rows": 12,
    "kept": 8,
    "left_out": {
        "img2dataset: failed_to_download: HTTP Error 404: Not Found": 1,
        "img2dataset: failed_to_resize: Image decoding error": 1,
        "it has no caption": 1,
        "an earlier record has the same image and caption": 1,
    },
}


def prepared(tmp_path, source, builder=Img2Dataset, name="pictures"):
    made = builder(source, tmp_path / "data", name)
    return made, made.prepare(workers=1)


def record_files(tmp_path, name="pictures"):
    return {path.name: path.read_bytes() for path in (tmp_path / "data" / name / "1.0.0").glob("*array_record*")}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layouts_become_the_same_files(tmp_path, layout):
    found = {}
    for one, seed in {"webdataset": 0, layout: 1}.items():
        folder = write(tmp_path / one / "input", one, samples(12), seed)
        assert find_shards(folder).layout == one
        _, outcome = prepared(tmp_path / one, Input(folder, columns=("id", "score", "labels", "url")))
        assert outcome.audit.to_dict() == COUNTS
        found[one] = record_files(tmp_path / one)
    assert len(found["webdataset"]) == 3
    assert found[layout] == found["webdataset"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_records_are_pairs_in_the_order_of_keys_with_their_columns(tmp_path, layout):
    made = samples(12)
    folder = write(tmp_path / "input", layout, made)
    builder, _ = prepared(tmp_path, Input(folder, columns=("id", "score", "labels", "url")))
    source = PairDataset("pictures", "train", str(tmp_path / "data")).open()
    assert [record.key for record in source] == [
        "000000", "000001", "000002", "000100", "000102", "000104", "000200", "000201",
    ]  # fmt: skip
    assert (source[3].image, source[3].texts) == (made[1][0].image, ("a picture, number 5",))
    example = builder.as_data_source()["train"][3]
    assert example["image"].shape == (16, 16, 3)
    assert (example["id"], example["score"], example["url"]) == (1005, np.float32(5 / 7), b"http://pictures/5.jpg")
    assert list(example["labels"]) == [5, 6]
    lines = (tmp_path / "data" / "pictures" / "1.0.0" / "left_out.jsonl").read_text()
    assert lines == '{"key": "000101", "reason": "it has no caption"}\n'


@pytest.mark.parametrize("layout", ["webdataset", "tfrecord", "files"])
def test_without_tables_what_lies_beside_the_images_is_used(tmp_path, layout):
    folder = write(tmp_path / "input", layout, samples(12))
    for table in folder.glob("*.parquet"):
        table.unlink()
    builder, outcome = prepared(tmp_path, Input(folder, columns=("id", "url")))
    assert outcome.audit.rows == 10  # nobody knows of the two that failed
    assert outcome.audit.kept == 8
    record = next(iter(builder.as_data_source()["train"]))
    assert record["url"] == b"http://pictures/0.jpg"
    assert record["id"] in (1000, b"1000")  # a TFRecord has types, and of JSON the text is kept


def test_coyo_keeps_the_columns_that_its_tables_have(tmp_path):
    builder, _ = prepared(tmp_path, Input(write(tmp_path / "input", "parquet", samples(12))), Coyo700m, None)
    assert set(builder.info.features) == {"key", "image", "text", "id", "url"}
    assert builder.name == "coyo700m"


def test_labelled_images_need_no_caption(tmp_path):
    folder = write(tmp_path / "input", "webdataset", samples(12))
    with pytest.raises(CollectionError, match="no column label_probs"):
        CoyoLabeled300m(Input(folder), tmp_path / "data")
    builder, outcome = prepared(tmp_path, Input(folder, columns=("labels",)), _Labels)
    assert outcome.audit.kept == 9
    assert outcome.audit.left_out["an earlier record has the same image"] == 1
    (file, *_) = sorted(record_files(tmp_path))
    assert "labels" in builder.info.features
    assert "text" not in builder.info.features
    assert file == "pictures-train.array_record-00000-of-00003"


class _Labels(Img2Dataset, skip_registration=True):
    CAPTIONED = False


@pytest.mark.parametrize(
    ("identities", "kept"),
    [((), 5), (("key",), 5), (("url",), 4), (("sha256",), 3), (("pair",), 4), (("url", "sha256"), 2)],
)
def test_first_record_of_each_identity_stays(tmp_path, identities, kept):
    """Of five: 1 has the image and caption of 0, 2 its image alone, and 3 the URL of 4."""
    made = [Sample(number, jpeg(number), f"number {number}") for number in range(5)]
    made[1] = Sample(1, made[0].image, made[0].caption)
    made[2] = Sample(2, made[0].image, "another caption")
    made[3].changes = {"url": "http://pictures/4.jpg"}
    folder = write(tmp_path / "input", "webdataset", [made[:2], made[2:]])
    _, outcome = prepared(tmp_path, Input(folder, identities=identities))
    assert outcome.audit.kept == kept
    first = next(iter(PairDataset("pictures", "train", str(tmp_path / "data")).open()))
    assert first.key == "000000"


def test_missing_shards_are_named_and_their_rows_counted(tmp_path):
    folder = write(tmp_path / "input", "webdataset", samples(30))
    (folder / "00002.tar").unlink()  # its table knows five rows
    for path in (folder / "00003.tar", folder / "00003.parquet"):  # its counts know of five
        path.unlink()
    for path in folder.glob("00004*"):
        path.unlink()
    _, outcome = prepared(tmp_path, Input(folder))
    assert [(shard.name, shard.counted_rows()) for shard in outcome.missing] == [
        ("00002", 5), ("00003", 5), ("00004", None),
    ]  # fmt: skip
    assert outcome.audit.rows == 25
    assert outcome.audit.left_out["it is not in the shard, which is missing"] == 10
    assert "shard 00004 is missing, of nobody knows how many rows" in str(outcome)


def test_nothing_to_keep_is_an_error_that_counts(tmp_path):
    folder = write(tmp_path / "input", "files", [[Sample(0, b"broken", "a text")]])
    counts = r"1 rows in; 1 - the image does not decode; 0 kept; the first of them, 000000: .*not an image"
    with pytest.raises(DatasetError, match=counts):
        prepared(tmp_path, Input(folder))


def test_labels_without_captions_name_the_source_that_they_are_for(tmp_path):
    sample = Sample(0, jpeg(0), None)
    folder = write(tmp_path / "input", "webdataset", [[sample]])
    table = pq.read_table(folder / "00000.parquet")
    table = table.append_column("label_probs", pa.array([[0.5, 0.25]], pa.list_(pa.float32())))
    pq.write_table(table, folder / "00000.parquet")
    with pytest.raises(
        DatasetError, match=r"1 - it has no caption; 0 kept; .*; for images with labels .* --source coyo-l"
    ):
        prepared(tmp_path, Input(folder))
    assert prepared(tmp_path, Input(folder), CoyoLabeled300m)[1].audit.kept == 1


def test_equal_features_are_equal_bytes(tmp_path):
    prepared(tmp_path, Input(write(tmp_path / "input", "webdataset", [[Sample(0, jpeg(0), " a \n text ")]])))
    (source,) = (PairDataset("pictures", "train", str(tmp_path / "data")).open(),)
    assert source[0].texts == ("a text",)
    assert set(Example.FromString(source._serialized[0]).features.feature) == {"key", "image", "text"}
