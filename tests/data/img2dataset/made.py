"""Writes what img2dataset 1.47 writes, as it was seen to do with `compute_hash` and `save_additional_columns`."""

import hashlib
import io
import json
import struct
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from align_jax.data.img2dataset.tf_record import masked_crc
from align_jax.data.records import Example

COLUMNS = {
    "id": pa.int64(), "score": pa.float32(), "labels": pa.list_(pa.int32()), "caption": pa.string(), "url": pa.string(),
    "key": pa.string(), "status": pa.string(), "error_message": pa.string(), "width": pa.int32(),
    "height": pa.int32(), "original_width": pa.int32(), "original_height": pa.int32(), "exif": pa.string(),
    "sha256": pa.string(),
}  # fmt: skip
DOWNLOADED = ("width", "height", "original_width", "original_height", "exif", "sha256")


def jpeg(seed: int, side: int = 16) -> bytes:
    """Noise."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@dataclass
class Sample:
    """A URL, and what came of it: an image, or an error."""

    number: int
    image: bytes | None
    caption: str | None
    error: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)

    def table_row(self, key: str) -> dict[str, Any]:
        status = "success" if self.error is None else f"failed_to_{'resize' if 'decod' in self.error else 'download'}"
        row = {
            "id": 1000 + self.number, "score": self.number / 7, "labels": [self.number, self.number + 1],
            "caption": self.caption, "url": f"http://pictures/{self.number}.jpg", "key": key, "status": status,
            "error_message": self.error, "width": 16, "height": 16, "original_width": 16, "original_height": 16,
            "exif": "{}", "sha256": hashlib.sha256(self.image or b"").hexdigest(),
        }  # fmt: skip
        return row | dict.fromkeys(DOWNLOADED if self.image is None else ()) | self.changes


def samples(count: int, per_shard: int = 5) -> list[list[Sample]]:
    """Shards of pairs in which 3 failed to download, 4 failed to decode, 6 has no caption, and 8 repeats 2."""
    made = [Sample(number, jpeg(number), f"a picture, number {number}") for number in range(count)]
    made[3] = Sample(3, None, "gone", "HTTP Error 404: Not Found")
    made[4] = Sample(4, None, "bad", "Image decoding error")
    made[6].caption = None
    made[8] = Sample(8, made[2].image, made[2].caption, changes={"url": "http://pictures/2.jpg"})
    return [made[start : start + per_shard] for start in range(0, count, per_shard)]


def write(folder: Path, layout: str, shards: list[list[Sample]], seed: int = 0) -> Path:
    """Writes a whole download; samples come in a random order, as they were downloaded."""
    folder.mkdir(parents=True)
    for shard, found in enumerate(shards):
        rows = [(sample, sample.table_row(f"{100 * shard + place:06}")) for place, sample in enumerate(found)]
        rows = [rows[place] for place in np.random.default_rng([seed, shard]).permutation(len(rows))]
        _WRITERS[layout](folder, f"{shard:05}", [row for row in rows if row[0].image is not None])
        images = {"jpg": [sample.image for sample, _ in rows]} if layout == "parquet" else {}
        write_table(folder / f"{shard:05}.parquet", [row for _, row in rows], images)
        stats = {"count": len(rows), "successes": sum(row["status"] == "success" for _, row in rows)}
        (folder / f"{shard:05}_stats.json").write_text(json.dumps(stats))
    return folder


def write_table(path: Path, rows: list[dict[str, Any]], more: dict[str, list[bytes | None]]) -> None:
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in COLUMNS.items()}
    pq.write_table(pa.table(columns | {name: pa.array(values, pa.binary()) for name, values in more.items()}), path)


def _tar(folder: Path, name: str, rows: list[tuple[Sample, dict]]) -> None:
    with tarfile.open(folder / f"{name}.tar", "w") as tar:
        for sample, row in rows:
            for suffix, content in _files(sample, row).items():
                member = tarfile.TarInfo(f"{row['key']}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _folder(folder: Path, name: str, rows: list[tuple[Sample, dict]]) -> None:
    (folder / name).mkdir()
    for sample, row in rows:
        for suffix, content in _files(sample, row).items():
            (folder / name / f"{row['key']}.{suffix}").write_bytes(content)


def _tf_record(folder: Path, name: str, rows: list[tuple[Sample, dict]]) -> None:
    with (folder / f"{name}.tfrecord").open("wb") as file:
        for sample, row in rows:
            example = Example()
            for column, value in {"jpg": sample.image, "txt": sample.caption or "", **row}.items():
                _put(example.features.feature[column], value)
            file.write(framed(example.SerializeToString()))


def framed(record: bytes) -> bytes:
    """A record as it stands in a TFRecord file."""
    length = struct.pack("<Q", len(record))
    return length + struct.pack("<I", masked_crc(length)) + record + struct.pack("<I", masked_crc(record))


def _put(feature: Any, value: Any) -> None:
    values = value if isinstance(value, list) else ["" if value is None else value]
    if isinstance(values[0], int):
        feature.int64_list.value.extend(values)
    elif isinstance(values[0], float):
        feature.float_list.value.extend(values)
    else:
        feature.bytes_list.value.extend(one if isinstance(one, bytes) else one.encode() for one in values)


def _files(sample: Sample, row: dict[str, Any]) -> dict[str, bytes]:
    text = sample.caption or ""
    return {"jpg": sample.image or b"", "txt": text.encode(), "json": json.dumps(row, indent=4).encode()}


_WRITERS = {"webdataset": _tar, "tfrecord": _tf_record, "files": _folder, "parquet": lambda folder, name, rows: None}
