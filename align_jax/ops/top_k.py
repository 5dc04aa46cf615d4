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

_QUERIES_AT_ONCE = 256
_SCORES_AT_ONCE = 2**22  # 16 MiB, which a cache holds


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

    An item whose score is not a number is never found. Equal scores come in the order of positions; duplicates have
    equal scores up to the rounding of the matrix product.

    Args:
        queries: one a row.
        gallery: everything that is searched.
        k: how many to find.
        chunk_size: rows of the gallery that are compared at once; the default keeps the scores at hand within 16 MiB.
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
    tiles = max(1, math.ceil(query_count / _QUERIES_AT_ONCE))
    tile_size = math.ceil(query_count / tiles)
    if not query_count or not gallery_count:
        return _nothing_found(query_count, k)
    rows = min(gallery_count, chunk_size or max(1, _SCORES_AT_ONCE // tile_size))
    padding = tiles * tile_size - query_count
    tiled_queries = jnp.pad(queries, ((0, padding), (0, 0))).reshape(tiles, tile_size, -1)
    valid_N = jnp.ones(gallery_count, bool) if valid is None else valid

    def pass_chunk(number: jax.Array, best: TopK) -> TopK:
        # The last chunk reaches back over rows that have been seen, rather than past the end.
        first = jnp.minimum(number * rows, gallery_count - rows)
        positions = first + jnp.arange(rows, dtype=jnp.int32)
        chunk = jax.lax.dynamic_slice_in_dim(gallery, first, rows)
        usable = jax.lax.dynamic_slice_in_dim(valid_N, first, rows) & (positions >= number * rows)
        return jax.lax.map(lambda tile: _better(*tile, chunk, usable, first), (best, tiled_queries))

    start = jax.tree.map(lambda rows: jnp.broadcast_to(rows, (tiles, *rows.shape)), _nothing_found(tile_size, k))
    found = jax.lax.fori_loop(0, math.ceil(gallery_count / rows), pass_chunk, start)
    return TopK(*(values.reshape(tiles * tile_size, k)[:query_count] for values in found))


def merge_top_k(scores: Float[Array, "S Q M"], positions: Int[Array, "S Q M"], k: int) -> TopK:
    """The `k` best (at most S · M) of what was found in S parts of a gallery, given in the order of their positions."""
    return _largest(*(jnp.concatenate(list(values), axis=1) for values in (scores, positions)), k)


def _nothing_found(rows: int, k: int) -> TopK:
    return TopK(jnp.full((rows, k), -jnp.inf, jnp.float32), jnp.full((rows, k), ABSENT, jnp.int32))


def _better(best: TopK, queries_QxD: Array, chunk_NxD: Array, usable_N: Array, first: Array) -> TopK:
    """The best so far, and of a chunk that lies behind them in the gallery."""
    k = best.scores.shape[1]
    scores = jax.lax.dot_general(
        queries_QxD, chunk_NxD, (((1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32,
    )  # fmt: skip
    scores = jnp.where(scores == 0, 0.0, scores)  # top_k puts -0.0 behind 0.0
    scores = jnp.where(usable_N[None] & ~jnp.isnan(scores), scores, -jnp.inf)
    scores, places = _candidates(scores, k)
    positions = jnp.where(scores > -jnp.inf, first + places, ABSENT)
    return _largest(*(jnp.concatenate(pair, axis=1) for pair in zip(best, (scores, positions), strict=True)), k)


def _candidates(scores: Float[Array, "Q N"], k: int) -> tuple[Float[Array, "Q M"], Int[Array, "Q M"]]:
    """Scores among which the `k` largest of a row are, with their places in the row, which ascend.

    Let groups be ordered by their maxima, of equal ones the earlier first. An item outside of the first k groups comes
    after the maximum of each of them, which is larger, or equal and further ahead: it is not among the k first.
    """
    count, width = scores.shape
    group = 2 ** round(math.log2(max(1.0, width / k)) / 2)  # width / group maxima and k · group items are sorted
    groups = math.ceil(width / group)
    if group < 4 or groups <= k:
        return scores, jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), (count, width))
    padded = jnp.pad(scores, ((0, 0), (0, groups * group - width)), constant_values=-jnp.inf)
    grouped = padded.reshape(count, groups, group)
    chosen = jnp.sort(jax.lax.top_k(jnp.max(grouped, axis=2), k)[1], axis=1)
    places = chosen[:, :, None] * group + jnp.arange(group, dtype=jnp.int32)[None, None]
    return jnp.take_along_axis(grouped, chosen[:, :, None], axis=1).reshape(count, -1), places.reshape(count, -1)


def _largest(scores: Float[Array, "Q M"], positions: Int[Array, "Q M"], k: int) -> TopK:
    values, places = jax.lax.top_k(scores, k)
    return TopK(values, jnp.take_along_axis(positions, places, axis=1))
