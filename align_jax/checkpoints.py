"""Checkpoints of a training run, `checkpoints/<step>/`, written in the background by Orbax.

The only file that knows Orbax. A step appears under its name when it is whole; a step that was being written when the
process died has a temporary name and is ignored.
"""

import dataclasses
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from orbax.checkpoint import CheckpointManager, CheckpointManagerOptions, args

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
        try:
            found = self._manager.restore(
                step,
                args=args.Composite(state=args.StandardRestore(abstract_state), position=args.JsonRestore()),
            )
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise CheckpointError(
                f"checkpoint {self._manager.directory / str(step)} does not fit this experiment, or is damaged "
                f"({str(error).splitlines()[0]}); give another workdir, or the experiment it was made with"
            ) from error
        return Restored(step, found["state"], found["position"])

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
