"""Where the embeddings of a folder come from: the model that made them, and the input."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align_jax.data.collections import Collection, CollectionError, Options, open_images, open_texts
from align_jax.inference.embedding.folder import EmbeddingFolderError
from align_jax.inference.embedding.identity import known_files


def require_model(metadata: Mapping[str, Any], digest: str, *, index: str, model: str) -> None:
    """Refuses to compare embeddings of different models, which would find something, but nothing that is meant.

    Args:
        metadata: of the embedding folder.
        digest: of the model that embeds the queries.
        index: what an error calls the folder.
        model: what an error calls the model.

    Raises:
        EmbeddingFolderError: if they were made with another model.
    """
    made = metadata.get("model")
    made = made if isinstance(made, dict) else {}
    if made.get("digest") != digest:
        raise EmbeddingFolderError(
            f"{index} was embedded with {made.get('source') or 'an unknown model'} (digest "
            f"{str(made.get('digest'))[:12]}), and {model} is another model (digest {digest[:12]}); search with "
            "the same model and --weights, or embed again into another folder"
        )


def reopen(folder: Path, metadata: Mapping[str, Any]) -> Collection:
    """Opens the input that a folder was made from, read as it was then.

    Args:
        folder: of the embeddings.
        metadata: of the folder.

    Raises:
        CollectionError: if it is not there any more, cannot be read as it was, or has changed.
    """
    made = metadata.get("input", {})
    first, *more = made.get("source") or ["its input"]
    source = f"{first} (and {len(more)} more)" if more else first
    try:
        collection = (open_images if metadata["content"] == "images" else open_texts)(
            made["source"],
            Options(tuple(metadata["columns"]), made["form"], **made["options"]),
            known_files(folder),
        )
        digest = collection.digest
    except KeyError as error:
        raise CollectionError(
            f"{folder} does not say how {source} was read; embed it again into another folder"
        ) from error
    except (CollectionError, OSError) as error:
        raise CollectionError(f"the input of {folder} cannot be opened: {error}") from error
    if digest != made["digest"]:
        raise CollectionError(
            f"{source} has changed since {folder} was made from it; embed it again into another folder"
        )
    return collection
