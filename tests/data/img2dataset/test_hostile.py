"""What nobody honest writes is left out, with a reason, and never taken into memory or out of the folder."""

import io
import struct
import tarfile
import zipfile
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from align_jax.data.builders.img2dataset import Img2Dataset, Input
from align_jax.data.collections import CollectionError
from align_jax.data.img2dataset.columns import Column, ValueProblemError
from align_jax.data.img2dataset.rows import Damage, read_rows
from align_jax.data.img2dataset.shards import Shard, find_shards
from tests.data.collections.made import member, tar_bytes
from tests.data.img2dataset.made import Sample, framed, jpeg, samples, write, write_table


def reasons(folder, columns=()):
    shards = find_shards(folder)
    rows = [row for shard in shards.shards for row in read_rows(shard, shards.layout, columns, captioned=True)]
    return {row.key: getattr(row, "detail", "") or getattr(row, "reason", "kept") for row in rows}


def test_tar_with_paths_out_of_it_links_and_devices(tmp_path):
    good = [member("000000.jpg", jpeg(0)), member("000000.txt", b"a text")]
    bad = {
        "/etc/passwd": {}, "../000001.jpg": {}, "a/../../000002.jpg": {},
        "000003.jpg": {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        "000004.jpg": {"type": tarfile.LNKTYPE, "linkname": "000000.jpg"},
        "000005.jpg": {"type": tarfile.CHRTYPE}, "000006.jpg": {"type": tarfile.FIFOTYPE},
    }  # fmt: skip
    members = [*good, *(member(name, b"", **fields) for name, fields in bad.items())]
    (tmp_path / "00000.tar").write_bytes(tar_bytes(members))
    found = reasons(tmp_path)
    assert found.pop("000000") == "kept"
    assert list(found.values()) == [
        "its name is an absolute path", "its name leads out of the folder (..)",
        "its name leads out of the folder (..)", "it is a symbolic link", "it is a hard link",
        "it is a character device", "it is a pipe",
    ]  # fmt: skip


def png_bomb():
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(10**6), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def zip_bomb():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("000000.jpg", bytes(10**7))
    return file.getvalue()


@pytest.mark.parametrize("layout", ["webdataset", "tfrecord", "parquet", "files"])
def test_bombs_and_cut_images(tmp_path, layout):
    contents = [jpeg(0), png_bomb(), zip_bomb(), jpeg(3)[:200], b""]
    folder = write(tmp_path / "input", layout, [[Sample(number, one, "text") for number, one in enumerate(contents)]])
    found = reasons(folder)
    assert found.pop("000000") == "kept"
    assert "60000 x 60000 pixels are more than the limit" in found["000001"]
    assert "not an image format that is known" in found["000002"]
    assert "truncated" in found["000003"].lower()
    assert "empty" in found["000004"] or "no image" in found["000004"] or "no jpg" in found["000004"]


@pytest.mark.parametrize("content", [zip_bomb(), b"\x1f\x8b" + bytes(100), b"", b"x" * 2000])
@pytest.mark.parametrize("suffix", ["tar", "tfrecord"])
def test_shard_that_is_something_else(tmp_path, suffix, content):
    (tmp_path / f"00000.{suffix}").write_bytes(content)
    found = reasons(tmp_path)
    assert "kept" not in found.values()
    assert len(found) == (0 if suffix == "tfrecord" and not content else 1)


def test_shard_that_is_cut_keeps_what_is_whole_and_counts_the_rest(tmp_path):
    for layout, suffix in {"webdataset": "tar", "tfrecord": "tfrecord"}.items():
        folder = write(tmp_path / layout, layout, [[Sample(n, jpeg(n, 64), "text") for n in range(5)]])
        path = folder / f"00000.{suffix}"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        builder = Img2Dataset(Input(folder), tmp_path / layout / "data", "cut")
        audit = builder.prepare(workers=1).audit
        assert audit.rows == 5
        assert 0 < audit.kept < 5
        assert set(audit.left_out) <= {"it is not in the data of its shard", "the tar is cut"}
        assert "cut" in (tmp_path / layout / "data" / "cut" / "1.0.0" / "left_out.jsonl").read_text()


def test_tar_that_is_cut_anywhere_counts_every_row_once(tmp_path):
    folder = write(tmp_path / "input", "webdataset", [[Sample(n, jpeg(n), "text") for n in range(3)]])
    path = folder / "00000.tar"
    whole = path.read_bytes()
    (shard,) = find_shards(folder).shards
    for end in range(0, len(whole), 100):
        path.write_bytes(whole[:end])
        rows = [row for row in read_rows(shard, "webdataset", (), captioned=True) if not isinstance(row, Damage)]
        assert sorted(row.key for row in rows) == ["000000", "000001", "000002"]


def test_record_that_claims_to_be_large_is_not_read(tmp_path):
    length = struct.pack("<Q", 2**60)
    (tmp_path / "00000.tfrecord").write_bytes(framed(b"not an example") + length + framed(b"")[8:12] + b"x" * 100)
    assert list(reasons(tmp_path).values()) == [
        "the record is no tf.train.Example", "the TFRecord file is cut or damaged",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind", "values", "match"),
    [
        ("jpg", pa.string(), ["x"], "column jpg is of type string, not binary"),
        ("key", pa.int64(), [1], "column key is of type int64, not string"),
        ("status", pa.list_(pa.string()), [["success"]], "column status is of type list"),
        ("id", pa.string(), ["abc"], "columns of other types than the first shard"),
        ("id", pa.struct({"a": pa.int64()}), [{"a": 1}], "column id is of type struct"),
        ("id", pa.map_(pa.string(), pa.int64()), [[("a", 1)]], "column id is of type map"),
        ("id", pa.list_(pa.list_(pa.int64())), [[[1]]], "column id is of type list"),
    ],
)
def test_parquet_with_surprising_types_leaves_out_the_shard_and_says_why(tmp_path, name, kind, values, match):
    folder = write(
        tmp_path / "input", "parquet", [[Sample(0, jpeg(0), "a"), Sample(1, jpeg(1), "b")], [Sample(2, jpeg(2), "c")]]
    )
    table = pq.read_table(folder / "00001.parquet")
    at = table.schema.get_field_index(name)
    pq.write_table(table.set_column(at, name, pa.array(values, kind)), folder / "00001.parquet")
    builder = Img2Dataset(Input(folder, columns=("id",)), tmp_path / "data", "odd")
    audit = builder.prepare(workers=1).audit
    assert (audit.rows, audit.kept, dict(audit.left_out)) == (3, 2, {"its shard cannot be read": 1})
    assert match in (tmp_path / "data" / "odd" / "1.0.0" / "left_out.jsonl").read_text()


def test_damaged_table_leaves_out_its_shard(tmp_path):
    folder = write(tmp_path / "input", "webdataset", samples(12))
    (folder / "00002.parquet").write_bytes(b"PAR1 and nothing more")
    audit = Img2Dataset(Input(folder), tmp_path / "data", "damaged").prepare(workers=1).audit
    assert audit.left_out["its shard cannot be read"] == 2
    assert audit.rows == 12


@pytest.mark.parametrize("layout", ["webdataset", "parquet"])
def test_rows_of_one_key_are_kept_and_counted_once(tmp_path, layout):
    folder = write(tmp_path / "input", layout, [[Sample(0, jpeg(0), "a"), Sample(1, jpeg(1), "b")]])
    rows = [Sample(0, jpeg(0), "a").table_row(key) for key in ("000000", "000000", "000001")]
    write_table(folder / "00000.parquet", rows, {"jpg": [jpeg(0)] * 3} if layout == "parquet" else {})
    (shard,) = find_shards(folder).shards
    found = list(read_rows(shard, layout, (), captioned=True))
    assert [type(row).__name__ for row in found] == ["Unusable", "Row", "Row"]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (Column("a", "int"), None), (Column("a", "int"), 2**63), (Column("a", "int"), 0.5), (Column("a", "int"), True),
        (Column("a", "int"), "x"), (Column("a", "float"), [1.0]), (Column("a", "text"), {"a": 1}),
        (Column("a", "bool"), 1), (Column("a", "int", many=True), [1, None]), (Column("a", "int"), "[" * 10**5),
    ],
)  # fmt: skip
def test_value_of_another_type_is_a_problem_that_names_the_column(column, value):
    with pytest.raises(ValueProblemError, match="column a"):
        column.values(value)


@pytest.mark.parametrize("columns", [("absent",), ("id", "id"), ("image",)])
def test_columns_that_cannot_be_kept(tmp_path, columns):
    folder = write(tmp_path / "input", "webdataset", samples(12))
    with pytest.raises(CollectionError, match="column"):
        Img2Dataset(Input(folder, columns=columns), tmp_path / "data", "odd")


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ((), "holds no shards"), (("00000.tar", "00000.tfrecord"), "webdataset and tfrecord; choose with --layout"),
        (("00000.tar", "000000.tar"), "two shards of one number"), (("99999999.tar",), "counts from 0"),
        (("photos.tar",), "holds no shards"),
    ],
)  # fmt: skip
def test_folder_that_is_not_one_download(tmp_path, files, match):
    for name in files:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CollectionError, match=match):
        find_shards(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"count": -1}', '{"count": "5"}', '{"count": 1e9}', "[" * 10**5])
def test_counts_that_say_nothing(tmp_path, content):
    (tmp_path / "00000_stats.json").write_text(content)
    assert Shard("00000", None, None, tmp_path / "00000_stats.json").counted_rows() is None
