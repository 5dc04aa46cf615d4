"""Progress of long work on the screen: a bar on a terminal, a plain line now and then in a file or pipe."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

Advance = Callable[[float], None]

_PLAIN_INTERVAL_SECONDS = 5.0


@contextmanager
def progress(
    title: str,
    total: float,
    console: Console,
    *,
    done: float = 0.0,
    unit: str | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Advance]:
    """Shows how far the work of the block is.

    Args:
        title: what is being done.
        total: the amount of work, in any unit.
        console: where to show it.
        done: of that, what an earlier start did; it says nothing about the time that is left.
        unit: what the work is counted in; where it is given, its rate and the time left are shown too.
        clock: seconds from any fixed origin.

    Yields:
        A function that takes the amount of work just done.
    """
    if console.is_terminal:
        rate = (_Rate(unit),) if unit else ()
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), *rate, TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(title, total=total, completed=done)  # pyrefly: ignore[bad-argument-type]
            yield lambda amount: bar.advance(task, amount)
        return
    first, begun = done, clock()
    shown, shown_done = begun, done

    def show(now: float) -> None:
        nonlocal shown, shown_done
        shown, shown_done = now, done
        rate = (done - first) / (now - begun)
        left = f", {duration((total - done) / max(rate, 1e-9))} left" if done < total else ""
        speed = f", {rate:,.1f} {unit}/s{left}" if unit else ""
        console.print(f"{title}: {100 * done / max(total, 1):.0f} %{speed}")

    def advance(amount: float) -> None:
        nonlocal done
        done += amount
        now = clock()
        if now - shown >= _PLAIN_INTERVAL_SECONDS:
            show(now)

    yield advance
    if shown > begun and done > shown_done:  # who has read how far it was reads that it is over
        show(clock())


def duration(seconds: float) -> str:
    """A time in the two largest units that say something: "3 h 20 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((index for index, (amount, _) in enumerate(parts) if amount), len(parts) - 1)
    return " ".join(f"{amount} {name}" for amount, name in parts[first : first + 2])


class _Rate(ProgressColumn):
    """How much is done in a second."""

    def __init__(self, unit: str):
        self._unit = unit
        super().__init__()

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.1f} {self._unit}/s" if task.speed else "")
