import dataclasses
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest

from align_jax.parallel.mesh import MeshShape, _by_slice, batch_sharding, batch_shards, place_batch, process_rows

SLICES = """
import jax
import jax.numpy as jnp
import numpy as np
from functools import partial
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from align_jax.losses import contrastive_loss
from align_jax.parallel.mesh import BATCH_AXES, MeshShape, batch_sharding, replicated

devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2", num_slices=2).devices
try:
    MeshShape().build(devices)
except ValueError as error:
    print(error)
mesh = MeshShape(slices=2, fsdp=2).build(devices)
print(dict(mesh.shape), [sorted({device.slice_index for device in part.flat}) for part in np.split(mesh.devices, 2)])


def loss(weights, image, text):
    rows, everywhere = PartitionSpec(BATCH_AXES), PartitionSpec()
    compare = jax.shard_map(
        partial(contrastive_loss, axis_names=BATCH_AXES), mesh=mesh, in_specs=(rows, rows, everywhere),
        out_specs=everywhere,
    )
    return compare(image @ weights, text, jnp.float32(0.1)).loss


weights = jax.ShapeDtypeStruct((128, 128), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("fsdp", None)))
batch = jax.ShapeDtypeStruct((64, 128), jnp.float32, sharding=batch_sharding(mesh))
compiled = jax.jit(jax.grad(loss)).lower(weights, batch, batch).compile()
print("compiled", "all-reduce" in compiled.as_text())
"""


@dataclasses.dataclass(frozen=True)
class Device:
    """What a mesh asks of a TPU device."""

    id: int
    slice_index: int
    platform: str = "tpu"


def test_one_slice_is_the_mesh_of_jax():
    mesh = MeshShape(fsdp=2, tensor=2).build()
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    expected = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=mesh.axis_types)
    assert mesh.devices.tolist() == expected.devices.tolist()


@pytest.mark.parametrize("shape", [MeshShape(slices=2), MeshShape(slices=2, fsdp=2), MeshShape(4, 2, 1, slices=4)])
def test_slices_are_the_major_part_of_data(shape):
    """So that only what is summed or gathered over `data` leaves a slice."""
    mesh = shape.build()
    assert mesh.shape["data"] == 8 // (shape.fsdp * shape.tensor)
    for number, part in enumerate(np.split(mesh.devices, shape.slices)):
        each = 8 // shape.slices
        assert sorted(device.id for device in part.flat) == list(range(number * each, (number + 1) * each))
    whole = np.arange(32).reshape(16, 2)
    placed = place_batch(whole, batch_sharding(mesh))
    np.testing.assert_array_equal(placed, whole)
    assert batch_shards(mesh) == 8
    assert process_rows(batch_sharding(mesh), 16) == list(range(16))


def test_devices_are_grouped_by_the_slice_they_lie_in():
    devices = [Device(id, slice_index=id % 2) for id in range(6)]
    groups = _by_slice(devices, 2)
    assert [[device.id for device in group] for group in groups] == [[0, 2, 4], [1, 3, 5]]
    with pytest.raises(ValueError, match="the devices lie in 2 slices, not 3; set slices=2"):
        _by_slice(devices, 3)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (MeshShape(data=3), "does not cover 8 devices"),
        (MeshShape(slices=3), "data=8 is not divisible by slices=3"),
        (MeshShape(fsdp=8, slices=2), "data=1 is not divisible by slices=2"),
        (MeshShape(slices=0), "slices=0"),
    ],
)
def test_meshes_that_do_not_fit_are_errors(shape, message):
    with pytest.raises(ValueError, match=message):
        shape.build()


@pytest.mark.skipif(find_spec("libtpu") is None, reason="needs the extra tpu")
def test_loss_over_two_tpu_slices_compiles():
    """By the TPU compiler: the devices of a slice stay together, and a mesh that ignores the slices is refused."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }  # fmt: skip
    found = subprocess.run(
        [sys.executable, "-c", SLICES], capture_output=True, text=True, env=environment, timeout=300, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-3:] == [
        "the devices lie in 2 slices, not 1; set slices=2",
        "{'data': 4, 'fsdp': 2, 'tensor': 1} [[0], [1]]",
        "compiled True",
    ]
