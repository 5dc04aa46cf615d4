"""The k best items of a gallery for each query, nearly: with the operator that TPUs have for it.

`jax.lax.approx_max_k` keeps the matrix product's results in the reduction that picks the maxima, so a TPU searches at
the speed of its products and misses a few of the k best; on other hardware it sorts, and is exact. Chern et al., 2022,
https://arxiv.org/abs/2206.14286.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from align_jax.ops.top_k import ABSENT, TopK, merge_top_k

_QUERIES_AT_ONCE = 128
_SCORES_AT_ONCE = 2**28  # 1 GiB, should the scores be laid down in memory


@partial(jax.jit, static_argnames=("k", "chunk_size", "recall"))
def approximate_top_k(
    queries: Float[Array, "Q D"],
    gallery: Float[Array, "N D"],
    k: int,
    chunk_size: int | None = None,
    valid: Bool[Array, "N"] | None = None,
    recall: float = 0.95,
) -> TopK:
    """Finds most of the `k` largest inner products of each query with the rows of the gallery.

    Args:
        queries: one a row.
        gallery: everything that is searched.
        k: how many to find.
        chunk_size: rows of the gallery that are compared at once.
        valid: False on rows of the gallery that are padding.
        recall: share of the k best that is found, on average, where the hardware is a TPU.

    Returns:
        As `top_k`; among equal scores any item may come first.
    """
    query_count, gallery_count = queries.shape[0], gallery.shape[0]
    if k < 1 or (chunk_size is not None and chunk_size < 1):
        raise ValueError(f"k={k} and chunk_size={chunk_size} must be 1 or more")
    nothing = TopK(jnp.full((query_count, k), -jnp.inf, jnp.float32), jnp.full((query_count, k), ABSENT, jnp.int32))
    if not query_count or not gallery_count:
        return nothing
    rows = min(gallery_count, chunk_size or _SCORES_AT_ONCE // min(query_count, _QUERIES_AT_ONCE))
    found = min(k, rows)
    valid_N = jnp.ones(gallery_count, bool) if valid is None else valid

    def of_query(query_D: Array, chunk_NxD: Array, usable_N: Array) -> tuple[Array, Array]:
        scores_N = jax.lax.dot_general(
            chunk_NxD, query_D, (((1,), (0,)), ((), ())),
            precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32,
        )  # fmt: skip
        scores_N = jnp.where(usable_N & jnp.isfinite(scores_N), scores_N, -jnp.inf)
        scores_k, places_k = jax.lax.approx_max_k(
            scores_N, found, recall_target=recall, reduction_input_size_override=gallery_count
        )
        return scores_k, places_k

    def pass_chunk(number: jax.Array, best: TopK) -> TopK:
        # The last chunk reaches back over rows that have been seen, rather than past the end.
        first = jnp.minimum(number * rows, gallery_count - rows)
        chunk = jax.lax.dynamic_slice_in_dim(gallery, first, rows)
        usable = jax.lax.dynamic_slice_in_dim(valid_N, first, rows)
        usable &= first + jnp.arange(rows, dtype=jnp.int32) >= number * rows
        scores, places = jax.lax.map(
            lambda query: of_query(query, chunk, usable), queries, batch_size=min(query_count, _QUERIES_AT_ONCE)
        )
        missing = ((0, 0), (0, k - found))
        scores = jnp.pad(scores, missing, constant_values=-jnp.inf)
        places = jnp.where(scores > -jnp.inf, first + jnp.pad(places, missing), ABSENT)
        return merge_top_k(jnp.stack([best.scores, scores]), jnp.stack([best.positions, places]), k)

    return jax.lax.fori_loop(0, math.ceil(gallery_count / rows), pass_chunk, nothing)
