"""Search among embeddings: exact on all devices, and the queries that ALIGN's embeddings allow.

    index = Index(folder.embeddings)
    query = combine(text=embedder.texts(["a red car"])[0], image=embedder.images([Path("street.jpg")])[0])
    scores, positions = index.search(query[None], 10)

Embeddings of the gallery are spread over the devices; each finds its own k best by a running top-k, and the best of
these are the result. A query may be a text, an image, or a weighted sum of both, as the paper has it (section 5.4,
"Image Retrieval with image±text Queries", https://arxiv.org/abs/2102.05918).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Float32, Int

from align_jax.ops.approximate_top_k import approximate_top_k
from align_jax.ops.top_k import ABSENT, TopK, merge_top_k, top_k
from align_jax.parallel.mesh import MeshShape

Found = tuple[Float32[np.ndarray, "Q k"], Int[np.ndarray, "Q k"]]
"""Scores and positions, the best first; `-inf` and `ABSENT` where there are fewer than k items."""

_LARGEST_GALLERY = ABSENT - 1


class Index:
    """A gallery on the devices, searched exactly.

    Args:
        embeddings: of the gallery; of unit length, if scores are to be cosines.
        mesh: the devices; all of them where absent. Where there are several processes, each makes the same calls with
            the same arrays.
        chunk_size: rows that a device compares at once, see `top_k`.
        approximate: on TPU, finds 95 % of the best in less time; elsewhere it is exact and slower.
    """

    def __init__(
        self,
        embeddings: Float[np.ndarray, "N D"],
        *,
        mesh: Mesh | None = None,
        chunk_size: int | None = None,
        approximate: bool = False,
    ):
        count, width = embeddings.shape
        self._mesh = MeshShape().build() if mesh is None else mesh
        self._each = -(-count // self._mesh.size)
        if self._each * self._mesh.size > _LARGEST_GALLERY:
            raise ValueError(f"{count} embeddings are more than positions of 32 bits can tell apart; split the gallery")
        self._size, self._width = count, width
        self._chunk_size, self._approximate = chunk_size, approximate
        sharding = NamedSharding(self._mesh, PartitionSpec(self._mesh.axis_names))
        self._gallery = jax.make_array_from_callback(
            (self._each * self._mesh.size, width), sharding, lambda index: _part(embeddings, index)
        )

    def __len__(self) -> int:
        return self._size

    def search(self, queries: Float[np.ndarray, "Q D"], k: int) -> Found:
        """The `k` items with the largest inner products; of equal ones, the smaller position first.

        Queries may be of any length: that scales their scores.

        Raises:
            ValueError: if the queries have another width than the gallery, or k is not positive.
        """
        _check_search(queries, self._width, k)
        if not len(queries) or not self._size:
            return np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), ABSENT, np.int32)
        # Programs are compiled for few numbers of queries, whatever comes.
        padded = np.pad(np.asarray(queries, np.float32), ((0, _bucket(len(queries)) - len(queries)), (0, 0)))
        found = _search(
            jax.make_array_from_callback(
                padded.shape, NamedSharding(self._mesh, PartitionSpec()), lambda index: padded[index]
            ),
            self._gallery, self._mesh, self._size, k, self._chunk_size, self._approximate,
        )  # fmt: skip
        return np.asarray(found.scores)[: len(queries)], np.asarray(found.positions)[: len(queries)]


class FaissIndex:
    """The same search by the library FAISS, on the CPU of this process; needs `pip install align_jax[faiss]`.

    Args:
        embeddings: of the gallery.
        lists: where given, the gallery is parted into so many lists of neighbours (an inverted file), and a search
            looks into the nearest of them only, so it may miss some of the best; the square root of the gallery's size
            is a usual choice. Exact where `None`.
        probes: lists that a search looks into.
    """

    def __init__(self, embeddings: Float[np.ndarray, "N D"], *, lists: int | None = None, probes: int = 8):
        count, width = embeddings.shape
        if lists is not None and not 1 <= lists <= count:
            raise ValueError(
                f"lists {lists} is not between 1 and the {count} embeddings; use about {round(count**0.5)}"
            )
        if probes < 1:
            raise ValueError(f"probes {probes} is not positive; use 1 or more")
        faiss = _faiss()
        self._width, rows = width, np.ascontiguousarray(embeddings, np.float32)
        self._index: Any = faiss.IndexFlatIP(width)
        if lists is not None:
            self._quantizer = self._index  # which the other index does not keep alive
            self._index = faiss.IndexIVFFlat(self._quantizer, width, lists, faiss.METRIC_INNER_PRODUCT)
            self._index.cp.min_points_per_centroid = 1  # or FAISS prints a warning for small galleries
            self._index.train(rows)
            self._index.nprobe = min(probes, lists)
        self._index.add(rows)

    def __len__(self) -> int:
        return self._index.ntotal

    def search(self, queries: Float[np.ndarray, "Q D"], k: int) -> Found:
        """As `Index.search`; of items with equal scores, any may come first.

        Raises:
            ValueError: as there.
        """
        _check_search(queries, self._width, k)
        scores, positions = self._index.search(np.ascontiguousarray(queries, np.float32), k)
        absent = positions < 0
        return np.where(absent, np.float32(-np.inf), scores), np.where(absent, ABSENT, positions).astype(np.int32)


def combine(
    text: Float[np.ndarray, "*B D"] | None = None,
    image: Float[np.ndarray, "*B D"] | None = None,
    minus: Float[np.ndarray, "*B D"] | None = None,
    text_weight: float = 2.0,
    image_weight: float = 1.0,
) -> Float[np.ndarray, "*B D"]:
    """One query of a text, an image, or both; each is brought to unit length before it is weighed.

    Args:
        text: embedding of what is sought.
        image: embedding of an image that the result resembles.
        minus: embedding of a text that the result has less of.
        text_weight: of both texts, positive; 2 : 1 is what the paper found best.
        image_weight: of the image, positive.

    Returns:
        The sum, of unit length.

    Raises:
        ValueError: if there is neither text nor image, a weight is not positive and finite, an embedding has no
            direction, or the parts cancel out.

    Example:
        >>> combine(text=np.array([0.0, 3.0]), image=np.array([1.0, 0.0]), text_weight=1.0).round(4).tolist()
        [0.7071, 0.7071]
    """
    if text is None and image is None:
        raise ValueError("there is nothing to search for; give a text, an image, or both")
    for name, weight in (("text_weight", text_weight), ("image_weight", image_weight)):
        if not 0 < weight < np.inf:
            raise ValueError(f"{name} {weight:g} is not positive and finite; leave out what shall not count")
    parts = [("text", text, text_weight), ("image", image, image_weight), ("minus", minus, -text_weight)]
    given = {name: weight * _direction(name, each) for name, each, weight in parts if each is not None}
    total = np.sum(list(given.values()), axis=0)
    largest = max(abs(weight) for name, _, weight in parts if name in given)
    if np.any(np.linalg.norm(total, axis=-1) < 1e-6 * largest):
        raise ValueError(f"{' and '.join(given)} cancel out; change one of them")
    return _unit(total)


@partial(jax.jit, static_argnums=(2, 3, 4, 5, 6))
def _search(
    queries: Float[Array, "Q D"],
    gallery: Float[Array, "N D"],
    mesh: Mesh,
    size: int,
    k: int,
    chunk_size: int | None,
    approximate: bool,
) -> TopK:
    """The best of what each device finds in its rows of the gallery, of which those from `size` on are padding."""
    axes, each = mesh.axis_names, gallery.shape[0] // mesh.size
    find = approximate_top_k if approximate else top_k

    def of_device(queries: Array, rows: Array) -> TopK:
        first = jax.lax.axis_index(axes) * each
        valid = first + jnp.arange(each, dtype=jnp.int32) < size
        scores, positions = find(queries, rows, k, chunk_size, valid)
        return TopK(scores[None], jnp.where(positions == ABSENT, ABSENT, first + positions)[None])

    found = jax.shard_map(
        of_device, mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec(axes)), out_specs=PartitionSpec(axes),
        check_vma=False,
    )(queries, gallery)  # fmt: skip
    # Everyone gets everything that was found, so that every process has the result.
    whole = jax.lax.with_sharding_constraint(found, NamedSharding(mesh, PartitionSpec()))
    best = merge_top_k(whole.scores, whole.positions, k)
    return jax.lax.with_sharding_constraint(best, NamedSharding(mesh, PartitionSpec()))


def _part(embeddings: np.ndarray, index: Any) -> Float32[np.ndarray, "n D"]:
    """Rows of the gallery for one device, with zeros where it has no more."""
    start, stop = index[0].start or 0, index[0].stop
    part = np.asarray(embeddings[start:stop], np.float32)
    missing = 0 if stop is None else stop - start - len(part)
    return np.pad(part, ((0, missing), (0, 0))) if missing else part


def _bucket(queries: int) -> int:
    return next((size for size in (1, 8, 32, 128) if queries <= size), -(-queries // 128) * 128)


def _check_search(queries: np.ndarray, width: int, k: int) -> None:
    if queries.shape[1] != width:
        raise ValueError(f"queries of size {queries.shape[1]} cannot be compared with embeddings of size {width}")
    if k < 1:
        raise ValueError(f"k={k} is not positive; use 1 or more")


def _direction(name: str, embedding: np.ndarray) -> np.ndarray:
    if not np.all(np.isfinite(embedding)) or not np.all(np.any(embedding, axis=-1)):
        raise ValueError(f"the embedding of {name} is zero or not finite, so it has no direction; embed it again")
    return _unit(embedding)


def _unit(embedding: np.ndarray) -> np.ndarray:
    return embedding / np.linalg.norm(embedding, axis=-1, keepdims=True)


def _faiss() -> Any:
    try:
        import faiss  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise ModuleNotFoundError("FaissIndex needs `pip install align_jax[faiss]`") from error
    return faiss
