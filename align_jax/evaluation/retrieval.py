"""Retrieval between images and captions: recall@1, 5 and 10 in both directions (arXiv 2102.05918, section 5.1)."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from align_jax.metrics import match_ranks, recall_at


@dataclasses.dataclass(frozen=True)
class RetrievalSet:
    """Embedded images and captions, and which belong together.

    Attributes:
        images: unit-length embeddings.
        image_ids: a number per image.
        texts: unit-length embeddings.
        text_ids: the number of the image that a caption describes; an image may have several captions.
    """

    images: Float[np.ndarray, "I D"]
    image_ids: Int[np.ndarray, "I"]
    texts: Float[np.ndarray, "N D"]
    text_ids: Int[np.ndarray, "N"]


def recall(
    gallery: RetrievalSet, query_ids: Int[np.ndarray, "Q"], cutoffs: tuple[int, ...] = (1, 5, 10)
) -> dict[str, float]:
    """Recall of the images and captions whose number is among `query_ids`, against the whole gallery.

    Args:
        gallery: everything that is searched, the queries included.
        query_ids: numbers of the images (and their captions) that are queries.
        cutoffs: a query counts where something of its own number is among the first k.

    Returns:
        `image_to_text_recall@k` and `text_to_image_recall@k` for each cutoff.
    """
    directions = {
        "image_to_text": (gallery.images, gallery.image_ids, gallery.texts, gallery.text_ids),
        "text_to_image": (gallery.texts, gallery.text_ids, gallery.images, gallery.image_ids),
    }
    results = {}
    for direction, (queries, ids, searched, searched_ids) in directions.items():
        absent = np.setdiff1d(query_ids, ids)
        if absent.size or not query_ids.size:
            raise ValueError(
                f"{absent.size} of {query_ids.size} queries of {direction} are not in the gallery, such as "
                f"{absent[:3].tolist()}; it must hold the images and captions of at least one query, and of all"
            )
        asked = np.isin(ids, query_ids)
        ranks = match_ranks(*map(jnp.asarray, (queries[asked], ids[asked], searched, searched_ids)))
        results |= {f"{direction}_recall@{k}": float(recall_at(ranks, k)) for k in cutoffs}
    return results


def nearest(
    queries: Float[np.ndarray, "Q D"], gallery: Float[np.ndarray, "N D"], count: int
) -> tuple[Int[np.ndarray, "Q K"], Float[np.ndarray, "Q K"]]:
    """The `count` best items of the gallery for each query, best first, and their cosines."""
    scores_QxN = queries @ gallery.T
    best_QxK = np.argsort(-scores_QxN, axis=1, kind="stable")[:, :count]
    return best_QxK, np.take_along_axis(scores_QxN, best_QxK, axis=1)
