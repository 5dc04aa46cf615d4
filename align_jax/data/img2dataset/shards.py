"""Finds what img2dataset has written: the files of each shard, and shards that are missing.

| layout | images and texts | beside them |
|---|---|---|
| webdataset | `00000.tar` | `00000.parquet` (a row for every URL), `00000_stats.json` |
| tfrecord | `00000.tfrecord` | the same |
| files | `00000/000000000.jpg`, `.txt`, `.json` | the same |
| parquet | `00000.parquet`, with images | `00000_stats.json` |

Shards are numbered from 0 without gaps, so a number that is left out is a shard that is missing.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from align_jax.data.arrow import parquet
from align_jax.data.collections import CollectionError
from align_jax.data.collections.parquet import IMAGE_COLUMNS
from align_jax.data.collections.stamps import stamp_of

Layout = Literal["webdataset", "tfrecord", "parquet", "files"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

_STATS_SUFFIX = "_stats"
_MAX_STATS_BYTES = 2**20
_MAX_SHARDS = 10**7


@dataclass(frozen=True)
class Shard:
    """The files of one shard; `None` for what is not there.

    Attributes:
      name: its number, as it is written.
      data: the tar, TFRecord or Parquet file, or the folder, that has the images.
      table: the Parquet file with a row for every URL, the failed ones too.
      stats: the file of counts that is written when the shard is finished.
      kept: the keys that a filter has kept, one a line; `None` where there was none.
    """

    name: str
    data: Path | None
    table: Path | None
    stats: Path | None
    kept: str | None = None

    def stamp(self) -> list[str]:
        """Changes whenever somebody writes one of the files, or other keys are kept."""
        files = [stamp_of(path) if path else "" for path in (self.data, self.table, self.stats)]
        return files if self.kept is None else [*files, hashlib.sha256(self.kept.encode()).hexdigest()]

    def counted_rows(self) -> int | None:
        """How many rows the file of counts says there are; `None` where nothing is known."""
        if self.stats is None or self.stats.stat().st_size > _MAX_STATS_BYTES:
            return None
        try:
            stats: Any = json.loads(self.stats.read_bytes())
            count = stats["count"]
        except (ValueError, RecursionError, KeyError, TypeError):
            return None
        return count if type(count) is int and 0 <= count < 2**40 else None


@dataclass(frozen=True)
class Shards:
    """Everything in a folder of img2dataset.

    Attributes:
      layout: of all shards.
      shards: in the order of their numbers; those that are missing too, without data.
    """

    layout: Layout
    shards: tuple[Shard, ...]

    @property
    def missing(self) -> list[Shard]:
        """Shards whose images are not there."""
        return [shard for shard in self.shards if shard.data is None]


def find_shards(folder: Path, layout: Layout | None = None) -> Shards:
    """Looks through a folder.

    Args:
      folder: the `output_folder` of img2dataset.
      layout: found out where `None`.

    Raises:
      FileNotFoundError: there is no such folder.
      CollectionError: it holds no shards, or those of several layouts.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give the output_folder of img2dataset")
    found: dict[str, dict[str, Path]] = {kind: {} for kind in (".tar", ".tfrecord", ".parquet", ".json", "folder")}
    for path in sorted(folder.iterdir()):
        kind = "folder" if path.is_dir() else path.suffix
        stem = path.name if path.is_dir() else path.stem
        name = stem.removesuffix(_STATS_SUFFIX) if kind == ".json" else stem
        if kind in found and name.isascii() and name.isdigit() and (kind != ".json" or stem != name):
            found[kind][name] = path
    layout = layout or _layout(folder, found)
    data = found[{"webdataset": ".tar", "tfrecord": ".tfrecord", "parquet": ".parquet", "files": "folder"}[layout]]
    tables, stats = found[".parquet"], found[".json"]
    if not data:
        raise CollectionError(
            f"{folder} holds no shards of the layout {layout}, such as 00000.tar; give another folder"
        )
    names = _with_gaps(data.keys() | tables.keys() | stats.keys(), folder)
    return Shards(layout, tuple(Shard(one, data.get(one), tables.get(one), stats.get(one)) for one in names))


def _layout(folder: Path, found: dict[str, dict[str, Path]]) -> Layout:
    layouts: list[Layout] = []
    if found[".tar"]:
        layouts.append("webdataset")
    if found[".tfrecord"]:
        layouts.append("tfrecord")
    if found["folder"]:
        layouts.append("files")
    if not layouts and found[".parquet"]:
        arrow, files = parquet(f"reading {folder}")
        for path in found[".parquet"].values():
            try:
                names = files.read_schema(path).names
            except (arrow.ArrowException, OSError, UnicodeDecodeError):  # this one is damaged, the next need not be
                continue
            if set(IMAGE_COLUMNS) & set(names):
                layouts.append("parquet")
            break
    if len(layouts) != 1:
        what = f"shards of the layouts {' and '.join(layouts)}; choose with --layout" if layouts else "no shards"
        raise CollectionError(f"{folder} holds {what}; give the output_folder of img2dataset")
    return layouts[0]


def _with_gaps(names: set[str], folder: Path) -> list[str]:
    """All numbers from 0 to the largest one, written as the others are."""
    numbers = {int(name): name for name in names}
    if len(numbers) < len(names):
        raise CollectionError(f"{folder} holds two shards of one number, written with more and fewer zeros; rename one")
    last, width = max(numbers), min(map(len, names))
    if last > _MAX_SHARDS:
        raise CollectionError(f"{folder} holds a shard number {last}; img2dataset counts from 0, so it is none of its")
    return [numbers.get(number, f"{number:0{width}}") for number in range(last + 1)]
