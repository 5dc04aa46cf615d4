"""The folder that `align-jax embed` makes, for whoever reads embeddings.

    part-00000.parquet …   id, embedding (fixed-size list of float32, of unit length), columns that were carried along
    embeddings.json        the model, its preprocessing and type, the input, and how many were embedded and refused
    refused.jsonl          id and reason of every input that has no embedding

Rows of all parts in order are the inputs in order.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from align_jax.inference.embedding.part import part_name, read_rows

METADATA_FILE = "embeddings.json"
REFUSED_FILE = "refused.jsonl"


class EmbeddingFolderError(ValueError):
    """A folder does not hold finished embeddings."""


@dataclass(frozen=True)
class EmbeddingFolder:
    """Embeddings in memory.

    Attributes:
        ids: of the rows; each once.
        embeddings: one of unit length for each id.
        columns: values that were carried along, by name, one for each id.
        metadata: what `embeddings.json` says.
    """

    ids: list[str]
    embeddings: Float32[np.ndarray, "N D"]
    columns: dict[str, list[Any]]
    metadata: dict[str, Any]


def read_embeddings(folder: str | Path, columns: Sequence[str] | None = None) -> EmbeddingFolder:
    """Reads a folder of `align-jax embed`.

    Args:
        folder: the `--output` of a run that has finished.
        columns: those of the carried columns that are wanted; all of them where `None`.

    Raises:
        FileNotFoundError: if it is not such a folder.
        EmbeddingFolderError: if the run has not finished, or a column is not there.
        PartError: if a part is damaged.
    """
    folder = Path(folder)
    metadata = read_metadata(folder)
    if not metadata["finished"]:
        raise EmbeddingFolderError(f"{folder} is not finished; run the command that makes it again, and it continues")
    wanted = list(metadata["columns"] if columns is None else columns)
    if missing := [name for name in wanted if name not in metadata["columns"]]:
        known = ", ".join(metadata["columns"]) or "none"
        raise EmbeddingFolderError(f"{folder} has no column {' and no '.join(missing)}; carried along were: {known}")
    count = metadata["counts"]["embedded"]
    embeddings = np.empty((count, metadata["embedding_size"]), np.float32)
    ids: list[str] = []
    carried: dict[str, list[Any]] = {name: [] for name in wanted}
    for index in range(metadata["parts"]):
        path = folder / part_name(index)
        part_ids, rows, values = read_rows(path, wanted)
        if rows.shape[1] != embeddings.shape[1] or len(ids) + len(rows) > count:
            raise EmbeddingFolderError(
                f"{path} does not belong to {folder / METADATA_FILE}: {rows.shape[0]} rows of size {rows.shape[1]} "
                f"after {len(ids)} of {count} rows of size {embeddings.shape[1]}; embed again into an empty folder"
            )
        embeddings[len(ids) : len(ids) + len(rows)] = rows
        ids += part_ids
        for name in wanted:
            carried[name] += values[name]
    if len(ids) != count:
        raise EmbeddingFolderError(f"{folder} holds {len(ids)} embeddings of {count}; embed again into an empty folder")
    return EmbeddingFolder(ids, embeddings, carried, metadata)


def read_refused(folder: str | Path) -> list[tuple[str, str]]:
    """Id and reason of every input without embedding.

    Raises:
        EmbeddingFolderError: if the list of them is not what `align-jax embed` writes.
    """
    path = Path(folder) / REFUSED_FILE
    if not path.is_file():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        return [(line["id"], line["reason"]) for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise EmbeddingFolderError(f"{path} is damaged: {error}; embed again into an empty folder") from error


def read_metadata(folder: str | Path) -> dict[str, Any]:
    """What `embeddings.json` says.

    Raises:
        FileNotFoundError: if there is none.
        EmbeddingFolderError: if it is not what `align-jax embed` writes.
    """
    path = Path(folder) / METADATA_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {METADATA_FILE}; make it with `align-jax embed --output {folder} …`")
    try:
        metadata = json.loads(path.read_bytes())
    except ValueError as error:
        raise EmbeddingFolderError(f"{path} is not JSON: {error}; embed again into an empty folder") from error
    missing = {"finished", "columns", "counts", "parts", "embedding_size"} - set(
        metadata if isinstance(metadata, dict) else ()
    )
    if missing:
        raise EmbeddingFolderError(f"{path} has no {' and no '.join(sorted(missing))}; embed again into another folder")
    return metadata
