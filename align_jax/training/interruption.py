"""SIGTERM, which is how schedulers and TPU preemption announce the end: the run saves its state and exits in order.

One process handles the signal itself. In several, JAX's preemption service hands the news to all of them and names the
same step to each, so that every process takes part in the same save.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

import jax
from jax.experimental import multihost_utils


class InterruptedRunError(RuntimeError):
    """The run was told to stop, and has saved its state.

    Attributes:
        step: the last finished step, which is the one that was saved.
        exit_status: 143, what shells and schedulers see of a process that SIGTERM ended, and start again.
    """

    exit_status = 128 + signal.SIGTERM

    def __init__(self, step: int):
        saved = (
            f"saved at step {step}; the same command continues" if step else "before the first step; nothing is saved"
        )
        super().__init__(f"stopped by SIGTERM, {saved}")
        self.step = step


class Interruption:
    """A context manager within which SIGTERM is a request and no longer the end; a second one changes nothing.

    The signal's own behaviour is back afterwards. Away from the main thread, where Python lets no one handle signals,
    nothing is ever requested.

    Attributes:
        received: whether the run was asked to stop, as far as this process knows.
    """

    def __init__(self) -> None:
        self.received = False
        self._waiting = False
        self._calls = 0
        self._previous = None
        self._alone = jax.process_count() == 1

    def due(self) -> bool:
        """Whether to save and stop now; every process asks once a step, and all get the same answer."""
        if self._alone:
            return self.received
        self._calls += 1  # not the training step, which a rollback takes back
        return multihost_utils.reached_preemption_sync_point(self._calls)

    def check(self) -> None:
        """Ends work that several processes divide alike, on all of them after the same part; they ask after each part.

        A process that is alone need not ask, see `waiting`.

        Raises:
            Interrupted: when asked to stop.
        """
        if not self._alone and self.due():
            self.received = True
            raise Interrupted

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A wait that may be given up: within it, or on the way into it, a request ends the block at once.

        In several processes it does not: all of them must stop at the same place, see `check`.

        Raises:
            Interrupted: when asked to stop.
        """
        self._waiting = True
        try:
            if self.received and self._alone:
                raise Interrupted
            yield
        finally:
            self._waiting = False

    def __enter__(self) -> Self:
        # In several processes the signal is JAX's, whose service installed a handler of its own.
        if self._alone and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        if self._waiting:
            self._waiting = False
            raise Interrupted


class Interrupted(BaseException):
    """A wait was given up because the run must stop; like KeyboardInterrupt, nothing that handles errors catches it."""
