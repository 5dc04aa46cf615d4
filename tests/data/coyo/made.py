"""Files with the schemas of the COYO releases, filled with made-up rows of about the published distributions."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

COYO_700M = pa.schema(
    [
        ("id", pa.int64()), ("url", pa.string()), ("text", pa.string()), ("width", pa.int32()), ("height", pa.int32()),
        ("image_phash", pa.string()), ("text_length", pa.int32()), ("word_count", pa.int32()),
        ("num_tokens_bert", pa.int32()), ("num_tokens_gpt", pa.int32()), ("num_faces", pa.int32()),
        ("clip_similarity_vitb32", pa.float32()), ("clip_similarity_vitl14", pa.float32()),
        ("nsfw_score_opennsfw2", pa.float32()), ("nsfw_score_gantman", pa.float32()),
        ("watermark_score", pa.float32()), ("aesthetic_score_laion_v2", pa.float32()),
    ]
)  # fmt: skip
COYO_LABELED_300M = pa.schema(
    [
        ("id", pa.int64()), ("url", pa.string()), ("imagehash", pa.string()), ("labels", pa.list_(pa.int32())),
        ("label_probs", pa.list_(pa.float32())), ("width", pa.int32()), ("height", pa.int32()),
    ]
)  # fmt: skip
_WORDS = (
    "a",
    "the",
    "of",
    "red",
    "blue",
    "old",
    "chair",
    "dog",
    "cat",
    "street",
    "photo",
    "market",
    "night",
    "woman",
    "in",
)


def coyo_700m(rows: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    words = np.clip(rng.gamma(2.0, 5.5, rows), 3, 256).astype(np.int32)
    text, length = _texts(words, rng)
    tokens = (words * rng.uniform(1.1, 1.9, rows)).astype(np.int32)
    width = np.clip(rng.lognormal(6.3, 0.5, rows), 200, 8000)
    ratio = np.exp(rng.uniform(np.log(1 / 3), np.log(3), rows))

    def share(a: float, b: float) -> np.ndarray:
        return rng.beta(a, b, rows).astype(np.float32)

    values: dict[str, Any] = {
        "id": rng.permutation(rows).astype(np.int64) * 1_000 + 5_000_000_000,
        "url": _urls(rows, rng), "text": text, "image_phash": _hashes(rows, rng),
        "width": width.astype(np.int32), "height": np.clip(width * ratio, 200, 8000).astype(np.int32),
        "text_length": length, "word_count": words, "num_tokens_bert": tokens, "num_tokens_gpt": tokens + 1,
        "num_faces": rng.poisson(0.6, rows).astype(np.int32),
        "clip_similarity_vitb32": rng.normal(0.29, 0.04, rows).astype(np.float32),
        "clip_similarity_vitl14": rng.normal(0.25, 0.05, rows).astype(np.float32),
        "nsfw_score_opennsfw2": 0.5 * share(1, 9), "nsfw_score_gantman": 0.5 * share(1, 9),
        "watermark_score": share(1, 4), "aesthetic_score_laion_v2": rng.normal(4.8, 0.6, rows).astype(np.float32),
    }  # fmt: skip
    return pa.table(values, COYO_700M)


def coyo_labeled_300m(rows: int, seed: int = 0, labels: int = 50) -> pa.Table:
    rng = np.random.default_rng(seed)
    probabilities = -np.sort(-rng.beta(0.05, 1.5, (rows, labels)).astype(np.float32), axis=1)
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * labels)
    values = {
        "id": np.arange(rows, dtype=np.int64),
        "url": _urls(rows, rng), "imagehash": _hashes(rows, rng),
        "labels": pa.ListArray.from_arrays(offsets, rng.integers(0, 21_841, rows * labels).astype(np.int32)),
        "label_probs": pa.ListArray.from_arrays(offsets, probabilities.ravel()),
        "width": rng.integers(200, 2_000, rows).astype(np.int32),
        "height": rng.integers(200, 2_000, rows).astype(np.int32),
    }  # fmt: skip
    return pa.table(values, COYO_LABELED_300M)


def write(path: Path, table: pa.Table, rows_per_group: int = 50_000) -> Path:
    """As Spark writes: snappy, dictionaries where they help, statistics."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows_per_group, compression="snappy")
    return path


def _urls(rows: int, rng: np.random.Generator) -> pa.Array:
    """About 90 characters each."""
    letters = _letters(rows, 56, rng)
    ends = pa.array(np.arange(rows).astype("U10"))
    return pa.compute.binary_join_element_wise("https://cdn.example.org/", letters, "/", ends, ".jpg", "")


def _hashes(rows: int, rng: np.random.Generator) -> pa.Array:
    return _letters(rows, 16, rng)


def _letters(rows: int, length: int, rng: np.random.Generator) -> pa.Array:
    letters = np.frombuffer(b"0123456789abcdef", np.uint8)[rng.integers(0, 16, rows * length, np.uint8)]
    offsets = np.arange(rows + 1, dtype=np.int32) * length
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(letters.tobytes()))


def _texts(words: np.ndarray, rng: np.random.Generator) -> tuple[pa.Array, np.ndarray]:
    chosen = pa.array(_WORDS).take(pa.array(rng.integers(0, len(_WORDS), int(words.sum()))))
    offsets = np.concatenate([[0], np.cumsum(words)]).astype(np.int32)
    text = pa.compute.binary_join(pa.ListArray.from_arrays(pa.array(offsets), chosen), " ")
    return text, pa.compute.utf8_length(text).to_numpy().astype(np.int32)
