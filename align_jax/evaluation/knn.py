"""Classification by the nearest training images (arXiv 2102.05918, section 5.3; weighted as in arXiv 1805.01978)."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from align_jax.evaluation.row_blocks import map_rows
from align_jax.metrics import neighbours_vote
from align_jax.ops.top_k import TopK, top_k

NEIGHBOURS = (1, 5, 10, 20, 50, 100, 200)
TEMPERATURE = 0.07
"""The cosine of a neighbour is divided by it before the exponential (arXiv 1805.01978)."""

_QUERIES_AT_ONCE = 2048
_VOTES_AT_ONCE = 1024  # each compares its neighbours with one another


def nearest_neighbours(
    queries: Float[np.ndarray, "Q D"],
    gallery: Float[np.ndarray, "N D"],
    k: int,
    mesh: Mesh,
    *,
    queries_at_once: int = _QUERIES_AT_ONCE,
    chunk_size: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> TopK:
    """The `k` rows of the gallery with the largest inner products, best first; see `ops.top_k`.

    Args:
        queries: spread over the mesh.
        gallery: held by every device.
        k: neighbours to find, at most N.
        mesh: the devices.
        queries_at_once: bounds the memory beside the gallery.
        chunk_size: rows of the gallery that are compared at once; the default fits a cache.
        advance: called with the number of queries that are done.

    Raises:
        ValueError: if the gallery has less than `k` rows.
    """
    if not 1 <= k <= len(gallery):
        raise ValueError(f"k={k} neighbours cannot be found among {len(gallery)} examples; use 1 to {len(gallery)}")
    search = _search(k, chunk_size)
    return map_rows(search, mesh, (queries,), (gallery,), rows_at_once=queries_at_once, advance=advance)


def knn_predictions(
    neighbours: TopK,
    labels: Int[np.ndarray, "N"],
    ks: Sequence[int],
    mesh: Mesh,
    *,
    temperature: float | None = None,
) -> dict[int, Int[np.ndarray, "Q"]]:
    """The class that the first k neighbours vote for, by k.

    Args:
        neighbours: of `nearest_neighbours`, at least as many as the largest k.
        labels: classes of the gallery's rows.
        ks: numbers of neighbours.
        mesh: queries are spread over it.
        temperature: of the weights, see `neighbours_vote`; all weigh the same without.
    """
    found = labels.astype(np.int32)[neighbours.positions]
    cosines = np.asarray(neighbours.scores)
    vote = functools.partial(map_rows, mesh=mesh, rows=(found, cosines), rows_at_once=_VOTES_AT_ONCE)
    return {k: vote(_voting(k, temperature)) for k in ks}


@functools.cache
def _search(k: int, chunk_size: int | None) -> Callable[..., Any]:
    """One function for each setting, so that it is compiled once."""

    def search(queries: jax.Array, gallery: jax.Array) -> TopK:
        return top_k(queries, gallery, k, chunk_size)

    return search


@functools.cache
def _voting(k: int, temperature: float | None) -> Callable[..., Any]:
    def vote(labels: jax.Array, cosines: jax.Array) -> jax.Array:
        return neighbours_vote(labels, cosines, k, temperature)

    return vote
