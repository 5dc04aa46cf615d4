"""Where the first right item stands among everything that is searched."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@partial(jax.jit, static_argnames="queries_at_once")
def match_ranks(
    queries: Float[Array, "Q D"],
    query_ids: Int[Array, "Q"],
    gallery: Float[Array, "N D"],
    gallery_ids: Int[Array, "N"],
    gallery_valid: Bool[Array, "N"] | None = None,
    queries_at_once: int = 256,
) -> Int[Array, "Q"]:
    """Rank, from 0, at which each query finds the first item with its own id.

    Several items may share an id (the five captions of an image): the best of them counts, and the others never stand
    in its way. A wrong item with an equal score ranks first, so that embeddings which have collapsed into one point
    score nothing rather than everything.

    Args:
        queries: embeddings; scores are inner products.
        query_ids: which items are right for a query.
        gallery: embeddings of everything that is searched.
        gallery_ids: ids of the items.
        gallery_valid: False on rows that are padding.
        queries_at_once: bounds the score matrix, to this times N.

    Returns:
        The number of wrong items ahead of the best right one; the largest int32 where no item is right.
    """
    valid_N = jnp.ones(gallery.shape[0], bool) if gallery_valid is None else gallery_valid

    def rank(query: tuple[jax.Array, jax.Array]) -> jax.Array:
        embedding_D, query_id = query
        scores_N = jnp.matmul(gallery, embedding_D, precision=jax.lax.Precision.HIGHEST)
        right_N = (gallery_ids == query_id) & valid_N
        best = jnp.max(jnp.where(right_N, scores_N, -jnp.inf))
        # Not `>= best`: a score that is not a number must count as ahead, not behind.
        ahead_N = ~(scores_N < best) & ~right_N & valid_N
        ahead = jnp.sum(ahead_N.astype(jnp.int32))
        return jnp.where(jnp.any(right_N), ahead, jnp.iinfo(jnp.int32).max)

    return jax.lax.map(rank, (queries, query_ids), batch_size=queries_at_once)


@partial(jax.jit, static_argnames="k")
def recall_at(ranks: Int[Array, "Q"], k: int, valid: Bool[Array, "Q"] | None = None) -> Float[Array, ""]:
    """Share of queries whose first match is among the first k.

    Example:
        >>> float(recall_at(jnp.array([0, 4, 5, 9]), 5))
        0.5
    """
    valid_Q = jnp.ones(ranks.shape, bool) if valid is None else valid
    hits = jnp.sum((valid_Q & (ranks < k)).astype(jnp.float32))
    return hits / jnp.sum(valid_Q.astype(jnp.float32))
