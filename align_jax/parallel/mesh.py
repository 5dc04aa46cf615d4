"""The device mesh: its named axes, and how a batch lies on it.

`data` and `fsdp` both split the batch; parameters are split over `fsdp`, wide layers over `tensor` as well.
"""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

BATCH_AXES = ("data", "fsdp")
MESH_AXES = ("data", "fsdp", "tensor")

Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Devices along each axis.

    Attributes:
        data: `None` takes every device that the other axes leave.
        fsdp: devices that share one copy of parameters and optimizer state.
        tensor: devices that share the wide layers of the text tower.
    """

    data: int | None = None
    fsdp: int = 1
    tensor: int = 1

    def build(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
        """Lays the devices (all of them, unless given) out in a mesh.

        Raises:
            ValueError: if the axes do not multiply to the number of devices.
        """
        devices = jax.devices() if devices is None else devices
        inner = self.fsdp * self.tensor
        data = len(devices) // inner if self.data is None else self.data
        if data * inner != len(devices):
            raise ValueError(
                f"a mesh of data={self.data} x fsdp={self.fsdp} x tensor={self.tensor} does not cover "
                f"{len(devices)} devices; choose sizes whose product is {len(devices)}"
            )
        # Linen's convolutions need automatic axes: under explicit ones they raise ShardingTypeError.
        axis_types = (AxisType.Auto,) * len(MESH_AXES)
        return jax.make_mesh((data, self.fsdp, self.tensor), MESH_AXES, axis_types=axis_types, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over every device that holds a share of it."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_shards(mesh: Mesh) -> int:
    """Number of parts the batch is split into."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Refuses a global batch that the mesh cannot split evenly.

    Raises:
        ValueError: with the nearest sizes that would do.
    """
    shards = batch_shards(mesh)
    if batch_size < 1 or batch_size % shards:
        lower = batch_size // shards * shards
        choices = f"{lower} or {lower + shards}" if lower > 0 else f"{shards}"
        raise ValueError(f"batch_size {batch_size} is not divisible by {shards} devices; use {choices}")


def place_batch(batch: Tree, sharding: NamedSharding) -> Tree:
    """Makes global arrays from the rows that this process holds."""
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)
