"""Checkpoints of a training run, `checkpoints/<step>/`, written in the background by Orbax.

The only file that knows Orbax. A step appears under its name when it is whole; a step that was being written when the
process died has a temporary name and is ignored.
"""

import dataclasses
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import jax
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import (
    CheckpointManager,
    CheckpointManagerOptions,
    JsonCheckpointHandler,
    StandardCheckpointHandler,
    args,
)

State = TypeVar("State")


class CheckpointError(RuntimeError):
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
        everywhere = SingleDeviceSharding(jax.devices()[0])
        saved = self._manager.item_metadata(step)["state"]
        wanted = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=everywhere), dict(saved.items())
        )
        state = self._manager.restore(step, args=args.Composite(state=args.StandardRestore(wanted)))["state"]
        return {"params": state.get("ema_params") or state["params"], "batch_stats": state["batch_stats"]}

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
