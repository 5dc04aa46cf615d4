"""Finds images and their captions in a folder or in a list.

A folder holds images of any depth, each with its captions in a `.txt` file of the same name, one caption a line. A list
is a CSV, TSV, JSONL or Parquet file with a column of image paths and one of captions (an image may stand in several
rows, and in JSONL and Parquet a caption may be a list of captions), or a `.txt` file of image paths, one a line, with
the captions beside the images. Paths are relative to the folder, or to the folder of the list, and stay inside it.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from align_jax.data.records import DatasetError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
LIST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".txt")


@dataclass(frozen=True)
class Skipped:
    """Something that is no image-text pair."""

    name: str
    reason: str


@dataclass(frozen=True)
class CaptionedFiles:
    """Images that exist, with their captions, and what was left out.

    Attributes:
      root: the folder that the names are relative to.
      captions: at least one caption for each image, by the name of the image.
      skipped: what has no image or no caption.
    """

    root: Path
    captions: dict[str, tuple[str, ...]]
    skipped: list[Skipped] = field(default_factory=list)


def find_captioned_files(
    source: str | Path,
    image_root: str | Path | None = None,
    image_column: str = "image",
    caption_column: str = "caption",
) -> CaptionedFiles:
    """Reads a folder or a list; see the file's docstring for what they look like.

    Args:
      source: folder or list.
      image_root: the folder that the paths of a list are relative to, where it is not that of the list.
      image_column: the column of a list that holds the image paths.
      caption_column: the column that holds the captions.

    Raises:
      FileNotFoundError: `source` is not there.
      DatasetError: the list cannot be read, lacks a column, or names a path outside the folder.
    """
    source = Path(source)
    if source.is_dir():
        root = source
        rows = _captions_beside(root, _images_in(root))
    elif source.is_file():
        root = source.parent if image_root is None else Path(image_root)
        if source.suffix.lower() == ".txt":
            rows = _captions_beside(root, (_inside(name, source) for name in _lines(source)))
        else:
            rows = _list_rows(source, image_column, caption_column)
    else:
        raise FileNotFoundError(f"{source} does not exist; give a folder of images or a list of them")
    found: dict[str, dict[str, None]] = {}
    skipped: dict[Skipped, None] = {}
    for name, texts in rows:
        captions = [text for text in (" ".join(str(text).split()) for text in texts) if text]
        if not (root / name).is_file():
            skipped[Skipped(name, "the image does not exist")] = None
        elif not captions:
            skipped[Skipped(name, "it has no caption")] = None
        else:
            found.setdefault(name, {}).update(dict.fromkeys(captions))
    return CaptionedFiles(root, {name: tuple(found[name]) for name in sorted(found)}, list(skipped))


def _images_in(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            yield path.relative_to(folder).as_posix()


def _captions_beside(root: Path, names: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    for name in names:
        beside = (root / name).with_suffix(".txt")
        yield name, _lines(beside) if beside.is_file() else []


def _list_rows(source: Path, image_column: str, caption_column: str) -> Iterator[tuple[str, list[Any]]]:
    readers = {".csv": _csv_rows, ".tsv": _csv_rows, ".jsonl": _json_rows, ".parquet": _parquet_rows}
    reader = readers.get(source.suffix.lower())
    if reader is None:
        raise DatasetError(f"{source} is not a list that is known; use a folder, or {', '.join(LIST_SUFFIXES)}")
    for number, row in enumerate(reader(source), start=1):
        missing = [column for column in (image_column, caption_column) if column not in row]
        if missing:
            raise DatasetError(
                f"row {number} of {source} has no column {' and no '.join(missing)}, but {', '.join(map(str, row))}; "
                "name the columns with --image-column and --caption-column"
            )
        captions = row[caption_column]
        if captions is None:
            captions = []
        yield _inside(str(row[image_column]), source), captions if isinstance(captions, list) else [captions]


def _csv_rows(source: Path) -> Iterator[dict[str, Any]]:
    with source.open(encoding="utf-8-sig", newline="") as file:
        try:
            yield from csv.DictReader(file, delimiter="\t" if source.suffix.lower() == ".tsv" else ",")
        except (csv.Error, UnicodeDecodeError) as error:
            raise DatasetError(f"{source} cannot be read as UTF-8 text with columns: {error}") from error


def _json_rows(source: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(source), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DatasetError(f"line {number} of {source} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DatasetError(f"line {number} of {source} is not a JSON object but {line[:40]!r}")
        yield row


def _parquet_rows(source: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow  # noqa: PLC0415
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise DatasetError(f"reading {source} needs `pip install align_jax[parquet]`") from error
    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise DatasetError(f"{source} is not a Parquet file: {error}") from error


def _lines(path: Path) -> list[str]:
    """The lines that are not blank."""
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text: {error}") from error


def _inside(name: str, source: Path) -> str:
    """The path in its shortest form; one that leaves the folder is an error."""
    parts: list[str] = []
    for part in PurePosixPath(name.strip().replace("\\", "/")).parts:
        if part == "..":
            if not parts:
                raise _outside(name, source)
            parts.pop()
        else:
            parts.append(part)
    if not parts or parts[0] == "/" or parts[0].endswith(":") or "\0" in name:
        raise _outside(name, source)
    return "/".join(parts)


def _outside(name: str, source: Path) -> DatasetError:
    return DatasetError(
        f"image {name!r} of {source} is not a path inside the folder of the images; write paths relative to the folder "
        "of the list, or to another one that --image-root names"
    )
