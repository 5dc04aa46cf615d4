"""A copy of the state that the next step may not touch."""

from typing import Any

import jax

_HOST = "pinned_host"


def copy_to_host(state: Any) -> Any | None:
    """Starts to copy the arrays of a tree into host memory, and does not wait for it.

    The originals may be donated at once: the copies read them before the next step overwrites them. Without this, a
    step on CPU would wait for the whole save, since NumPy views of its arrays are given away.

    Returns:
        None where this cannot be done: the arrays span processes, whose transfers Orbax divides among them, or the
        devices have no such memory.
    """
    kinds = {memory.kind for memory in jax.local_devices()[0].addressable_memories()}
    if jax.process_count() > 1 or _HOST not in kinds:
        return None
    # One replica is enough, and a host may not have the room for all of them.
    arrays = jax.tree.map(lambda array: array.addressable_shards[0].data if array.is_fully_replicated else array, state)
    places = jax.tree.map(lambda array: array.sharding.with_memory_kind(_HOST), arrays)
    return jax.device_put(arrays, places)
