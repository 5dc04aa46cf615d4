"""A copy of the state that the next step, to which the state is donated, cannot touch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

_HOST = "pinned_host"
_ALIGNED_BYTES = 64


def start_copy(state: Any) -> Callable[[], Any] | None:
    """Begins to copy the arrays of a tree into host memory; returns at once, and the state may be donated.

    Returns:
        What gives the copies, to be called once, by another thread. None where this cannot be done: the arrays span
        processes, among which Orbax divides the transfer, or the devices reach no host memory.
    """
    if jax.process_count() > 1:
        return None
    # One replica is enough, and a host may not have the room for all of them.
    arrays = jax.tree.map(lambda array: array.addressable_shards[0].data if array.is_fully_replicated else array, state)
    if jax.default_backend() == "cpu":
        leaves, structure = jax.tree.flatten(arrays)
        return partial(_copy_views, [_views(leaf) for leaf in leaves], structure)
    if _HOST not in {memory.kind for memory in jax.local_devices()[0].addressable_memories()}:
        return None
    places = jax.tree.map(lambda array: array.sharding.with_memory_kind(_HOST), arrays)
    copies = jax.device_put(arrays, places)
    return lambda: copies


def _views(array: jax.Array) -> tuple[tuple[int, ...], Any, list[tuple[jax.Device, np.ndarray]]]:
    """The memory of an array on CPU: a step that is to overwrite it waits until these views are gone."""
    return array.shape, array.sharding, [(shard.device, np.asarray(shard.data)) for shard in array.addressable_shards]


def _copy_views(held: list[Any], structure: Any) -> Any:
    copies = []
    try:
        for index, (shape, sharding, views) in enumerate(held):
            pieces = [jax.device_put(_aligned_copy(view), device) for device, view in views]
            copies.append(jax.make_array_from_single_device_arrays(shape, sharding, pieces))
            del views
            held[index] = None
    finally:  # an error would keep them, and the next step would wait for ever
        held.clear()
    return jax.tree.unflatten(structure, copies)


def _aligned_copy(view: np.ndarray) -> np.ndarray:
    """A copy whose memory JAX takes over; it would copy once more what is not aligned like this."""
    memory = np.empty(view.nbytes + _ALIGNED_BYTES, np.uint8)
    start = -memory.ctypes.data % _ALIGNED_BYTES
    copy = memory[start : start + view.nbytes].view(view.dtype).reshape(view.shape)
    copy[...] = view
    return copy
