"""Parquet files as img2dataset and others write them, and as nobody should."""

import pyarrow as pa
import pytest
from pyarrow import parquet

from align_jax.data.collections import CollectionError, Item, Options, open_images, open_texts
from align_jax.data.collections import parquet as module
from tests.data.collections.made import assert_restarts_anywhere, entries, ids, picture, reasons


def write(path, columns, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path, **options)
    return path


def pairs(count, start=0):
    keys = [f"{number:09}" for number in range(start, start + count)]
    return {
        "key": keys,
        "jpg": [picture(number) for number in range(start, start + count)],
        "txt": [f"text {key}" for key in keys],
        "width": pa.array(range(count), pa.int32()),
        "similarity": pa.array([0.5] * count, pa.float32()),
        "labels": [[1, number] for number in range(count)],
    }


def test_shards_of_img2dataset_are_read_from_any_row(tmp_path):
    write(tmp_path / "00000.parquet", pairs(7), row_group_size=3)
    write(tmp_path / "00001.parquet", pairs(2, start=7))
    collection = open_images(tmp_path, Options(columns=("txt", "width", "similarity", "labels")))
    assert ids(collection)[0] == "00000/000000000"
    assert ids(collection)[-1] == "00001/000000008"
    third = entries(collection)[2]
    assert third == Item(
        "00000/000000002", picture(2), {"txt": "text 000000002", "width": 2, "similarity": 0.5, "labels": [1, 2]}
    )
    assert [str(kind) for kind in collection.column_types.values()] == [
        "string", "int32", "float", "list<element: int64>",
    ]  # fmt: skip
    assert_restarts_anywhere(collection)
    assert entries(open_texts(tmp_path))[0].content == b"text 000000000"


def test_images_of_the_hub_are_structs_with_bytes(tmp_path):
    structs = [{"bytes": picture(0), "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, None]
    path = write(
        tmp_path / "a.parquet", {"image": pa.array(structs, pa.struct({"bytes": pa.binary(), "path": pa.string()}))}
    )
    collection = open_images(path)
    assert ids(collection) == ["a/0"]
    assert entries(collection)[0].content == picture(0)
    assert reasons(collection) == {"a/1": "the row has no image", "a/2": "the row has no image"}


def test_ids_that_cannot_be_names_and_repeated_ones_are_refused(tmp_path):
    path = write(tmp_path / "a.parquet", {"key": ["x", "../y", "/z", "x", None], "jpg": [picture()] * 5})
    assert ids(open_images(path)) == ["a/x"]
    assert [entry.reason for entry in entries(open_images(path))[1:]] == [
        "its name leads out of the folder (..)", "its name is an absolute path", "an earlier row has the same id",
        "its name is empty",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"jpg": ["not", "bytes"]}, {}, "column jpg is of type string, not binary"),
        ({"jpg": [[1.0]]}, {}, "column jpg is of type list"),
        ({"picture": [b"x"]}, {}, "name one with --image-column"),
        ({"jpg": [b"x"]}, {"column": "png"}, "has no column png; it has jpg"),
        ({"jpg": [b"x"], "m": [{"a": 1}]}, {"columns": ("m",)}, "column m is of type struct"),
        ({"jpg": [b"x"], "key": [[1]]}, {}, "column key is of type list"),
    ],
)
def test_wrong_schema_is_named(tmp_path, columns, options, message):
    with pytest.raises(CollectionError, match=message):
        open_images(write(tmp_path / "a.parquet", columns), Options(**options))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"no parquet at all"])
def test_file_that_is_none_is_an_error_alone_and_a_refusal_among_others(tmp_path, content):
    (tmp_path / "broken.parquet").write_bytes(content)
    with pytest.raises(CollectionError, match="is not a whole Parquet file"):
        open_images(tmp_path / "broken.parquet")
    write(tmp_path / "good.parquet", pairs(2))
    collection = open_images(tmp_path)
    assert ids(collection) == ["good/000000000", "good/000000001"]
    assert list(reasons(collection)) == ["broken"]


def test_damaged_pages_cost_the_rows_of_their_group_and_no_others(tmp_path):
    path = write(tmp_path / "a.parquet", pairs(6), row_group_size=3, compression="snappy", use_dictionary=False)
    whole = path.read_bytes()
    start = parquet.ParquetFile(path).metadata.row_group(1).column(1).data_page_offset
    path.write_bytes(whole[:start] + b"\xff" * 40 + whole[start + 40 :])
    collection = open_images(path)
    assert len(entries(collection)) == 6
    assert ids(collection)[:3] == [f"a/{number:09}" for number in range(3)]
    assert all("cannot be read" in reason for reason in reasons(collection).values())
    assert reasons(collection)
    assert_restarts_anywhere(collection)


def test_group_that_unpacks_to_far_more_than_is_stored_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", 2**20)
    path = write(tmp_path / "a.parquet", {"jpg": [bytes(2**22)]}, compression="zstd", use_dictionary=False)
    assert "as no images and texts do" in reasons(open_images(path))["a/0"]


def test_column_of_two_types_is_named(tmp_path):
    write(tmp_path / "a.parquet", {"jpg": [b"x"], "n": [1]})
    write(tmp_path / "b.parquet", {"jpg": [b"x"], "n": ["1"]})
    with pytest.raises(CollectionError, match=r"column n is string in .*b\.parquet, and int64 in others"):
        open_images(tmp_path, Options(columns=("n",)))
