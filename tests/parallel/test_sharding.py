import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from align_jax.configuration import AlignConfig, AlignTextConfig, ViTConfig
from align_jax.parallel.mesh import MeshShape, batch_shards, check_batch_size
from align_jax.parallel.sharding import MESH_AXIS_OF, PARAMETER_AXES, logical_axes, partition, path_name, tree_shardings
from align_jax.training.optimizers import Lamb
from align_jax.training.state import abstract_state, state_initializer
from align_jax.training.tasks import Contrastive


def leaves_by_path(tree):
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.fixture(scope="module")
def state():
    task = Contrastive(model=AlignConfig.b3_mini())
    mesh = MeshShape(data=2, fsdp=2, tensor=2).build()
    init = state_initializer(task.init, Lamb().build(100), seed=0, averaged=True)
    return abstract_state(init, mesh)


@pytest.fixture(scope="module")
def patch_state():
    """Of an ALIGN whose image tower is a Vision Transformer."""
    vision = ViTConfig.tiny(representation_size=48)
    task = Contrastive(model=AlignConfig.of_towers(vision, AlignTextConfig.tiny()))
    init = state_initializer(task.init, Lamb().build(100), seed=0, averaged=False)
    return abstract_state(init, MeshShape(data=2, fsdp=2, tensor=2).build())


def test_every_parameter_has_a_row_of_its_own_rank(state, patch_state):
    leaves = leaves_by_path({"params": state.params, "batch_stats": state.batch_stats})
    leaves |= leaves_by_path({"params": patch_state.params})
    for path, leaf in leaves.items():
        axes = logical_axes(path)
        assert axes is not None, f"no row for {path}"
        assert len(axes) == leaf.ndim, f"{path} has shape {leaf.shape} but axes {axes}"


def test_relative_position_embeddings_have_a_row():
    # Those of the released configuration are absolute, so the model above has none.
    assert logical_axes("params/text/layers_3/attention/distance/embedding") == (None, "features")


def test_every_row_is_used(state, patch_state):
    paths = list(leaves_by_path({"params": state.params, "batch_stats": state.batch_stats}))
    paths += leaves_by_path({"params": patch_state.params})
    for pattern, axes in PARAMETER_AXES:
        assert any(re.search(pattern, path) for path in paths), f"row {pattern} matches nothing"
        assert all(axis is None or axis in MESH_AXIS_OF for axis in axes)


def test_optimizer_state_and_average_lie_like_their_parameters(state):
    path = "text/layers_0/feed_forward_in/kernel"
    expected = PartitionSpec("fsdp", "tensor")
    found = {name: leaf for name, leaf in leaves_by_path(state).items() if name.endswith(path)}
    assert len(found) == 4  # parameter, average, first and second moment
    assert {leaf.sharding.spec for leaf in found.values()} == {expected}


def test_patches_are_split_like_text(patch_state):
    found = {path: leaf.sharding.spec for path, leaf in leaves_by_path(patch_state.params).items()}
    assert found["image/layers_1/feed_forward_out/kernel"] == PartitionSpec(None, "fsdp")  # 37 wide, which is odd
    assert found["image/layers_0/attention/query/kernel"] == PartitionSpec("fsdp", "tensor")
    assert found["image/embeddings/patches/kernel"] == PartitionSpec(None, None, None, "fsdp")


def test_most_of_the_large_arrays_are_split(state):
    large = [leaf for leaf in jax.tree.leaves(state.params) if np.prod(leaf.shape) >= 2**16]
    whole = [leaf for leaf in large if leaf.sharding.is_fully_replicated]
    assert not whole


def test_an_axis_that_does_not_divide_stays_whole():
    mesh = MeshShape(data=1, fsdp=8).build()
    assert partition("image/blocks_0/expand/kernel", (1, 1, 4, 12), mesh) == PartitionSpec(None, None, None, None)
    assert partition("image/blocks_0/expand/kernel", (1, 1, 4, 16), mesh) == PartitionSpec(None, None, None, "fsdp")


def test_unknown_arrays_are_replicated():
    mesh = MeshShape().build()
    shardings = tree_shardings({"count": jax.ShapeDtypeStruct((), np.int32)}, mesh)
    assert shardings["count"].spec == PartitionSpec()


def test_mesh_that_does_not_cover_the_devices_says_so():
    with pytest.raises(ValueError, match="does not cover 8 devices"):
        MeshShape(data=3, fsdp=2).build()


def test_batch_that_does_not_divide_names_sizes_that_do():
    mesh = MeshShape().build()
    assert batch_shards(mesh) == 8
    with pytest.raises(ValueError, match="batch_size 100 is not divisible by 8 devices; use 96 or 104"):
        check_batch_size(100, mesh)
    with pytest.raises(ValueError, match="use 8"):
        check_batch_size(3, mesh)
