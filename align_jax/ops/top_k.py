"""The k best items of a gallery for each query, by inner product, exactly and without the matrix of all scores.

The gallery passes by in chunks and every query keeps its k best so far, so memory does not grow with the number of
scores. What is left to do beside the matrix product is kept small by two steps, since a top-k over a whole row costs as
much as the product: a row of scores is cut into groups, only the k groups with the largest maxima can hold one of the k
best, and only these groups are sorted.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

ABSENT = 2**31 - 1
"""The position of an item that is not there, where fewer than k can be found; its score is minus infinity."""

_QUERIES_AT_ONCE = 128
_GROUP = 16  # items of a row that stand for each other by their maximum
_SCORES_AT_ONCE = 2**23  # 32 MiB, which a cache holds


class TopK(NamedTuple):
    """The best items for each query, best first; of equal scores, the smaller position first."""

    scores: Float[Array, "Q k"]
    positions: Int[Array, "Q k"]


@partial(jax.jit, static_argnames=("k", "chunk_size"))
def top_k(
    queries: Float[Array, "Q D"],
    gallery: Float[Array, "N D"],
    k: int,
    chunk_size: int | None = None,
    valid: Bool[Array, "N"] | None = None,
) -> TopK:
    """Finds the `k` largest inner products of each query with the rows of the gallery.

    An item that is not finite is never found, and a query that is not finite finds nothing. Equal scores come in the
    order of positions; duplicates have equal scores up to the rounding of the matrix product.

    Args:
        queries: one a row.
        gallery: everything that is searched.
        k: how many to find.
        chunk_size: rows of the gallery that are compared at once; the default keeps the scores at hand within 32 MiB.
        valid: False on rows of the gallery that are padding.

    Returns:
        float32 scores and int32 positions; `-inf` and `ABSENT` fill up where fewer than `k` items are valid.

    Example:
        >>> gallery = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> top_k(jnp.array([[2.0, 1.0]]), gallery, 2).positions.tolist()
        [[0, 2]]
    """
    query_count, gallery_count = queries.shape[0], gallery.shape[0]
    if k < 1 or (chunk_size is not None and chunk_size < 1):
        raise ValueError(f"k={k} and chunk_size={chunk_size} must be 1 or more")
    if not query_count or not gallery_count:
        return _nothing_found(query_count, k)
    tiles = math.ceil(query_count / _QUERIES_AT_ONCE)
    tile_size = math.ceil(query_count / tiles)
    rows = min(gallery_count, chunk_size or max(1, _SCORES_AT_ONCE // tile_size))
    padding = tiles * tile_size - query_count
    tiled_queries = jnp.pad(queries, ((0, padding), (0, 0))).reshape(tiles, tile_size, -1)
    valid_N = jnp.ones(gallery_count, bool) if valid is None else valid

    def pass_chunk(number: jax.Array, best: TopK) -> TopK:
        # The last chunk reaches back over rows that have been seen, rather than past the end.
        first = jnp.minimum(number * rows, gallery_count - rows)
        chunk = jax.lax.dynamic_slice_in_dim(gallery, first, rows)
        usable = jax.lax.dynamic_slice_in_dim(valid_N, first, rows)
        usable &= (first + jnp.arange(rows, dtype=jnp.int32) >= number * rows) & _finite(chunk)
        return jax.lax.map(lambda tile: _better(tile[0], tile[1], chunk, usable, first), (best, tiled_queries))

    start = jax.tree.map(lambda rows: jnp.broadcast_to(rows, (tiles, *rows.shape)), _nothing_found(tile_size, k))
    found = jax.lax.fori_loop(0, math.ceil(gallery_count / rows), pass_chunk, start)
    found = TopK(*(values.reshape(tiles * tile_size, k)[:query_count] for values in found))
    return jax.tree.map(partial(jnp.where, _finite(queries)[:, None]), found, _nothing_found(query_count, k))


def merge_top_k(scores: Float[Array, "S Q M"], positions: Int[Array, "S Q M"], k: int) -> TopK:
    """The `k` best (at most S · M) of what was found in S parts of a gallery, given in the order of their positions."""
    values, places = jax.lax.top_k(jnp.concatenate(list(scores), axis=1), k)
    return TopK(values, jnp.take_along_axis(jnp.concatenate(list(positions), axis=1), places, axis=1))


def _nothing_found(rows: int, k: int) -> TopK:
    return TopK(jnp.full((rows, k), -jnp.inf, jnp.float32), jnp.full((rows, k), ABSENT, jnp.int32))


def _better(best: TopK, queries_QxD: Array, chunk_NxD: Array, usable_N: Array, first: Array) -> TopK:
    """The best so far, and of a chunk that lies behind them in the gallery."""
    k = best.scores.shape[1]
    scores_QxN = jax.lax.dot_general(
        queries_QxD, chunk_NxD, (((1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32,
    )  # fmt: skip

    def mask(scores_QxN: Array) -> Array:
        return jnp.where(usable_N[None], scores_QxN, -jnp.inf)

    # Masking takes as long as finding the maxima, and few chunks need it.
    found = jax.lax.cond(
        jnp.all(usable_N), partial(_largest, k=k), lambda scores: _largest(mask(scores), k), scores_QxN
    )
    places = jnp.where(found.scores > -jnp.inf, first + found.positions, ABSENT)
    return merge_top_k(jnp.stack([best.scores, found.scores]), jnp.stack([best.positions, places]), k)


def _largest(scores: Float[Array, "Q N"], k: int) -> TopK:
    """The `k` largest of each row and their places, filled up where the row is shorter.

    Groups of a row are ordered by their maxima, of equal ones the earlier first. An item outside of the first k groups
    comes after the maxima of these, which are larger, or equal and further ahead: it is not among the first k.
    """
    count, width = scores.shape
    groups = math.ceil(width / _GROUP)
    if groups <= 2 * k:
        scores = jnp.pad(scores, ((0, 0), (0, max(0, k - width))), constant_values=-jnp.inf)
        # top_k would put -0.0 behind 0.0.
        values, places = jax.lax.top_k(jnp.where(scores == 0, 0.0, scores), k)
        return TopK(values, places)
    if groups * _GROUP > width:
        scores = jnp.pad(scores, ((0, 0), (0, groups * _GROUP - width)), constant_values=-jnp.inf)
    grouped = scores.reshape(count, groups, _GROUP)
    # Ascending, so that equal scores of several groups stay in order.
    chosen = jnp.sort(_largest(jnp.max(grouped, axis=2), k).positions, axis=1)
    candidates = jnp.take_along_axis(grouped, chosen[:, :, None], axis=1).reshape(count, k * _GROUP)
    values, places = jax.lax.top_k(jnp.where(candidates == 0, 0.0, candidates), k)
    return TopK(values, jnp.take_along_axis(chosen, places // _GROUP, axis=1) * _GROUP + places % _GROUP)


def _finite(rows: Float[Array, "N D"]) -> Bool[Array, "N"]:
    return jnp.all(jnp.isfinite(rows), axis=1)
