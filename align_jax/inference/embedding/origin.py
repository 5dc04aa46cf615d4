"""Where the embeddings of a folder come from: the model that made them."""

from collections.abc import Mapping
from typing import Any

from align_jax.inference.embedding.folder import EmbeddingFolderError


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
