"""Applies a function of rows to any number of them: in blocks of one shape, spread over the devices of a mesh."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from align_jax.parallel.mesh import BATCH_AXES, batch_sharding, batch_shards, replicated

ROWS_AT_ONCE = 8192
"""Rows of a block, over all devices, unless the function needs more memory for each."""


def map_rows(
    function: Callable[..., Any],
    mesh: Mesh,
    rows: tuple[np.ndarray, ...],
    shared: tuple[Any, ...] = (),
    *,
    rows_at_once: int = ROWS_AT_ONCE,
    advance: Callable[[int], None] | None = None,
) -> Any:
    """Calls `function(*rows, *shared)`, which computes each row of its results from the same row of its arguments.

    Args:
        function: of arrays with a leading axis of rows, and the shared ones; gives a tree of arrays with that axis.
        mesh: every device of its batch axes computes equally many rows of a block.
        rows: arrays of equally many rows. The last block is filled up with zeros, and the results without them.
        shared: arrays that every row needs, held by every device.
        rows_at_once: bounds the memory.
        advance: called with the number of rows that are done.

    Returns:
        The results on the host, whole.
    """
    count, shards = len(rows[0]), batch_shards(mesh)
    block_rows = min(-(-rows_at_once // shards), -(-count // shards)) * shards
    mapped = _compiled(function, mesh, len(rows), len(shared))
    shared = tuple(place(array, replicated(mesh)) for array in shared)
    results = []
    for start in range(0, count, block_rows):
        block = [padded(array[start : start + block_rows], block_rows) for array in rows]
        results.append(jax.device_get(mapped(*(place(array, batch_sharding(mesh)) for array in block), *shared)))
        if advance is not None:
            advance(min(block_rows, count - start))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *results)


@functools.lru_cache(maxsize=32)
def _compiled(function: Callable[..., Any], mesh: Mesh, rows: int, shared: int) -> Callable[..., Any]:
    """One program for each function and mesh, whoever calls it again: a training evaluates many times."""
    in_specs = (PartitionSpec(BATCH_AXES),) * rows + (PartitionSpec(),) * shared
    spread = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=PartitionSpec(BATCH_AXES), check_vma=False)
    return jax.jit(spread, out_shardings=replicated(mesh))


def padded(rows: np.ndarray, count: int) -> np.ndarray:
    """The rows, and zeros up to `count`."""
    missing = count - len(rows)
    return rows if not missing else np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), rows.dtype)])


def place(array: Any, sharding: NamedSharding) -> jax.Array:
    """An array that every process holds whole, with each device's share of it on that device."""
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
