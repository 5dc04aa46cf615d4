"""Retrieval between images and captions: recall@1, 5 and 10 in both directions (arXiv 2102.05918, section 5.1)."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from align_jax.evaluation.estimates import Bootstrap, Estimate, estimates
from align_jax.evaluation.row_blocks import map_rows
from align_jax.metrics import match_ranks, recall_at
from align_jax.parallel.mesh import MeshShape

CUTOFFS = (1, 5, 10)
"""A query counts for recall@k where something of its own number is among the first k."""


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

    def of(self, image_ids: Int[np.ndarray, "S"]) -> "RetrievalSet":
        """The images of these numbers, and their captions."""
        images, texts = np.isin(self.image_ids, image_ids), np.isin(self.text_ids, image_ids)
        return RetrievalSet(self.images[images], self.image_ids[images], self.texts[texts], self.text_ids[texts])


class QueryRanks(NamedTuple):
    """How many wrong items stand before the first right one of each query."""

    ranks: Int[np.ndarray, "Q"]
    ids: Int[np.ndarray, "Q"]  # numbers of the images that the queries are, or describe


def recall(
    gallery: RetrievalSet,
    query_ids: Int[np.ndarray, "Q"],
    cutoffs: tuple[int, ...] = CUTOFFS,
    mesh: Mesh | None = None,
) -> dict[str, float]:
    """Recall of the images and captions whose number is among `query_ids`, against the whole gallery.

    Args:
        gallery: everything that is searched, the queries included.
        query_ids: numbers of the images (and their captions) that are queries.
        cutoffs: a query counts where something of its own number is among the first k.
        mesh: the queries are spread over it; over all devices when absent.

    Returns:
        `image_to_text_recall@k` and `text_to_image_recall@k` for each cutoff.
    """
    return {
        f"{direction}_recall@{k}": float(recall_at(jnp.asarray(found.ranks), k))
        for direction, found in query_ranks(gallery, query_ids, mesh).items()
        for k in cutoffs
    }


def recall_estimates(
    gallery: RetrievalSet,
    bootstrap: Bootstrap,
    *,
    fold_size: int | None = None,
    image_count: int | None = None,
    cutoffs: tuple[int, ...] = CUTOFFS,
    mesh: Mesh | None = None,
) -> dict[str, Estimate]:
    """Recall of everything in the gallery, with confidence intervals.

    Args:
        gallery: images, whose numbers are their places in the split, and captions.
        bootstrap: of the intervals; an image and its captions are drawn together.
        fold_size: where it is given, the split is cut into folds of so many images, each is searched by itself, and
            the mean over the folds is reported (COCO's "1K" numbers). What is left after whole folds is not used.
        image_count: images of the split, those that cannot be used included; whole folds are counted by it, and it is
            the number of usable images when absent.
        cutoffs: as for `recall`.
        mesh: as for `recall`.

    Raises:
        ValueError: if there is no whole fold, or one without an image that can be used.
    """
    folds = [gallery]
    if fold_size is not None:
        folds = _folds(gallery, fold_size, len(gallery.image_ids) if image_count is None else image_count)
    measured = [query_ranks(fold, fold.image_ids, mesh) for fold in folds]
    results: dict[str, Estimate] = {}
    for direction in measured[0]:
        found = [ranks[direction] for ranks in measured]
        ranks, ids = np.concatenate([one.ranks for one in found]), np.concatenate([one.ids for one in found])
        # The mean of the folds' means, also where one has a caption more than another.
        weights = np.concatenate([np.full(len(one.ids), 1 / len(one.ids)) for one in found])
        hits = np.stack([ranks < k for k in cutoffs], axis=1).astype(np.float64)
        names = [f"{direction}_recall@{k}" for k in cutoffs]
        results |= estimates(names, hits, bootstrap, weights=weights, groups=ids)
    return results


def _folds(gallery: RetrievalSet, fold_size: int, image_count: int) -> list[RetrievalSet]:
    if image_count < fold_size:
        raise ValueError(f"{image_count} images are less than one fold of {fold_size}; use smaller folds")
    fold_of_image = gallery.image_ids // fold_size
    folds = [gallery.of(gallery.image_ids[fold_of_image == fold]) for fold in range(image_count // fold_size)]
    if empty := [number for number, fold in enumerate(folds) if not len(fold.image_ids)]:
        raise ValueError(f"not one image of fold {empty[0]} can be used; complete the data, or use larger folds")
    return folds


def query_ranks(
    gallery: RetrievalSet, query_ids: Int[np.ndarray, "Q"], mesh: Mesh | None = None
) -> dict[str, QueryRanks]:
    """Ranks in both directions, by the names `image_to_text` and `text_to_image`; arguments as for `recall`.

    Raises:
        ValueError: if a query is not in the gallery, or there is none.
    """
    mesh = MeshShape().build() if mesh is None else mesh
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
        own_ids, all_ids = ids[asked].astype(np.int32), searched_ids.astype(np.int32)
        ranks = map_rows(match_ranks, mesh, (queries[asked], own_ids), (searched, all_ids))
        results[direction] = QueryRanks(ranks, own_ids)
    return results


def nearest(
    queries: Float[np.ndarray, "Q D"], gallery: Float[np.ndarray, "N D"], count: int
) -> tuple[Int[np.ndarray, "Q K"], Float[np.ndarray, "Q K"]]:
    """The `count` best items of the gallery for each query, best first, and their cosines."""
    scores_QxN = queries @ gallery.T
    best_QxK = np.argsort(-scores_QxN, axis=1, kind="stable")[:, :count]
    return best_QxK, np.take_along_axis(scores_QxN, best_QxK, axis=1)
