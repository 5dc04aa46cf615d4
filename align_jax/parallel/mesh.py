"""The device mesh: its named axes, and how a batch lies on it.

`data` and `fsdp` both split the batch; parameters are split over `fsdp`, wide layers over `tensor` as well. Slices of a
TPU, connected only by the network of the data center, are the major part of `data`: they exchange gradients and the
embeddings of the loss, and each holds all parameters.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

BATCH_AXES = ("data", "fsdp")
MESH_AXES = ("data", "fsdp", "tensor")

Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Devices along each axis.

    Attributes:
        data: over all slices; `None` takes every device that the other axes leave.
        fsdp: devices that share one copy of parameters and optimizer state.
        tensor: devices that share the wide layers of the text tower.
        slices: TPU slices, each of which holds its own copies of the parameters; `data` is a multiple of them.
    """

    data: int | None = None
    fsdp: int = 1
    tensor: int = 1
    slices: int = 1

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
        if self.slices < 1 or data % self.slices:
            raise ValueError(f"data={data} is not divisible by slices={self.slices}; each slice holds whole copies")
        # Linen's convolutions need automatic axes: under explicit ones they raise ShardingTypeError.
        axis_types = (AxisType.Auto,) * len(MESH_AXES)
        groups = _by_slice(devices, self.slices)
        if len(groups) == 1:
            return jax.make_mesh((data, self.fsdp, self.tensor), MESH_AXES, axis_types=axis_types, devices=devices)
        shape = (data // self.slices, self.fsdp, self.tensor)
        grids = [create_device_mesh(shape, group, allow_split_physical_axes=True) for group in groups]
        return Mesh(np.concatenate(grids), MESH_AXES, axis_types=axis_types)


def _by_slice(devices: Sequence[Any], slices: int) -> list[list[Any]]:
    """The devices of each slice; hardware that has no slices is taken in equal parts, in its own order."""
    if devices[0].platform == "tpu":
        numbers = sorted({getattr(device, "slice_index", 0) for device in devices})
        if len(numbers) != slices:
            raise ValueError(f"the devices lie in {len(numbers)} slices, not {slices}; set slices={len(numbers)}")
        return [[device for device in devices if getattr(device, "slice_index", 0) == number] for number in numbers]
    each = len(devices) // slices
    return [list(devices[start : start + each]) for start in range(0, len(devices), each)]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over every device that holds a share of it."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_shards(mesh: Mesh | AbstractMesh) -> int:
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


def process_rows(sharding: NamedSharding, batch_size: int) -> list[int]:
    """Rows of the global batch that lie on devices of this process, in ascending order.

    They need not be consecutive, and where devices of several processes share the same rows, each of these processes
    has to provide them.
    """
    held = [index[0] for index in sharding.addressable_devices_indices_map((batch_size,)).values() if index]
    return sorted({row for rows in held for row in range(*rows.indices(batch_size))})


def place_batch(batch: Tree, sharding: NamedSharding) -> Tree:
    """Makes global arrays from the rows that this process holds, which are those of `process_rows`, in that order."""
    shards = batch_shards(sharding.mesh)
    held = process_rows(sharding, shards)

    def place(rows: np.ndarray) -> jax.Array:
        each = len(rows) // len(held)

        def of_device(index: Any) -> np.ndarray:
            first = held.index((index[0].start or 0) // each) * each
            return rows[first : first + each]

        return jax.make_array_from_callback((each * shards, *rows.shape[1:]), sharding, of_device)

    return jax.tree.map(place, batch)
