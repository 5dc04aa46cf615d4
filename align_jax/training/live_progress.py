"""How a run shows on the screen: a live bar on a terminal, plain lines in a file or pipe."""

import math
import os
import sys
from collections import deque
from collections.abc import Callable
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from align_jax.training.metrics_log import Values


class RunConsole(Console):
    """A console that falls silent when nobody reads it any more, such as after a lost connection; the run goes on."""

    def on_broken_pipe(self) -> None:
        """Turns the output off."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class LiveProgress:
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

    def rewind(self, step: int) -> None:
        """Says that the run went back to `step`."""
        self._step = step
        self._pace = _Pace(self._clock)

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
        """Shows the outcome of an evaluation, and keeps its first number in sight beside the bar."""
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
            "pairs_per_second_per_device": "{:,.4g} per device",
            "images_per_second": "{:,.0f} images/s",
            "images_per_second_per_device": "{:,.4g} per device",
            "flop_utilization": "{:.1%} of peak FLOP/s",
            "data_wait_share": "{:.0%} waiting for data",
            "temperature": "temperature {:.4g}",
            "gradient_norm": "gradient norm {:.3g}",
            "learning_rate": "learning rate {:.3g}",
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
