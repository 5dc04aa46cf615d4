"""Near-duplicates of evaluation images, from folders of embeddings, against all cosines at once."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from align_jax.cli import main
from align_jax.data.collections import open_images
from align_jax.data.noise.near_duplicates import near_rows
from align_jax.inference.embedding.folder import EmbeddingFolderError
from align_jax.inference.embedding.near import near_search
from align_jax.inference.embedding.part import Part, part_name, write_part
from tests.data.noise import made


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def some(count: int, seed: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, 16)))


def near(rows: np.ndarray, cosine: float, seed: int) -> np.ndarray:
    """Rows at a cosine from others."""
    aside = some(len(rows), seed)
    aside = unit(aside - (aside * rows).sum(axis=1, keepdims=True) * rows)
    return unit(cosine * rows + np.sqrt(1 - cosine**2) * aside)


def embedding_folder(
    folder: Path, ids: Sequence[str], rows: np.ndarray, *, model: str = "m", digest: str = "", finished: bool = True
) -> Path:
    """What `align-jax embed` leaves, in two parts."""
    folder.mkdir()
    half = len(ids) // 2
    for index, part in enumerate((slice(0, half), slice(half, len(ids)))):
        described = Part("run", part.start, part.stop, part.stop - part.start, ())
        write_part(folder / part_name(index), described, list(ids[part]), rows[part], {}, {})
    metadata = {
        "finished": finished, "columns": {}, "counts": {"embedded": len(ids)}, "parts": 2, "embedding_size": 16,
        "model": {"digest": model}, "input": {"digest": digest},
    }  # fmt: skip
    (folder / "embeddings.json").write_text(json.dumps(metadata))
    return folder


def test_rows_near_any_of_the_evaluation() -> None:
    evaluation, rows = some(5_000, 0), some(6_000, 1)
    rows[::100] = near(evaluation[:60], 0.98, 2)
    rows[1::100] = near(evaluation[-60:], 0.97, 3)
    direct = (rows.astype(np.float64) @ evaluation.astype(np.float64).T).max(axis=1) > 0.975
    assert (near_rows(rows, evaluation, 0.975) == direct).all()
    assert np.flatnonzero(direct).tolist() == list(range(0, 6_000, 100))


def test_command_drops_near_duplicates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = [row for row in made.rows() if row["jpg"].startswith(b"\x89PNG") and row["txt"].strip()][:100]
    shards = made.write_parquet(tmp_path / "00000.parquet", table)
    collection = open_images(shards)
    ids = [entry.id for entry in collection.read()]
    first, second = some(30, 0), some(20, 1)
    rows = some(100, 2)
    rows[[3, 40]], rows[[70, 71]] = near(first[:2], 0.98, 3), near(second[:2], 0.97, 4)
    rows[99:] = near(second[2:3], 0.99, 5)
    embedding_folder(tmp_path / "embedded", ids, rows, digest=collection.digest)
    embedding_folder(tmp_path / "first", [f"{n}" for n in range(30)], first)
    embedding_folder(tmp_path / "second", [f"{n}" for n in range(20)], second)
    arguments = ["data", "filter", "--input", str(shards), "--embeddings", str(tmp_path / "embedded")]
    arguments += ["--evaluation", str(tmp_path / "first"), str(tmp_path / "second"), "--rules", "near-evaluation"]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    assert "cosine to evaluation images <= 0.975" in capsys.readouterr().out
    dropped = pq.read_table(next((tmp_path / "out").glob("dropped/*"))).to_pylist()
    assert {row["id"]: row["reason"] for row in dropped} == dict.fromkeys(
        (ids[3], ids[40], ids[99]), "not cosine to evaluation images <= 0.975"
    )


def test_folders_that_do_not_belong_together(tmp_path: Path) -> None:
    mine = embedding_folder(tmp_path / "mine", ["a", "b"], some(2, 0), digest="d")
    other = embedding_folder(tmp_path / "other", ["a", "b"], some(2, 0), model="another")
    unfinished = embedding_folder(tmp_path / "unfinished", ["a", "b"], some(2, 0), finished=False)
    with pytest.raises(EmbeddingFolderError, match="of another input"):
        near_search(mine, [mine], 0.975, "e")
    with pytest.raises(EmbeddingFolderError, match="different models"):
        near_search(mine, [other], 0.975, "d")
    with pytest.raises(EmbeddingFolderError, match="not finished"):
        near_search(unfinished, [mine], 0.975, "d")
