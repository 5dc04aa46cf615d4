import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from align_jax.checkpoints import CheckpointError, Checkpoints
from align_jax.parallel.mesh import MeshShape

STATE = {"params": {"kernel": jnp.arange(16.0).reshape(8, 2)}, "batch_stats": {}, "step": jnp.int32(3)}
POSITION = {"seed": 0, "examples": 96}


def like(tree, sharding):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def on_one_device(tree):
    return like(tree, jax.sharding.SingleDeviceSharding(jax.devices()[0]))


def test_state_and_position_come_back(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, STATE, POSITION)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(on_one_device(STATE))
    assert (restored.step, restored.position) == (3, POSITION)
    jax.tree.map(np.testing.assert_array_equal, restored.state, STATE)


def test_state_of_one_mesh_is_restored_onto_another(tmp_path):
    rows = NamedSharding(MeshShape(data=1, fsdp=8).build(), PartitionSpec("fsdp"))
    split = {"kernel": jax.device_put(STATE["params"]["kernel"], rows)}
    other = NamedSharding(MeshShape(data=4, fsdp=2).build(), PartitionSpec("fsdp"))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, split, POSITION)
        checkpoints.wait()
        restored = checkpoints.restore(like(split, other))
    np.testing.assert_array_equal(restored.state["kernel"], split["kernel"])
    assert restored.state["kernel"].sharding == other


def test_only_the_newest_stay(tmp_path):
    with Checkpoints(tmp_path, keep_latest=2) as checkpoints:
        for step in range(1, 5):
            checkpoints.save(step, STATE, POSITION)
        checkpoints.wait()
        assert checkpoints.latest_step() == 4
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["3", "4"]


def test_nothing_to_restore(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(on_one_device(STATE)) is None
        with pytest.raises(CheckpointError, match="no finished checkpoint"):
            checkpoints.restore_variables()


def test_state_of_another_experiment_is_refused_with_every_difference(tmp_path):
    other = {"params": {"kernel": jnp.zeros((4, 2)), "bias": jnp.zeros(2)}, "batch_stats": {}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, STATE, POSITION)
        checkpoints.wait()
        with pytest.raises(CheckpointError) as refused:
            checkpoints.restore(on_one_device(other))
    for difference in ("params/bias is missing", "step is not wanted", "params/kernel has shape (8, 2), not (4, 2)"):
        assert difference in str(refused.value)


def test_variables_are_the_averaged_ones_where_there_are_any(tmp_path):
    averaged = {"kernel": jnp.ones((8, 2))}
    with Checkpoints(tmp_path / "plain") as checkpoints:
        checkpoints.save(1, {**STATE, "ema_params": None}, POSITION)
        checkpoints.wait()
        np.testing.assert_array_equal(checkpoints.restore_variables()["params"]["kernel"], STATE["params"]["kernel"])
    with Checkpoints(tmp_path / "averaged") as checkpoints:
        checkpoints.save(1, {**STATE, "ema_params": averaged}, POSITION)
        checkpoints.wait()
        np.testing.assert_array_equal(checkpoints.restore_variables()["params"]["kernel"], averaged["kernel"])
