"""One file of an embedding folder: the embeddings of a slice of the input, and what of it was refused.

A part is a Parquet file with the columns `id` (string), `embedding` (fixed-size list of float32) and those that are
carried along. Its key-value metadata, under `align_jax.part`, says which slice of which run it is, and lists the inputs
that were refused. So everything that is known of the slice appears in one moment, when the file gets its name.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from align_jax.data.arrow import parquet
from align_jax.files import naming_full_disk, replaced

FULL_DISK_ADVICE = "the parts that are there are whole, so make room and run the same command again"

_METADATA_KEY = b"align_jax.part"
_ROW_GROUP_ROWS = 8192


class PartError(ValueError):
    """A file is not a part, or is damaged."""


@dataclass(frozen=True)
class Part:
    """What a part holds besides its embeddings.

    Attributes:
        run: digest of everything that the embeddings depend on.
        start: position of its first input in the collection.
        stop: position behind its last input.
        rows: inputs that were embedded.
        refused: id and reason of the others, in order.
    """

    run: str
    start: int
    stop: int
    rows: int
    refused: tuple[tuple[str, str], ...]


def part_name(index: int) -> str:
    """The name of a part; they are numbered in the order of the input."""
    return f"part-{index:05d}.parquet"


def write_part(
    path: Path,
    part: Part,
    ids: Sequence[str],
    embeddings: Float32[np.ndarray, "N D"],
    columns: Mapping[str, Sequence[Any]],
    column_types: Mapping[str, Any],
) -> None:
    """Writes a part, which appears whole or not at all.

    Args:
        path: of the file.
        part: which slice it is.
        ids: of the rows.
        embeddings: of the rows.
        columns: carried values of the rows, by name.
        column_types: their types in Arrow; those without one are strings.

    Raises:
        DiskFullError: if there is no room for it.
    """
    arrow, files = parquet(f"writing {path}")
    size = embeddings.shape[1]
    vectors = arrow.FixedSizeListArray.from_arrays(arrow.array(embeddings.reshape(-1), arrow.float32()), size)
    carried = {name: arrow.array(columns[name], column_types.get(name) or arrow.string()) for name in columns}
    description = {"run": part.run, "start": part.start, "stop": part.stop, "refused": part.refused}
    table = arrow.table({"id": arrow.array(ids, arrow.string()), "embedding": vectors, **carried})
    table = table.replace_schema_metadata({_METADATA_KEY: json.dumps(description)})
    with naming_full_disk(path.parent, FULL_DISK_ADVICE), replaced(path) as temporary:
        files.write_table(
            table,
            temporary,
            row_group_size=_ROW_GROUP_ROWS,
            compression={name: "NONE" if name.startswith("embedding") else "ZSTD" for name in _leaves(table)},
            use_dictionary=False,
            write_statistics=False,
        )


def read_part(path: Path) -> Part:
    """What a part holds, without its embeddings.

    Raises:
        FileNotFoundError: if there is no such file.
        PartError: if it is not a part, or cut.
    """
    metadata = _opened(path).metadata
    try:
        description = json.loads((metadata.metadata or {})[_METADATA_KEY])
        refused = tuple((str(name), str(reason)) for name, reason in description["refused"])
        part = Part(description["run"], int(description["start"]), int(description["stop"]), metadata.num_rows, refused)
    except (KeyError, ValueError, TypeError) as error:
        raise PartError(f"{path} was not written by align-jax embed: it does not say which part it is") from error
    if part.rows + len(part.refused) != part.stop - part.start:
        raise PartError(f"{path} holds {part.rows} rows and {len(part.refused)} refusals of {part.stop - part.start}")
    return part


def read_rows(path: Path, columns: Sequence[str]) -> tuple[list[str], Float32[np.ndarray, "N D"], dict[str, list[Any]]]:
    """The ids, embeddings and carried columns of a part.

    Raises:
        FileNotFoundError: if there is no such file.
        PartError: if it is damaged, or lacks a column.
    """
    arrow, _ = parquet(f"reading {path}")
    opened = _opened(path)
    if missing := {"id", "embedding", *columns} - set(opened.schema_arrow.names):
        raise PartError(f"{path} has no column {' and no '.join(sorted(missing))}")
    try:
        table = opened.read(columns=["id", "embedding", *columns])
    except (arrow.ArrowException, OSError) as error:
        raise PartError(f"{path} is damaged: {error}") from error
    vectors = table["embedding"].type
    if not arrow.types.is_fixed_size_list(vectors) or vectors.value_type != arrow.float32():
        raise PartError(f"{path}: column embedding is of type {vectors}, not a fixed-size list of float32")
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table["embedding"].chunks]
    embeddings = np.concatenate(chunks) if chunks else np.empty(0, np.float32)
    if len(embeddings) != len(table) * vectors.list_size:
        raise PartError(f"{path}: column embedding has rows without a value")
    ids = table["id"].to_pylist()
    return ids, embeddings.reshape(len(ids), vectors.list_size), {name: table[name].to_pylist() for name in columns}


def read_ids(path: Path) -> list[str]:
    """The ids of a part.

    Raises:
        FileNotFoundError: if there is no such file.
        PartError: if it is damaged.
    """
    arrow, _ = parquet(f"reading {path}")
    try:
        return _opened(path).read(columns=["id"])["id"].to_pylist()
    except (arrow.ArrowException, OSError, KeyError) as error:
        raise PartError(f"{path} is damaged: {error}") from error


def _opened(path: Path) -> Any:
    arrow, files = parquet(f"reading {path}")
    try:
        return files.ParquetFile(path)
    except FileNotFoundError:
        raise
    except (arrow.ArrowException, OSError) as error:
        raise PartError(f"{path} is damaged: {error}") from error


def _leaves(table: Any) -> list[str]:
    """The paths of the columns as Parquet stores them."""
    paths = []
    for field in table.schema:
        nested = field.type.num_fields > 0
        paths.append(f"{field.name}.list.element" if nested else field.name)
    return paths
