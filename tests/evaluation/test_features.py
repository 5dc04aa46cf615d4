"""Embeddings that were made before, as they are found for the images of a benchmark."""

import json
from pathlib import Path

import numpy as np
import pytest

from align_jax.data.benchmarks import BenchmarkError, ImageSet
from align_jax.evaluation.features import read_features
from align_jax.inference.embedding.folder import EmbeddingFolderError
from align_jax.inference.embedding.part import Part, part_name, write_part

IMAGES = ImageSet(("val/a.jpg", "val/b\u2028.jpg", "val/c.jpg"), lambda row: b"")


def embeddings(folder: Path, values: np.ndarray) -> Path:
    """Of `val`, embedded by itself; the second image is refused, and its name has what may end a line."""
    part = Part("digest", 0, 3, 2, (("b\u2028.jpg", "no image"),))
    write_part(folder / part_name(0), part, ["a.jpg", "c.jpg"], values.astype(np.float32), {}, {})
    metadata = {
        "finished": True, "columns": {}, "parts": 1, "embedding_size": 2, "counts": {"embedded": 2, "refused": 1},
        "input": {"source": ["data/val"]}, "model": {"digest": "one"},
    }  # fmt: skip
    (folder / "embeddings.json").write_text(json.dumps(metadata))
    line = json.dumps({"id": "b\u2028.jpg", "reason": "no image"}, ensure_ascii=False)
    (folder / "refused.jsonl").write_text(f"{line}\n", encoding="utf-8")
    return folder


def test_rows_follow_the_images_and_refused_ones_keep_their_reason(tmp_path: Path) -> None:
    found = read_features([embeddings(tmp_path, np.eye(2))], IMAGES)
    assert found.rows.tolist() == [0, 2]
    assert found.values.tolist() == [[1, 0], [0, 1]]
    assert found.bad_images == [("val/b\u2028.jpg", "no image")]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_the_name_of_the_image(tmp_path: Path, value: float) -> None:
    """kNN would look up the class of a neighbour that is not there."""
    folder = embeddings(tmp_path, np.array([[1, 0], [value, -value]]))
    with pytest.raises(BenchmarkError, match=r"gives 'val/c\.jpg' values that are not finite"):
        read_features([folder], IMAGES)


def test_damaged_list_of_refused_images_is_named(tmp_path: Path) -> None:
    embeddings(tmp_path, np.eye(2))
    (tmp_path / "refused.jsonl").write_text('{"id": 3}\n')
    with pytest.raises(EmbeddingFolderError, match=r"refused\.jsonl is damaged"):
        read_features([tmp_path], IMAGES)
