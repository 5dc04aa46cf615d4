"""Ids of images that are near-duplicates of evaluation images, from folders of `align-jax embed`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from align_jax.data.noise.near_duplicates import near_rows
from align_jax.inference.embedding.folder import EmbeddingFolderError, read_embeddings, read_metadata
from align_jax.inference.embedding.part import part_name, read_rows


@dataclass(frozen=True)
class NearSearch:
    """A search that is ready to begin, part by part.

    Attributes:
        parts: files with the embeddings of the collection.
        evaluation: embeddings of the evaluation images.
        cosine: above it, two images are near-duplicates.
    """

    parts: tuple[Path, ...]
    evaluation: Float32[np.ndarray, "M D"]
    cosine: float

    def ids(self, part: Path) -> list[str]:
        """The near-duplicates in one part."""
        ids, rows, _ = read_rows(part, [])
        return [ids[index] for index in np.flatnonzero(near_rows(rows, self.evaluation, self.cosine))]


def near_search(folder: Path, evaluation: Sequence[Path], cosine: float, input_digest: str) -> NearSearch:
    """Checks that folders belong together.

    Args:
        folder: embeddings of the collection that is filtered.
        evaluation: folders with embeddings of evaluation images.
        cosine: above it, two images are near-duplicates.
        input_digest: of the collection.

    Raises:
        FileNotFoundError: if a folder holds no embeddings.
        EmbeddingFolderError: if one is not finished, or is of another collection, or of another model.
    """
    metadata = read_metadata(folder)
    if not metadata["finished"]:
        raise EmbeddingFolderError(f"{folder} is not finished; run the command that makes it again, and it continues")
    if metadata.get("input", {}).get("digest") != input_digest:
        raise EmbeddingFolderError(f"{folder} holds embeddings of another input; embed the collection that is filtered")
    rows = []
    for path in evaluation:
        one = read_embeddings(path, [])
        if one.metadata.get("model", {}).get("digest") != metadata.get("model", {}).get("digest"):
            raise EmbeddingFolderError(f"{path} and {folder} are of different models; embed both with the same")
        rows.append(one.embeddings)
    parts = tuple(folder / part_name(index) for index in range(metadata["parts"]))
    return NearSearch(parts, np.concatenate(rows), cosine)
