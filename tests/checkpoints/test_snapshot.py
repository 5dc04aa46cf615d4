"""The copy of the state has memory of its own; a view of it would hold up the next step until all is written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax.checkpoints import snapshot
from tests.checkpoints.test_other_devices import rows_over


def pointers(array):
    return {shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards}


@pytest.mark.parametrize("backend", ["cpu", "tpu"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32])
def test_copies_share_no_memory_with_the_state(monkeypatch, backend, dtype):
    monkeypatch.setattr(snapshot.jax, "default_backend", lambda: backend)
    state = {
        "rows": jax.device_put(jnp.ones((8, 100), dtype), rows_over(8)),
        "scalar": jnp.asarray(3, dtype),
        "empty": jnp.zeros((0, 3), dtype),
    }
    copies = snapshot.start_copy(state)()
    jax.tree.map(np.testing.assert_array_equal, copies, state)
    assert not pointers(copies["rows"]) & pointers(state["rows"])
    assert not pointers(copies["scalar"]) & pointers(state["scalar"])


def test_one_replica_is_copied():
    everywhere = jax.sharding.NamedSharding(rows_over(8).mesh, jax.sharding.PartitionSpec())
    copies = snapshot.start_copy([jax.device_put(jnp.ones(4), everywhere)])()
    assert len(copies[0].addressable_shards) == 1
