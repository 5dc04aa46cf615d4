"""Footers are read as Arrow reads them, and damaged ones are errors."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from align_jax.data.collections import CollectionError, Item, Options, open_images
from align_jax.data.collections.parquet_footer import FooterError, chunk_sizes, read_footer, wanted_sizes
from align_jax.data.img2dataset.side_table import read_table
from tests.data.collections.made import entries, picture


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Row groups with columns of every kind, more of them than fit into the short form of a list."""
    columns = {f"number{column}": range(9) for column in range(16)}
    columns |= {"key": [f"{row}" for row in range(9)], "jpg": [picture(row) for row in range(9)]}
    columns |= {
        "nested": [{"a": [1.5, row], "b": row % 2 == 0} for row in range(9)],
        "labels": [[row] for row in range(9)],
    }
    path = tmp_path_factory.mktemp("footer") / "a.parquet"
    parquet.write_table(pa.table(columns), path, row_group_size=4)
    return path


def test_sizes_are_those_that_arrow_reads(path):
    with parquet.ParquetFile(path) as file:
        groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
        columns = [[group.column(index) for index in range(group.num_columns)] for group in groups]
        expected = [[(one.total_compressed_size, one.total_uncompressed_size) for one in group] for group in columns]
        assert chunk_sizes(read_footer(path)) == expected
        assert len(expected) == 3
        paths = [file.schema.column(index).path for index in range(len(file.schema))]
        nested = [number for number, one in enumerate(paths) if one.startswith("nested.")]
        assert len(nested) == 2
        assert wanted_sizes(path, file, ["nested"]) == [[group[number] for number in nested] for group in expected]


@given(st.data())
def test_damage_gives_sizes_or_an_error(path, data):
    footer = bytearray(read_footer(path))
    for _ in range(data.draw(st.integers(1, 3))):
        footer[data.draw(st.integers(0, len(footer) - 1))] = data.draw(st.integers(0, 255))
    try:
        sizes = chunk_sizes(bytes(footer[: data.draw(st.integers(0, len(footer)))]))
    except FooterError:
        return
    assert all(size >= 0 for group in sizes for chunk in group for size in chunk)


@pytest.mark.parametrize("content", [b"", b"\x19" * 2000, b"\xff" * 20, b"\x4a\x1c"])  # \x19: a list of a list of …
def test_anything_else_is_no_footer(content):
    with pytest.raises(FooterError, match="damaged"):
        chunk_sizes(content)


def test_sizes_are_not_negative():
    """A row group (field 4) of a column (1), whose metadata (3) say that it unpacks (6) to -1 bytes."""
    footer = b"\x49\x1c\x19\x1c\x3c\x66%s\x16\x0a\0\0\0\0"
    assert chunk_sizes(footer % b"\x0c") == [[(5, 6)]]
    with pytest.raises(FooterError, match="sizes that are none"):
        chunk_sizes(footer % b"\x01")


def test_names_that_are_no_text_in_a_chunk_or_in_the_schema(tmp_path):
    """Arrow takes the names of chunks for text, wherever it is asked for them."""
    path = tmp_path / "00000.parquet"
    parquet.write_table(pa.table({"key": ["0"], "jpg": [picture()], "width": [1]}), path, store_schema=False)
    before, footer = path.read_bytes(), read_footer(path)
    assert footer.count(b"width") == 2
    in_chunk = footer.rindex(b"width")
    for at, whole in ((in_chunk, True), (footer.index(b"width"), False)):
        changed = bytearray(footer)
        changed[at] ^= 128
        path.write_bytes(before.replace(footer, changed))
        if whole:
            (item,) = entries(open_images(path, Options(columns=("width",))))
            assert isinstance(item, Item)
            assert read_table(path, ["width"]).rows["0"]["width"] == 1
        else:
            with pytest.raises(CollectionError, match="not a whole Parquet file"):
                open_images(path)
            with pytest.raises(CollectionError, match="not a whole Parquet file"):
                read_table(path, ["width"])
