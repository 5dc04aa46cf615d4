import json

import numpy as np
import pytest

from align_jax.inference.embedding.folder import EmbeddingFolderError, read_embeddings
from align_jax.inference.embedding.part import Part, PartError, part_name, read_part, write_part


@pytest.fixture
def folder(tmp_path):
    """Two parts of up to three inputs, of which the second is refused."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3, 4)).astype(np.float32)
    first = Part("digest", 0, 3, 2, (("b.jpg", "no image"),))
    write_part(tmp_path / part_name(0), first, ["a.jpg", "c.jpg"], vectors[:2], {"url": ["x", None]}, {})
    write_part(tmp_path / part_name(1), Part("digest", 3, 4, 1, ()), ["d.jpg"], vectors[2:], {"url": ["ü"]}, {})
    metadata = {
        "finished": True, "columns": {"url": "string"}, "parts": 2, "embedding_size": 4,
        "counts": {"inputs": 4, "embedded": 3, "refused": 1},
    }  # fmt: skip
    (tmp_path / "embeddings.json").write_text(json.dumps(metadata))
    return tmp_path, vectors


def test_rows_of_all_parts_come_back_in_order(folder):
    path, vectors = folder
    read = read_embeddings(path)
    assert read.ids == ["a.jpg", "c.jpg", "d.jpg"]
    np.testing.assert_array_equal(read.embeddings, vectors)
    assert read.columns == {"url": ["x", None, "ü"]}
    assert read.metadata["parts"] == 2
    assert read_embeddings(path, columns=[]).columns == {}
    assert read_part(path / part_name(0)).refused == (("b.jpg", "no image"),)


def test_parquet_has_the_documented_types(folder):
    import pyarrow.parquet

    schema = pyarrow.parquet.read_schema(folder[0] / part_name(0))
    assert [str(field.type) for field in schema] == ["string", "fixed_size_list<element: float>[4]", "string"]


def test_part_without_any_row_is_a_part(tmp_path):
    part = Part("digest", 0, 1, 0, (("a", "why"),))
    write_part(tmp_path / part_name(0), part, [], np.empty((0, 4), np.float32), {}, {})
    assert read_part(tmp_path / part_name(0)) == part


def test_folder_of_a_run_that_has_not_finished_says_so(folder):
    path = folder[0] / "embeddings.json"
    path.write_text(path.read_text().replace("true", "false"))
    with pytest.raises(EmbeddingFolderError, match="not finished; run the command"):
        read_embeddings(folder[0])


def test_folder_that_is_something_else_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no embeddings\.json"):
        read_embeddings(tmp_path)
    (tmp_path / "embeddings.json").write_text("[]")
    with pytest.raises(EmbeddingFolderError, match="has no columns"):
        read_embeddings(tmp_path)


def test_column_that_was_not_carried_is_named(folder):
    with pytest.raises(EmbeddingFolderError, match="no column caption; carried along were: url"):
        read_embeddings(folder[0], columns=["caption"])


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_cut_part_is_damaged(folder, keep):
    path = folder[0] / part_name(1)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(PartError, match="damaged"):
        read_embeddings(folder[0])


def test_missing_part_is_an_error(folder):
    (folder[0] / part_name(1)).unlink()
    with pytest.raises(FileNotFoundError, match="part-00001"):
        read_embeddings(folder[0])
