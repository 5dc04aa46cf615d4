"""Pairs read by number from the tars of img2dataset or webdataset as they are, without preparing a data set.

A tar has no list of what is in it, so its headers are read once, and where each image and caption lies is kept in an
index file of some ten bytes a pair. From then on tars are as good as a data set: records have numbers, in the order of
tars and keys, which is also that of `align-jax data img2dataset`.
"""

import functools
import os
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from align_jax.cores import usable_cores
from align_jax.data.collections.item import MAX_IMAGE_BYTES, MAX_TEXT_BYTES, too_large
from align_jax.data.collections.metadata import MetadataError, carried_values
from align_jax.data.collections.names import shown
from align_jax.data.collections.tar import IMAGE_MEMBERS, Sample, samples
from align_jax.data.records import DatasetError, DatasetNotPreparedError, PairRecord, RecordError
from align_jax.data.stall import set_worker
from align_jax.files import replaced

INDEX_FOLDER = "index"
_KEY_BYTES = 100
_FIELDS = [("image", "<i8"), ("image_bytes", "<i8"), ("text", "<i8"), ("text_bytes", "<i8"), ("is_json", "?")]
_ALONE_TARS = 8


@dataclass(frozen=True)
class TarPairs:
    """A folder of tars.

    Attributes:
      folder: of the tars, such as the `output_folder` of img2dataset with `output_format` webdataset.
      index_folder: where the index files are; `index` in the folder of the tars where `None`.
    """

    folder: str
    index_folder: str | None = None

    @property
    def description(self) -> str:
        """What the order of examples follows from, besides the number of records."""
        return f"tars of {Path(self.folder).absolute().name}"

    def open(self) -> "TarSource":
        """A random-access source of the samples; reads the headers of tars that were not read before.

        Raises:
          DatasetNotPreparedError: there is no such folder, or no tar in it.
          DatasetError: there is no pair in the tars, or no index can be written.
        """
        folder = Path(self.folder)
        tars = sorted(path for path in folder.glob("*.tar") if path.is_file()) if folder.is_dir() else []
        if not tars:
            raise DatasetNotPreparedError(f"there is no tar in {folder}; give the output_folder of img2dataset")
        index_folder = Path(self.index_folder) if self.index_folder else folder / INDEX_FOLDER
        pairs = [(str(tar), str(_index_file(tar, index_folder))) for tar in tars]
        try:
            index_folder.mkdir(parents=True, exist_ok=True)
            _write_missing([pair for pair in pairs if not Path(pair[1]).exists()])
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise DatasetError(
                f"no index can be written to {index_folder}: {error.strerror}; name a folder with index_folder"
            ) from error
        source = TarSource(pairs)
        if not len(source):
            raise DatasetError(f"the tars in {folder} hold no samples; were they downloaded?")
        return source


class TarSource(Sequence[PairRecord]):
    """The samples of several tars by number; opens a tar when it reads from it."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._pairs = list(pairs)
        self._lengths = [len(_index(index)) for _, index in pairs]
        self._ends = list(accumulate(self._lengths))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: SupportsIndex) -> PairRecord:  # pyrefly: ignore[bad-override]
        """The pair at `index`.

        Raises:
          IndexError: there is no such sample.
          RecordError: it is no pair.
        """
        position = index.__index__()
        if not 0 <= position < len(self):
            raise IndexError(f"record {position} of {len(self)}")
        tar, entry = self._entry(position)
        key = bytes(entry["key"]).decode("utf-8", "replace")
        where = f"sample {key} of {tar}"
        if entry["image_bytes"] < 0 or entry["text_bytes"] < 0:
            raise RecordError(f"{where} has no {'image' if entry['image_bytes'] < 0 else 'caption'} that can be used")
        if entry["image_bytes"] > MAX_IMAGE_BYTES:
            raise RecordError(f"{where}: {too_large(int(entry['image_bytes']))}")
        descriptor = os.open(tar, os.O_RDONLY)
        try:
            image, text = (_read(descriptor, int(entry[one]), int(entry[f"{one}_bytes"])) for one in ("image", "text"))
        finally:
            os.close(descriptor)
        caption = _caption(text, bool(entry["is_json"]), where)
        return PairRecord(key, image, (caption,))

    def place(self, index: int) -> str:
        """Which tar the record at `index` lies in, and where in it."""
        tar, entry = self._entry(index)
        return f"byte {entry['image']} of {tar}"

    def _entry(self, position: int) -> tuple[str, Any]:
        tar = bisect_right(self._ends, position)
        path, index = self._pairs[tar]
        return path, _index(index)[position - (self._ends[tar] - self._lengths[tar])]


def write_index(tar: str, index: str) -> None:
    """Reads the headers of a tar and writes its index: a row for each sample, in the order of keys."""
    with open(tar, "rb", buffering=0) as file:  # noqa: PTH123
        found = sorted(((sample.key, _row(sample)) for sample in samples(file)), key=lambda one: one[0])
    keys = [shown(key).encode()[:_KEY_BYTES] for key, _ in found]
    width = max([1, *map(len, keys)])
    rows = [(key, *row) for key, (_, row) in zip(keys, found, strict=True)]
    with replaced(Path(index)) as temporary, temporary.open("wb") as file:
        np.save(file, np.array(rows, [("key", f"S{width}"), *_FIELDS]))


def _row(sample: Sample) -> tuple[int, int, int, int, bool]:
    images = [member for suffix, member in sample.members.items() if suffix in IMAGE_MEMBERS]
    text = sample.members.get("txt") or sample.members.get("json")
    image = images[0] if len(images) == 1 and sample.problem is None else None
    return (
        image.body if image else 0, image.size_bytes if image else -1,
        text.body if text else 0, text.size_bytes if text and text.size_bytes <= MAX_TEXT_BYTES else -1,
        text is not None and "txt" not in sample.members,
    )  # fmt: skip


def _caption(content: bytes, is_json: bool, where: str) -> str:
    try:
        text = (carried_values(["caption"], content, None)["caption"] or "") if is_json else content.decode()
    except (MetadataError, UnicodeDecodeError) as error:
        raise RecordError(f"the caption of {where} cannot be read: {error}") from error
    if not (caption := " ".join(text.split())):
        raise RecordError(f"{where} has no caption that can be used")
    return caption


def _read(descriptor: int, offset: int, size: int) -> bytes:
    parts = []
    while size and (part := os.pread(descriptor, size, offset)):  # may give less than it is asked for
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return b"".join(parts)


def _index_file(tar: Path, folder: Path) -> Path:
    """Named by size and time of change, so that a tar that was written again has another one."""
    status = tar.stat()
    return folder / f"{tar.stem}-{status.st_size}-{status.st_mtime_ns}.npy"


def _write_missing(pairs: Sequence[tuple[str, str]]) -> None:
    if len(pairs) <= _ALONE_TARS:
        for tar, index in pairs:
            write_index(tar, index)
        return
    workers = usable_cores()
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=set_worker, initargs=(1,)) as pool:
        for _ in pool.map(write_index, *zip(*pairs, strict=True), chunksize=4):
            pass


@functools.lru_cache(maxsize=4096)
def _index(path: str) -> Any:
    return np.load(path, mmap_mode="r", allow_pickle=False)
