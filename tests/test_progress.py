"""Progress is a bar on a terminal and a plain line now and then elsewhere."""

import io

from rich.console import Console

from align_jax.progress import progress


def test_plain_lines_come_now_and_then():
    output, now = io.StringIO(), 0.0
    with progress("converting", 200, Console(file=output, width=80), clock=lambda: now) as advance:
        for _ in range(20):
            now += 1.0
            advance(10)
    assert output.getvalue().splitlines() == [f"converting: {percent} %" for percent in (25, 50, 75, 100)]


def test_terminal_gets_a_bar_that_goes_away():
    output = io.StringIO()
    console = Console(file=output, width=80, force_terminal=True)
    with progress("converting", 2, console) as advance:
        advance(1)
        advance(1)
    assert "━" in output.getvalue()
    assert "100%" in output.getvalue()
