"""A state is restored onto other meshes and in other floating types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from align_jax.checkpoints import CheckpointError, Checkpoints, snapshot
from align_jax.parallel.mesh import MeshShape
from tests.checkpoints.small_state import abstract, position, save, state


def rows_over(count):
    return NamedSharding(MeshShape(data=1, fsdp=count).build(jax.devices()[:count]), PartitionSpec("fsdp"))


def test_eight_devices_then_one_then_four(tmp_path):
    expected = {"kernel": state(1)["params"]["kernel"]}
    current = jax.device_put(expected, rows_over(8))
    with Checkpoints(tmp_path) as checkpoints:
        for step, count in ((1, 1), (2, 4), (3, 8)):
            checkpoints.save(step, current, position(step))
            current = checkpoints.restore(abstract(expected, rows_over(count))).state
            assert current["kernel"].sharding == rows_over(count)
            np.testing.assert_array_equal(current["kernel"], expected["kernel"])


def test_replicated_and_split_arrays_come_back_together(tmp_path):
    mesh = MeshShape(data=2, fsdp=4).build()
    tree = {"kernel": jnp.arange(16.0).reshape(8, 2), "bias": jnp.arange(3.0)}
    places = {"kernel": NamedSharding(mesh, PartitionSpec("fsdp")), "bias": NamedSharding(mesh, PartitionSpec())}
    placed = jax.device_put(tree, places)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, placed, {})
        restored = checkpoints.restore(jax.tree.map(lambda a, p: abstract(a, p), tree, places)).state
    jax.tree.map(np.testing.assert_array_equal, restored, tree)
    assert jax.tree.map(lambda array: array.sharding, restored) == places


@pytest.mark.parametrize("backend", ["cpu", "tpu"])  # CPU devices have host memory too, and copy to it as others do
def test_donated_arrays_are_saved_as_they_were(tmp_path, monkeypatch, backend):
    monkeypatch.setattr(snapshot.jax, "default_backend", lambda: backend)
    with Checkpoints(tmp_path) as checkpoints:
        step = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0 - 1, tree), donate_argnums=0)
        saved = jax.device_put({"kernel": jnp.ones((8, 65536))}, rows_over(8))
        checkpoints.save(1, saved, {})
        for _ in range(3):
            saved = step(saved)
        restored = checkpoints.restore(abstract(saved, rows_over(8))).state
    assert float(restored["kernel"].min()) == 1


def test_other_floating_types_are_cast_and_named(tmp_path):
    save(tmp_path, 10)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state(10)["opt_state"])
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(abstract(state(10) | {"opt_state": half}))
    assert restored.casts == ("1 array of opt_state from float32 to bfloat16",)
    assert restored.state["opt_state"]["mu"].dtype == jnp.bfloat16
    jax.tree.map(np.testing.assert_array_equal, restored.state["opt_state"], half)
    np.testing.assert_array_equal(restored.state["params"]["kernel"], state(10)["params"]["kernel"])


def test_number_of_another_kind_is_refused(tmp_path):
    save(tmp_path, 10)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="step is int32, not float32"):
        checkpoints.restore(abstract(state(10) | {"step": jnp.float32(0)}))
