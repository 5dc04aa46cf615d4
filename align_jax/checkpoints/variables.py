"""Trees of arrays in a folder: the variables of a model, and those within a checkpoint."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import Checkpointer, PyTreeCheckpointHandler, args
from orbax.checkpoint.checkpoint_utils import construct_restore_args

from align_jax.checkpoints.stray_errors import print_no_stray_errors
from align_jax.files import check_manifest, write_manifest

_AT_ONCE_BYTES = 1e8  # of copies in memory while a model folder is written or read, or the largest array


def save_variables(folder: Path, variables: dict[str, Any]) -> None:
    """Writes a tree of arrays and a manifest of checksums, a few arrays at a time."""
    limit_gb = at_once_gb(variables)
    handler = PyTreeCheckpointHandler(save_concurrent_gb=limit_gb, save_device_host_concurrent_gb=limit_gb)
    # Orbax copies NumPy arrays before it starts, and JAX arrays as it goes.
    arrays = jax.tree.map(jnp.asarray, variables)
    print_no_stray_errors()
    logging.set_verbosity(logging.FATAL)  # what goes wrong is raised; Orbax's threads print it as well
    with Checkpointer(handler) as checkpointer:
        checkpointer.save(folder.absolute(), args=args.PyTreeSave(arrays))
    write_manifest(folder)


def restore_variables(folder: Path) -> dict[str, Any]:
    """Reads what `save_variables` wrote, onto the default device.

    Raises:
        ManifestError: if a file is missing, added or altered.
    """
    check_manifest(folder)
    return read_entries(folder.absolute(), tuple(read_metadata(folder.absolute())))


def read_metadata(folder: Any) -> dict[str, Any]:
    """Shapes and types of a saved tree."""
    return PyTreeCheckpointHandler().metadata(folder).tree


def read_entries(folder: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The named entries of a saved tree, on the default device; the others are not read."""
    device = SingleDeviceSharding(jax.devices()[0])
    saved = read_metadata(folder)
    wanted = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=device),
        {name: saved[name] for name in names},
    )
    restore = args.PyTreeRestore(wanted, restore_args=construct_restore_args(wanted), partial_restore=True)
    with Checkpointer(PyTreeCheckpointHandler(restore_concurrent_gb=at_once_gb(wanted))) as checkpointer:
        return checkpointer.restore(folder, args=restore)


def at_once_gb(
    tree: Any, at_once_bytes: float = _AT_ONCE_BYTES
) -> Any:  # a fraction, which Orbax takes and does not declare
    """How much Orbax may copy at once; it waits forever for room for an array that is larger than that."""
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)]
    return max([at_once_bytes, *sizes]) / 1e9
