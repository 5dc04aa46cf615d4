"""A window of steps that JAX's profiler records, for TensorBoard's trace viewer or Perfetto."""

import dataclasses
import re
from pathlib import Path
from types import TracebackType
from typing import Self

import jax


@dataclasses.dataclass(frozen=True)
class Steps:
    """Steps `first` to `last`, both included."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> "Steps":
        """Reads `100:105`.

        Raises:
            ValueError: if that is not what it says.
        """
        match = re.fullmatch(r"(\d+):(\d+)", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"{text!r} is no range of steps; use FIRST:LAST, such as 100:105, counting from 1")
        return cls(int(match[1]), int(match[2]))


class Profiler:
    """Records a window of steps into a folder; does nothing without a window.

    Args:
        folder: gets the trace; every process writes files of its own.
        steps: the window. One that began before the run did is recorded from where the run begins.
    """

    def __init__(self, folder: Path, steps: Steps | None):
        self._folder, self._steps, self._recording = folder, steps, False

    def before(self, step: int) -> None:
        """Called before `step` is dispatched."""
        if self._steps and not self._recording and self._steps.first <= step <= self._steps.last:
            jax.profiler.start_trace(self._folder)
            self._recording = True

    def after(self, step: int, wait_for: jax.Array) -> bool:
        """Called after `step` was dispatched; at the end of the window waits for it and writes the trace.

        Returns:
            Whether the trace was written just now.
        """
        if self._steps is None or not self._recording or step < self._steps.last:
            return False
        wait_for.block_until_ready()
        self._stop()
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._recording:
            self._stop()

    def _stop(self) -> None:
        self._recording = False
        jax.profiler.stop_trace()
