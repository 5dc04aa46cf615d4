"""What a training run shows and records: `metrics.jsonl`, TensorBoard files, and progress on the screen.

The loop hands over Python floats and knows nothing of files or terminals:

    with Telemetry(workdir, total_steps=3000, start_step=state_step) as telemetry:
        telemetry.log(step, {"loss": 0.71, "pairs_per_second": 612.0, "data_wait_share": 0.03})
        telemetry.log_evaluation(step, "compositional", {"image_to_text_recall@1": 0.52})
        telemetry.message("reading 3,160 pairs")

A step in this file counts finished optimizer steps: a checkpoint of step n continues with `start_step=n`.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from tensorboardX import SummaryWriter

from align_jax.training.live_progress import LiveProgress, RunConsole
from align_jax.training.metrics_log import MetricsLog, Values


class Telemetry:
    """Everything one run tells the outside world; a context manager, so that files end whole after an error too.

    Only the process with `primary=True` writes or prints; on every other process each method does nothing, so the
    loop calls them without asking which process it is.

    Args:
        workdir: folder of the run; gets `metrics.jsonl` and `tensorboard/`.
        total_steps: the step at which the run ends.
        start_step: the step of the restored checkpoint; anything recorded for a later step is dropped.
        primary: whether this process is the one that writes.
        console: where to show progress; standard output if None.
        plain_interval_seconds: away from a terminal, the least time between two lines of training progress.
        clock: seconds from any fixed origin.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        total_steps: int,
        start_step: int = 0,
        primary: bool = True,
        console: Console | None = None,
        plain_interval_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._workdir = workdir
        self._start_step = start_step
        self._primary = primary
        self._progress = LiveProgress(total_steps, start_step, console or RunConsole(), plain_interval_seconds, clock)
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        if self._primary:
            with ExitStack() as opened:
                self._workdir.mkdir(parents=True, exist_ok=True)
                self._metrics = MetricsLog(self._workdir / "metrics.jsonl", start_step=self._start_step)
                opened.callback(self._metrics.close)
                self._tensorboard = self._open_tensorboard(self._start_step)
                opened.callback(lambda: self._tensorboard.close())
                opened.enter_context(self._progress)
                self._resources = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.close()

    def log(self, step: int, values: Values) -> None:
        """Records training values of `step`, such as loss, pairs_per_second and data_wait_share."""
        if self._primary:
            self._record(step, values, tensorboard_group="train/")
            self._progress.train(step, values)

    def log_evaluation(self, step: int, name: str, values: Values) -> None:
        """Records the outcome of evaluation `name` at `step`, with each key as `name/key`."""
        if self._primary:
            self._record(step, {f"{name}/{key}": value for key, value in values.items()}, tensorboard_group="")
            self._progress.evaluation(step, name, values)

    def advance(self, step: int) -> None:
        """Moves the progress bar without recording anything; cheap enough for every step."""
        if self._primary:
            self._progress.advance(step)

    def message(self, text: str) -> None:
        """Shows `text` on a line of its own, above the progress bar where there is one."""
        if self._primary:
            self._progress.message(text)

    def sync(self) -> None:
        """Returns when the metrics so far are on disk."""
        if self._primary:
            self._metrics.sync()

    def rewind(self, step: int) -> None:
        """Forgets what was recorded after `step`, to which the run goes back."""
        if self._primary:
            self._metrics.rewind(step)
            self._tensorboard.close()
            self._tensorboard = self._open_tensorboard(step)
            self._progress.rewind(step)

    def _open_tensorboard(self, step: int) -> SummaryWriter:
        # TensorBoard hides what an earlier attempt wrote at purge_step and after.
        return SummaryWriter(str(self._workdir / "tensorboard"), purge_step=step + 1, flush_secs=20)

    def _record(self, step: int, values: Values, tensorboard_group: str) -> None:
        self._metrics.append(step, values)
        for key, value in values.items():
            self._tensorboard.add_scalar(tensorboard_group + key, value, step)
