"""A small collection with every kind of noise in it."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

_WORDS = (
    "red",
    "blue",
    "old",
    "new",
    "wooden",
    "chair",
    "dog",
    "cat",
    "street",
    "market",
    "night",
    "woman",
    "a",
    "the",
)


def rows(seed: int = 0) -> list[dict[str, Any]]:
    """Rows with `key`, `jpg` and `txt`: sizes around the limits, shared images and texts, rare words, broken ones."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(300):
        width, height = (int(rng.choice([60, 199, 200, 201, 320, 600, 601, 900])) for _ in range(2))
        words = [str(word) for word in rng.choice(_WORDS, int(rng.integers(1, 24)))]
        if number % 17 == 0:
            words.append(f"img_{number}")
        made.append((_picture(number, width, height), " ".join(words)))
    shared = _picture(1_000, 400, 300)
    made += [(shared, f"{first} {second} dog") for first in _WORDS[:6] for second in _WORDS[:5]]  # 30 texts
    made += [(shared, "red blue dog")] * 3  # the same again
    made += [(_picture(2_000 + number, 400, 300), "Click to enlarge") for number in range(14)]
    made += [(_picture(3_000 + number, 400, 300), " Click  to enlarge\n") for number in range(3)]
    made += [(_picture(2_000, 400, 300), "a red dog"), (b"no image", "a red dog"), (b"", "a blue dog")]
    made += [(_picture(5_000, 400, 300), text) for text in ("", " \n", "!!", "É! dog, cat. (night)")]
    made += [(_picture(4_000 + number, 400, 300), "a red dog") for number in range(33)]
    for texts in (5, 6):  # at a limit, and above it; the first pair stands there twice
        image = _picture(6_000 + texts, 400, 300)
        made += [(image, f"the {word} street") for word in (*_WORDS[:texts], _WORDS[0])]
    for images in (10, 11):
        made += [(_picture(7_000 + number, 400, 300), f"sale of {images}") for number in (*range(images), 0)]
    order = rng.permutation(len(made))
    return [{"key": f"{at:04d}", "jpg": made[at][0], "txt": made[at][1]} for at in order]


def write_parquet(path: Path, table: list[dict[str, Any]]) -> Path:
    return write_table(path, pa.Table.from_pylist(table))


def write_table(path: Path, table: pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=64)
    return path


def url_table(count: int) -> pa.Table:
    """URLs with captions, as COYO has them; every fourth image is small."""
    numbers = range(count)
    return pa.table(
        {
            "id": pa.array([2**40 + number for number in numbers]),
            "url": pa.array([f"http://pictures/{number}.jpg" for number in numbers]),
            "caption": pa.array([f"a picture,  number {number}" for number in numbers]),
            "width": pa.array([400] * count, pa.int32()),
            "height": pa.array([300 if number % 4 else 200 for number in numbers], pa.int32()),
            "image_phash": pa.array([f"{number:x}" for number in numbers], pa.large_string()),
            "score": pa.array([number / 7 if number % 5 else None for number in numbers], pa.float32()),
            "scores": pa.array([[number, None] if number % 3 else None for number in numbers], pa.list_(pa.int16())),
        }
    )


def _picture(seed: int, width: int, height: int) -> bytes:
    encoded = io.BytesIO()
    color = tuple(int(value) for value in np.random.default_rng(seed).integers(0, 256, 3))
    Image.new("RGB", (width, height), color).save(encoded, "PNG")
    return encoded.getvalue() + f"<{seed}>".encode()  # two pictures of a colour and a size are two pictures
