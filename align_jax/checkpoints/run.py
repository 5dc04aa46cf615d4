"""Checkpoints of a training run, `checkpoints/<step>/`, written in the background by Orbax and checked when read.

Every step has a manifest of checksums. It is written after everything else, and before older steps are deleted; a step
that differs from its manifest is never restored.
"""

import contextlib
import copy
import dataclasses
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

import jax
from absl import logging
from orbax.checkpoint import (
    AsyncCheckpointer,
    CompositeCheckpointHandler,
    JsonCheckpointHandler,
    StandardCheckpointHandler,
    args,
)

from align_jax.checkpoints.agreement import PrimaryError, from_primary
from align_jax.checkpoints.differences import casts, differences
from align_jax.checkpoints.snapshot import start_copy
from align_jax.checkpoints.steps import CheckpointError, Rejected, SaveError, Selection, Steps
from align_jax.checkpoints.stray_errors import print_no_stray_errors
from align_jax.checkpoints.variables import at_once_gb, read_entries, read_metadata
from align_jax.files import PathLike, is_disk_full

State = TypeVar("State")

Weights = Literal["ema", "raw"]
"""Which parameters of a training run count: their running average, where there is one, or the last ones."""

_AT_ONCE_BYTES = 1e9  # that Orbax compresses and writes, or reads, or the largest array


@dataclasses.dataclass(frozen=True)
class Restored(Generic[State]):
    """The state of a checkpoint, and the JSON object that was saved beside it.

    Attributes:
        rejected: newer steps that are not whole; those that were damaged are now called `<step>.damaged`.
        casts: what was converted to another floating type, in words.
    """

    step: int
    state: State
    position: dict[str, Any]
    rejected: tuple[Rejected, ...] = ()
    casts: tuple[str, ...] = ()


