"""Progress of long work on the screen: a bar on a terminal, a plain line now and then in a file or pipe."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

Advance = Callable[[float], None]

_PLAIN_INTERVAL_SECONDS = 5.0


@contextmanager
def progress(
    title: str, total: float, console: Console, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Advance]:
    """Shows how far the work of the block is.

    Args:
        title: what is being done.
        total: the amount of work, in any unit.
        console: where to show it.
        clock: seconds from any fixed origin.

    Yields:
        A function that takes the amount of work just done.
    """
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(title, total=total)
            yield lambda amount: bar.advance(task, amount)
        return
    done, shown = 0.0, clock()

    def advance(amount: float) -> None:
        nonlocal done, shown
        done += amount
        if clock() - shown >= _PLAIN_INTERVAL_SECONDS:
            shown = clock()
            console.print(f"{title}: {100 * done / max(total, 1):.0f} %")

    yield advance
