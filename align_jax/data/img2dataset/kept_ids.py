"""Which rows of shards a filter has kept: the ids that `align-jax data filter` writes of img2dataset's output."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from align_jax.data.arrow import parquet
from align_jax.data.collections import CollectionError
from align_jax.data.img2dataset.shards import Shards
from align_jax.data.noise.output import KEPT, schemas


def keep_only(shards: Shards, folder: Path) -> Shards:
    """The shards, told which of their rows to keep.

    Args:
      shards: of an input of img2dataset.
      folder: the `--output` of `align-jax data filter` for that input.

    Raises:
      CollectionError: it is no such folder, or that of another input.
    """
    keys: dict[str, list[str]] = defaultdict(list)
    known = {shard.name for shard in shards.shards}
    for name in _ids(folder):
        shard, _, key = name.partition(".")[0].rpartition("/")  # of files the id has a suffix
        if shard not in known:
            raise CollectionError(f"{folder} keeps {name!r}, of a shard that is not there; filter this very input")
        keys[shard].append(key)
    return Shards(shards.layout, tuple(replace(one, kept="\n".join(sorted(keys[one.name]))) for one in shards.shards))


def _ids(folder: Path) -> Iterator[str]:
    arrow, files = parquet(f"reading {folder}")
    paths = sorted((folder / KEPT).glob("*.parquet"))
    if not paths:
        raise CollectionError(f"{folder} has no files {KEPT}/*.parquet; give the --output of align-jax data filter")
    for path in paths:
        try:
            with files.ParquetFile(path) as file:
                if not file.schema_arrow.equals(schemas(None)[KEPT]):
                    raise CollectionError(f"{path} holds rows of a table; filter what img2dataset has downloaded")
                for batch in file.iter_batches(columns=["id"]):
                    yield from batch.column("id").to_pylist()
        except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise CollectionError(f"{path} is not a whole Parquet file: {error}; filter again") from error
