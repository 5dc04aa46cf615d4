"""Checkpoints of a training run, `checkpoints/<step>/`, written in the background by Orbax.

The only file that knows Orbax. A step appears under its name when it is whole; a step that was being written when the
process died has a temporary name and is ignored.
"""

import dataclasses
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import (
    Checkpointer,
    CheckpointManager,
    CheckpointManagerOptions,
    JsonCheckpointHandler,
    PyTreeCheckpointHandler,
    StandardCheckpointHandler,
    args,
)
from orbax.checkpoint.checkpoint_utils import construct_restore_args

from align_jax.files import check_manifest, write_manifest

State = TypeVar("State")

_AT_ONCE_BYTES = 1e8  # of copies in memory while a model folder is written or read, or the largest array


class CheckpointError(ValueError):
    """A checkpoint cannot be restored, or belongs to another experiment."""


@dataclasses.dataclass(frozen=True)
class Restored(Generic[State]):
    """The state of a checkpoint, and the JSON object that was saved beside it."""

    step: int
    state: State
    position: dict[str, Any]


class Checkpoints:
    """The checkpoints of one workdir; a context manager that ends with every write finished.

    Args:
        directory: holds one folder per step.
        keep_latest: older steps are deleted.
    """

    def __init__(self, directory: str | Path, *, keep_latest: int = 3):
        self._manager = CheckpointManager(
            Path(directory).absolute(),
            # Named here, so that the shapes on disk can be asked for before anything is restored.
            item_handlers={"state": StandardCheckpointHandler(), "position": JsonCheckpointHandler()},
            options=CheckpointManagerOptions(max_to_keep=keep_latest, create=True, enable_async_checkpointing=True),
        )

    def latest_step(self) -> int | None:
        """The newest finished step, if there is any."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, position: dict[str, Any]) -> None:
        """Copies the arrays to the host, then writes in the background; a step that is there already is left alone."""
        if step in self._manager.all_steps():
            return
        self._manager.save(step, args=args.Composite(state=args.StandardSave(state), position=args.JsonSave(position)))

    def restore(self, abstract_state: State) -> Restored[State] | None:
        """The newest state, on the devices that `abstract_state` names; None where there is no checkpoint.

        Raises:
            CheckpointError: if it does not have the shapes and names of `abstract_state`.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        where = f"checkpoint {self._manager.directory / str(step)}"
        differences = _differences(self._manager.item_metadata(step)["state"], abstract_state)
        if differences:
            raise CheckpointError(
                f"{where} is not of this experiment: {'; '.join(differences[:5])}"
                f"{f'; and {len(differences) - 5} more' if len(differences) > 5 else ''}; "
                "give another workdir, or the experiment it was made with"
            )
        try:
            found = self._manager.restore(
                step,
                args=args.Composite(state=args.StandardRestore(abstract_state), position=args.JsonRestore()),
            )
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise CheckpointError(
                f"{where} cannot be read ({str(error).splitlines()[0]}); delete that folder to continue from the "
                "checkpoint before it"
            ) from error
        return Restored(step, found["state"], found["position"])

    def restore_variables(self) -> dict[str, Any]:
        """The newest `params` (the averaged ones where there are any) and `batch_stats`, on the default device.

        Raises:
            CheckpointError: if there is no checkpoint.
        """
        step = self._manager.latest_step()
        if step is None:
            raise CheckpointError(f"{self._manager.directory} holds no finished checkpoint; train for some steps first")
        folder = self._manager.directory / str(step) / "state"
        try:
            params = "ema_params" if _metadata(folder).get("ema_params") else "params"
            state = _restore(folder, (params, "batch_stats"))
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"checkpoint {folder.parent} is damaged ({reason}); delete it") from error
        return {"params": state[params], "batch_stats": state["batch_stats"]}

    def wait(self) -> None:
        """Returns when everything saved so far is on disk."""
        self._manager.wait_until_finished()

    def __enter__(self) -> Self:
        """Nothing to open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finishes the writes."""
        self._manager.close()


def save_variables(folder: Path, variables: dict[str, Any]) -> None:
    """Writes a tree of arrays and a manifest of checksums, a few arrays at a time."""
    limit_gb = _limit_gb(variables)
    handler = PyTreeCheckpointHandler(save_concurrent_gb=limit_gb, save_device_host_concurrent_gb=limit_gb)
    # Orbax copies NumPy arrays before it starts, and JAX arrays as it goes.
    arrays = jax.tree.map(jnp.asarray, variables)
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
    return _restore(folder.absolute(), tuple(_metadata(folder.absolute())))


def _metadata(folder: Any) -> dict[str, Any]:
    """Shapes and types of a saved tree."""
    return PyTreeCheckpointHandler().metadata(folder).tree


def _restore(folder: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The named entries of a saved tree, on the default device; the others are not read."""
    device = SingleDeviceSharding(jax.devices()[0])
    saved = _metadata(folder)
    wanted = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=device),
        {name: saved[name] for name in names},
    )
    restore = args.PyTreeRestore(wanted, restore_args=construct_restore_args(wanted), partial_restore=True)
    with Checkpointer(PyTreeCheckpointHandler(restore_concurrent_gb=_limit_gb(wanted))) as checkpointer:
        return checkpointer.restore(folder, args=restore)


def _limit_gb(tree: Any) -> Any:  # a fraction, which Orbax takes and does not declare
    """How much Orbax may copy at once; it waits forever for room for an array that is larger than that."""
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)]
    return max([_AT_ONCE_BYTES, *sizes]) / 1e9


def _differences(saved: Any, wanted: Any) -> list[str]:
    """What keeps a saved tree from being restored as the wanted one, by path."""

    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}

    found, expected = shapes(dict(saved.items())), shapes(wanted)
    missing = [f"{path} is missing" for path in sorted(expected.keys() - found.keys())]
    extra = [f"{path} is not wanted" for path in sorted(found.keys() - expected.keys())]
    reshaped = [
        f"{path} has shape {found[path]}, not {expected[path]}"
        for path in sorted(expected.keys() & found.keys())
        if found[path] != expected[path]
    ]
    return missing + extra + reshaped
