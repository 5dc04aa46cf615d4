"""The Parquet table of a shard: a row for every URL, with its status and metadata."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align_jax.data.arrow import parquet
from align_jax.data.collections import CollectionError
from align_jax.data.collections.parquet import MAX_UNPACKED_BYTES
from align_jax.data.collections.parquet_footer import wanted_sizes
from align_jax.data.img2dataset.columns import Column, columns_of_schema

KEY, STATUS, ERROR, CAPTION, URL, SHA256 = "key", "status", "error_message", "caption", "url", "sha256"
_STRINGS = (KEY, STATUS, ERROR, CAPTION, URL, SHA256)
_MAX_ROWS = 10**7
_BATCH_ROWS = 8192


@dataclass(frozen=True)
class SideTable:
    """The rows of one shard.

    Attributes:
      columns: that were asked for, with their types.
      rows: values by key, of these columns and of those that img2dataset always has.
      repeated: keys of rows that were left out, as an earlier row has the same or there is none.
    """

    columns: tuple[Column, ...]
    rows: dict[str, dict[str, Any]]
    repeated: list[str]


def read_schema(path: Path) -> Any:
    """The Arrow schema of a table.

    Raises:
      CollectionError: if it cannot be read.
    """
    arrow, files = parquet(f"reading {path}")
    try:
        return files.read_schema(path)
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CollectionError(f"{path} is not a whole Parquet file: {error}") from error


def read_table(path: Path, names: Sequence[str]) -> SideTable:
    """Reads a table, or the part of a shard in Parquet that is not images.

    Args:
      path: of the table.
      names: of the columns that are wanted.

    Raises:
      CollectionError: if it cannot be read, is larger than makes sense, or has columns of other types.
    """
    arrow, files = parquet(f"reading {path}")
    schema = read_schema(path)
    columns = columns_of_schema(names, schema, str(path))
    strings = [name for name in _STRINGS if name in schema.names]
    if KEY not in strings:
        raise CollectionError(f"{path} has no column {KEY}, as tables of img2dataset have")
    types = arrow.types
    for name in strings:
        if not (types.is_string(schema.field(name).type) or types.is_large_string(schema.field(name).type)):
            raise CollectionError(f"{path}: column {name} is of type {schema.field(name).type}, not string")
    rows: dict[str, dict[str, Any]] = {}
    repeated: list[str] = []
    wanted = [*dict.fromkeys([*strings, *names])]
    try:
        with files.ParquetFile(path) as file:
            _refuse_bomb(path, file, wanted)
            for batch in file.iter_batches(_BATCH_ROWS, columns=wanted):
                for row in batch.to_pylist():
                    key = row[KEY]
                    if not key or key in rows:
                        repeated.append(str(key))
                    else:
                        rows[key] = row
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CollectionError(f"{path} cannot be read: {error}") from error
    return SideTable(columns, rows, repeated)


def _refuse_bomb(path: Path, file: Any, wanted: Sequence[str]) -> None:
    if file.metadata.num_rows > _MAX_ROWS:
        raise CollectionError(f"{path} has {file.metadata.num_rows} rows; the limit for one shard is {_MAX_ROWS}")
    unpacked = sum(size.unpacked for sizes in wanted_sizes(path, file, wanted) for size in sizes)
    if unpacked > MAX_UNPACKED_BYTES:
        raise CollectionError(f"{path} unpacks to {unpacked} bytes; the limit for one shard is {MAX_UNPACKED_BYTES}")