class Checkpoints:
    """The checkpoints of one workdir; a context manager that ends with every write finished.

    All processes of a run make the same calls in the same order, on a file system that they share.

    Args:
        directory: holds one folder per step; local, or remote as `gs://bucket/run/checkpoints`.
        keep_latest: how many of the newest steps stay; older ones are deleted when a newer one is whole.
        keep_every: steps that are a multiple of it stay too.
    """

    def __init__(self, directory: PathLike, *, keep_latest: int = 3, keep_every: int | None = None):
        self._steps = Steps(directory, keep_latest=keep_latest, keep_every=keep_every)
        self._checkpointer: AsyncCheckpointer | None = None
        self._primary = jax.process_index() == 0
        self._newest: int | None = None  # saved or restored by this process
        self._writer: threading.Thread | None = None
        self._failure: SaveError | None = None
        self.rejected: tuple[Rejected, ...] = ()
        """The steps that the last `restore` found not to be whole, also where it found no other."""

    def latest_step(self) -> int | None:
        """The newest step that was written to the end, if any; `restore` finds out whether it is still whole."""
        return max(self._steps.finished(), default=None)

    def save(self, step: int, state: Any, position: dict[str, Any]) -> None:
        """Starts to write a step; the step saved or restored last is left alone.

        Returns when `state` may be donated. Waits for the step before, if that is still being written. What fails
        in the background is raised by `check_errors` and `wait`.
        """
        self._join()
        if step == self._newest:
            return
        before, self._newest = self._newest, step
        logging.set_verbosity(logging.FATAL)  # what goes wrong is raised; Orbax's threads print it as well
        try:
            from_primary(partial(self._steps.begin, step))
            write = self._start(step, state, copy.deepcopy(position))
        except Exception as error:
            self._failed(step, before, error)
            return
        self._writer = threading.Thread(target=self._finish, args=(step, before, write), name=f"checkpoint {step}")
        self._writer.start()

    def restore(self, abstract_state: State) -> Restored[State] | None:
        """The newest state that is whole, on the devices and in the floating types of `abstract_state`.

        Returns:
            None where no checkpoint was ever finished.

        Raises:
            CheckpointError: if all checkpoints are damaged, or the newest whole one does not have the names and shapes
                of `abstract_state`; nothing was changed then.
        """
        self._join()
        selection = self._select()
        restored = None
        if selection.step is None:
            if any(not rejected.unfinished for rejected in selection.rejected):
                raise self._nothing_whole(selection)
        else:
            restored = self._read(selection.step, abstract_state)
        try:
            from_primary(partial(self._steps.clear, selection))
        except PrimaryError as error:
            raise CheckpointError(f"{self._steps.directory} cannot be written: {error}") from error
        self._newest = selection.step
        return restored

    def restore_variables(self, weights: Weights = "ema") -> dict[str, Any]:
        """The newest `params` and `batch_stats`, on the default device.

        Changes no file. Warns of newer checkpoints that are damaged.

        Args:
            weights: "ema" takes the averaged parameters where there are any, "raw" those that were trained last.

        Raises:
            CheckpointError: if there is no checkpoint that is whole.
        """
        selection = self._steps.select()
        damaged = [rejected for rejected in selection.rejected if not rejected.unfinished]
        if selection.step is None:
            if damaged:
                raise self._nothing_whole(selection)
            raise CheckpointError(f"{self._steps.directory} holds no finished checkpoint; train for some steps first")
        for rejected in damaged:
            warnings.warn(f"{self._steps.directory}: {rejected}", RuntimeWarning, stacklevel=2)
        folder = self._steps.folder(selection.step) / "state"
        with _readable(folder.parent):
            averaged = weights == "ema" and read_metadata(folder).get("ema_params")
            params = "ema_params" if averaged else "params"
            state = read_entries(folder, (params, "batch_stats"))
        return {"params": state[params], "batch_stats": state["batch_stats"]}

    def wait(self) -> None:
        """Returns when everything saved so far is on disk, with its manifest.

        Raises:
            SaveError: if something could not be written.
        """
        self._join()
        self.check_errors()

    def check_errors(self) -> None:
        """Returns at once.

        Raises:
            SaveError: if a step could not be written; each failure is raised once, and the next `save` is free to work.
        """
        if (failure := self._failure) is not None:
            self._failure = None
            raise failure

    def __enter__(self) -> Self:
        """From now on, what fails in the background is raised and not printed."""
        print_no_stray_errors()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finishes the writes; raises what failed, unless something else did already."""
        self._join()
        if self._checkpointer is not None:
            self._checkpointer.close()
        if error is None:
            self.check_errors()

    def _start(self, step: int, state: Any, position: dict[str, Any]) -> Callable[[], None]:
        """Does what must be done before the state is donated; what it returns does the rest."""
        checkpointer = self._orbax(state)

        def save(tree: Any) -> None:
            items = args.Composite(state=args.StandardSave(tree), position=args.JsonSave(position))
            checkpointer.save(self._steps.folder(step), args=items)

        def finish() -> None:
            if copies is not None:
                save(copies())
            checkpointer.wait_until_finished()

        copies = start_copy(state)
        if copies is None:
            save(state)  # Orbax has copied it when this returns
        return finish

    def _orbax(self, state: Any) -> AsyncCheckpointer:
        """What reads and writes states like this, a part at a time; all at once takes several times its memory."""
        if self._checkpointer is None:
            limit_gb = at_once_gb(state, _AT_ONCE_BYTES)
            handler = StandardCheckpointHandler(save_concurrent_gb=limit_gb, restore_concurrent_gb=limit_gb)
            items = {"state": handler, "position": JsonCheckpointHandler()}
            self._checkpointer = AsyncCheckpointer(CompositeCheckpointHandler(**items))
        return self._checkpointer

    def _finish(self, step: int, before: int | None, write: Callable[[], None]) -> None:
        """Writes a step to the end, in a thread of its own."""
        try:
            write()
            if self._primary:
                _yield_to_training()
                self._steps.finish(step)
        except Exception as error:
            self._failed(step, before, error)
            return
        if self._primary:
            try:
                self._steps.prune()
            except Exception as error:  # the step is whole; the next one will find the old ones again
                self._failure = SaveError(
                    f"checkpoint {step} is written, but an older one could not be deleted: {_first_line(error)}"
                )

    def _failed(self, step: int, before: int | None, error: Exception) -> None:
        full = f"the disk of {self._steps.directory} is full; make room"
        reason = full if is_disk_full(error) else _first_line(error)
        failure = SaveError(
            f"checkpoint {step} could not be written: {reason}; the earlier checkpoints are as they were"
        )
        failure.__cause__ = error
        self._newest, self._failure = before, failure
        if self._primary and not isinstance(error, SaveError | PrimaryError):
            with contextlib.suppress(OSError):  # the mark stays, and the next restore deletes what is left
                self._steps.discard(step)

    def _join(self) -> None:
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def _select(self) -> Selection:
        """Finds the newest whole step; one process reads the files."""
        try:
            found = from_primary(lambda: dataclasses.asdict(self._steps.select()))
        except PrimaryError as error:
            raise CheckpointError(f"{self._steps.directory} cannot be read: {error}") from error
        self.rejected = tuple(Rejected(**rejected) for rejected in found["rejected"])
        return Selection(found["step"], self.rejected)

    def _nothing_whole(self, selection: Selection) -> CheckpointError:
        reasons = "; ".join(f"{rejected.step}: {rejected.reason}" for rejected in selection.rejected)
        return CheckpointError(
            f"no checkpoint in {self._steps.directory} is whole ({reasons}); nothing was changed; bring the "
            "files back from a copy, or give another workdir"
        )

    def _read(self, step: int, abstract_state: State) -> Restored[State]:
        folder = self._steps.folder(step)
        with _readable(folder):
            saved = read_metadata(folder / "state")
        different = differences(saved, abstract_state)
        if different:
            raise CheckpointError(
                f"checkpoint {folder} is not of this experiment: {'; '.join(different[:5])}"
                f"{f'; and {len(different) - 5} more' if len(different) > 5 else ''}; "
                "give another workdir, or the experiment it was made with"
            )
        wanted = args.Composite(state=args.StandardRestore(abstract_state), position=args.JsonRestore())
        with _readable(folder):
            found = self._orbax(abstract_state).restore(folder, args=wanted)
        return Restored(step, found["state"], found["position"], self.rejected, casts(saved, abstract_state))


def _yield_to_training() -> None:
    """Lowers the priority of this thread, as far as the system allows it: checksums take long and are not urgent."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)


@contextlib.contextmanager
def _readable(folder: Any) -> Iterator[None]:
    """What goes wrong with files that are as they were written is no damage, and an older step would not help."""
    try:
        yield
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"checkpoint {folder} is whole but cannot be read ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
