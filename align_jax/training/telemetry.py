"""What a training run shows and records: `metrics.jsonl`, TensorBoard files, and progress on the screen.

The loop hands over Python floats and knows nothing of files or terminals:

    with Telemetry(workdir, total_steps=3000, start_step=state_step) as telemetry:
        telemetry.log(step, {"loss": 0.71, "pairs_per_second": 612.0, "data_wait_share": 0.03})
        telemetry.log_evaluation(step, "compositional", {"image_to_text_recall@1": 0.52})
        telemetry.message("reading 3,160 pairs")

A step in this file counts finished optimizer steps: a checkpoint of step n continues with `start_step=n`.
"""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from tensorboardX import SummaryWriter

from align_jax.files import replace_file

Values = Mapping[str, float | int]


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
        self._progress = Progress(total_steps, start_step, console or Console(), plain_interval_seconds, clock)
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        if self._primary:
            with ExitStack() as opened:
                self._workdir.mkdir(parents=True, exist_ok=True)
                self._metrics = MetricsLog(self._workdir / "metrics.jsonl", start_step=self._start_step)
                opened.callback(self._metrics.close)
                # TensorBoard hides what an earlier attempt wrote at purge_step and after.
                folder = str(self._workdir / "tensorboard")
                self._tensorboard = SummaryWriter(folder, purge_step=self._start_step + 1, flush_secs=20)
                opened.callback(self._tensorboard.close)
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

    def _record(self, step: int, values: Values, tensorboard_group: str) -> None:
        self._metrics.append(step, values)
        for key, value in values.items():
            self._tensorboard.add_scalar(tensorboard_group + key, value, step)


