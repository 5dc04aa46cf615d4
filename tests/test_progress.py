"""Progress is a bar on a terminal and a plain line now and then elsewhere."""

import io

from rich.console import Console

from align_jax.progress import duration, progress


def test_plain_lines_come_now_and_then():
    output, now = io.StringIO(), 0.0
    with progress("converting", 200, Console(file=output, width=80), clock=lambda: now) as advance:
        for _ in range(20):
            now += 1.0
            advance(10)
    assert output.getvalue().splitlines() == [f"converting: {percent} %" for percent in (25, 50, 75, 100)]


def test_plain_lines_tell_the_end_where_they_told_of_the_way():
    moments = iter([0.0, 6.0, 8.0, 8.0])
    console = Console(file=io.StringIO(), width=100)
    with progress("embedding", 100, console, unit="texts", clock=lambda: next(moments)) as advance:
        advance(75)
        advance(25)
    assert console.file.getvalue().splitlines() == [
        "embedding: 75 %, 12.5 texts/s, 2 s left", "embedding: 100 %, 12.5 texts/s",
    ]  # fmt: skip


def test_short_work_says_nothing():
    console = Console(file=io.StringIO(), width=100)
    with progress("embedding", 1, console, clock=lambda: 0.0) as advance:
        advance(1)
    assert console.file.getvalue() == ""


def test_terminal_gets_a_bar_that_goes_away():
    output = io.StringIO()
    console = Console(file=output, width=80, force_terminal=True)
    with progress("converting", 2, console) as advance:
        advance(1)
        advance(1)
    assert "━" in output.getvalue()
    assert "100%" in output.getvalue()


def test_counted_work_says_how_fast_it_is_and_how_long_it_takes_without_what_was_done_before():
    moments = iter([0.0, 2.0, 10.0])
    console = Console(file=io.StringIO(), width=100)
    with progress("embedding", 100, console, done=50, unit="images", clock=lambda: next(moments)) as advance:
        advance(1)
        advance(19)
    assert console.file.getvalue() == "embedding: 70 %, 2.0 images/s, 15 s left\n"


def test_durations_are_told_in_two_units():
    assert [duration(seconds) for seconds in (0, 59.6, 61, 3_600, 93_784)] == [
        "0 s", "1 min 0 s", "1 min 1 s", "1 h 0 min", "1 d 2 h",
    ]  # fmt: skip
