"""Small files to read, made by hand where no honest program would make them."""

import csv
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from align_jax.data.collections import Collection, Item, Refused


def picture(seed: int = 0, side_px: int = 8, form: str = "JPEG", mode: str = "RGB", **options: Any) -> bytes:
    """An image file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side_px, side_px, 3), np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(encoded, form, **options)
    return encoded.getvalue()


def write_tree(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def member(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A member of a tar, honest or not."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar_bytes(members: Iterable[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of these members, closed as it should be."""
    written = io.BytesIO()
    for info, content in members:
        written.write(info.tobuf(form))
        written.write(content + b"\0" * (-len(content) % 512))
    return written.getvalue() + b"\0" * 1024


def sample(key: str, seed: int = 0, text: str = "a cat", **metadata: Any) -> list[tuple[tarfile.TarInfo, bytes]]:
    """What img2dataset writes for one pair."""
    return [
        member(f"{key}.jpg", picture(seed)), member(f"{key}.txt", text.encode()),
        member(f"{key}.json", json.dumps(metadata | {"key": key}).encode()),
    ]  # fmt: skip


def write_csv(path: Path, rows: Sequence[Sequence[Any]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def entries(collection: Collection, start: int = 0) -> list[Item | Refused]:
    return list(collection.read(start))


def ids(collection: Collection) -> list[str]:
    return [entry.id for entry in entries(collection) if isinstance(entry, Item)]


def reasons(collection: Collection) -> dict[str, str]:
    return {entry.id: entry.reason for entry in entries(collection) if isinstance(entry, Refused)}


def assert_restarts_anywhere(collection: Collection) -> None:
    """Reading from any position gives the rest of what reading from the start gives, and sizes are true."""
    whole = entries(collection)
    assert len(whole) == collection.size
    for start in {*range(min(len(whole) + 2, 12)), max(0, len(whole) - 1), len(whole) // 2}:
        assert entries(collection, start) == whole[start:], start