class MetricsLog:
    """An append-only file of JSON objects, one a line, each with a whole `step`.

    Every line reaches the operating system before `append` returns, so a killed process loses at most a part of the
    line it was writing. Opening drops such a part and all lines of steps after `start_step`. There is one line for each
    step and set of keys: writing one again, as a repeated evaluation does, replaces it.

    JSON has no NaN or infinity, and null would not say which it was, so these are the strings "NaN", "Infinity" and
    "-Infinity" (`float` reads them; so does JavaScript's `Number`).

    Args:
        path: the file; made if absent.
        start_step: last step whose lines are kept.

    Raises:
        ValueError: a line that is not the last is damaged.
    """

    def __init__(self, path: Path, *, start_step: int):
        self._path = path
        self._rewrite(lambda record: record["step"] <= start_step)
        self._written = {_identity(record) for _, record in _parse(path)}

    def append(self, step: int, values: Values) -> None:
        """Writes the line `{"step": step, **values}`."""
        record = {"step": step, **values}
        if _identity(record) in self._written:
            self.close()
            self._rewrite(lambda old: _identity(old) != _identity(record))
        spelled = {key: value if math.isfinite(value) else _spell(value) for key, value in record.items()}
        self._file.write((json.dumps(spelled, allow_nan=False) + "\n").encode())
        self._file.flush()
        self._written.add(_identity(record))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _rewrite(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        content = b"".join(line + b"\n" for line, record in _parse(self._path) if keep(record))
        if not self._path.exists() or self._path.read_bytes() != content:
            replace_file(self._path, content)
        self._file = self._path.open("ab")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads a `metrics.jsonl`, also that of a run in progress; NaN and infinities are floats again.

    Args:
        path: the file; one that does not exist has no lines.

    Returns:
        One dictionary a line, in the order of writing; an unfinished last line is left out.

    Raises:
        ValueError: a line that is not the last is damaged.
    """
    spelled = {"NaN", "Infinity", "-Infinity"}
    return [
        {key: float(value) if isinstance(value, str) and value in spelled else value for key, value in record.items()}
        for _, record in _parse(path)
    ]


def _parse(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()] if path.exists() else []
    parsed = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line.decode())
            if not isinstance(record, dict) or not isinstance(record.get("step"), int):
                raise ValueError("no whole number named step")
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(
                f"{path}, line {number} is not a metrics record: {line[:80]!r} ({error}); "
                "remove the line, or move the file away to start a new one"
            ) from error
        parsed.append((line, record))
    return parsed


def _identity(record: Mapping[str, Any]) -> tuple[int, frozenset[str]]:
    return record["step"], frozenset(record)


def _spell(value: float | int) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


class Progress:
    """Progress of a run on the screen: a live bar on a terminal, plain lines in a file or pipe.

    Args:
        total_steps: the step at which the run ends.
        start_step: the step it starts or continues from.
        console: where to show it.
        plain_interval_seconds: least time between two plain lines of training progress.
        clock: seconds from any fixed origin.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int,
        console: Console,
        plain_interval_seconds: float,
        clock: Callable[[], float],
    ):
        self._total_steps = total_steps
        self._step = start_step
        self._console = console
        self._interval_seconds = plain_interval_seconds
        self._clock = clock
        self._pace = _Pace(clock)
        self._values: Values = {}
        self._evaluation = ""
        self._last_line_seconds = -math.inf
        self._live = Live(console=console, get_renderable=self._render) if console.is_interactive else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start(refresh=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def advance(self, step: int) -> None:
        """Says that `step` has finished."""
        self._step = step
        self._pace.observe(step)

    def train(self, step: int, values: Values) -> None:
        """Shows training values of `step`."""
        self.advance(step)
        self._values = values
        due = self._clock() - self._last_line_seconds >= self._interval_seconds
        if not self._live and (due or step == self._total_steps):
            self._last_line_seconds = self._clock()
            time_left = f"time left {self._time_left()}"
            self.message("  ".join([f"step {step}/{self._total_steps}", *self._numbers(), time_left]))

    def evaluation(self, step: int, name: str, values: Values) -> None:
        """Shows the outcome of an evaluation, and keeps its first recall in sight beside the bar."""
        shown = {key: f"{key.replace('_', ' ')} {value:.4g}" for key, value in values.items()}
        self.message(f"step {step}/{self._total_steps}  {name}: " + ", ".join(shown.values()))
        self._evaluation = shown.get("image_to_text_recall@1", next(iter(shown.values()), ""))

    def message(self, text: str) -> None:
        """Shows a line of text."""
        # File names and captions end up here: they must not move the cursor, nor stop a run whose output is ASCII.
        visible = "".join(character if character.isprintable() or character == "\n" else "�" for character in text)
        encoding = self._console.encoding
        encodable = visible.encode(encoding, errors="replace").decode(encoding)
        self._console.print(encodable, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def _numbers(self) -> list[str]:
        formats = {
            "loss": "loss {:.4f}",
            "pairs_per_second": "{:,.0f} pairs/s",
            "data_wait_share": "{:.0%} waiting for data",
        }
        return [form.format(self._values[key]) for key, form in formats.items() if key in self._values]

    def _time_left(self) -> str:
        seconds = self._pace.seconds_left(self._total_steps)
        return "unknown" if seconds is None else format_duration(seconds)

    def _render(self) -> Group:
        bar = Table.grid(padding=(0, 2), expand=True)
        for ratio in (None, 1, None, None):
            bar.add_column(ratio=ratio, no_wrap=True)
        share = min(1.0, self._step / max(1, self._total_steps))
        bar.add_row(
            Text(f"step {self._step}/{self._total_steps}", style="bold"),
            ProgressBar(total=max(1, self._total_steps), completed=self._step),
            f"{share:.0%}",
            Text(f"time left {self._time_left()}", style="cyan"),
        )
        numbers = [*self._numbers(), *([self._evaluation] if self._evaluation else [])]
        return Group(bar, Text("   ".join(numbers) or "waiting for the first step", style="dim"))


class _Pace:
    """Time left, from the steps of the last two minutes.

    The first step observed only starts the clock: it holds the compilation, which does not come again.
    """

    window_seconds = 120.0

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._seen: deque[tuple[int, float]] = deque()

    def observe(self, step: int) -> None:
        now = self._clock()
        if not self._seen or step > self._seen[-1][0]:
            self._seen.append((step, now))
        while len(self._seen) > 2 and self._seen[1][1] < now - self.window_seconds:
            self._seen.popleft()

    def seconds_left(self, total_steps: int) -> float | None:
        if self._seen and self._seen[-1][0] >= total_steps:
            return 0.0
        if len(self._seen) < 2:
            return None
        (first_step, first_seconds), (last_step, last_seconds) = self._seen[0], self._seen[-1]
        seconds_per_step = (last_seconds - first_seconds) / (last_step - first_step)
        since_last_step = self._clock() - last_seconds
        return max(0.0, (total_steps - last_step) * seconds_per_step - since_last_step)


def format_duration(seconds: float) -> str:
    """Formats a time for people.

    >>> format_duration(7.2), format_duration(252), format_duration(3723), format_duration(200_000)
    ('0:07', '4:12', '1:02:03', '2d 7:33:20')
    """
    minutes, second = divmod(math.ceil(seconds) if seconds < 1 else round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
    return f"{days}d {clock}" if days else clock
