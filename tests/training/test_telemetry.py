import io
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from align_jax.training.live_progress import format_duration
from align_jax.training.metrics_log import MetricsLog, read_metrics
from align_jax.training.telemetry import Telemetry


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def plain_console() -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=False)


def shown(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()


def telemetry(workdir, console=None, **options) -> Telemetry:
    return Telemetry(workdir, **{"total_steps": 100, "console": console or plain_console()} | options)


def test_lines_have_the_step_the_keys_and_the_name_of_the_evaluation(tmp_path):
    with telemetry(tmp_path) as run:
        run.log(1, {"loss": 2.5, "pairs_per_second": 600.0})
        run.log_evaluation(1, "compositional", {"image_to_text_recall@1": 0.25})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 1, "loss": 2.5, "pairs_per_second": 600.0},
        {"step": 1, "compositional/image_to_text_recall@1": 0.25},
    ]


def test_every_line_is_on_disk_while_the_run_goes_on(tmp_path):
    with telemetry(tmp_path) as run:
        run.log(1, {"loss": 2.5})
        assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 2.5}]


def test_a_run_resumed_from_an_older_checkpoint_has_each_step_once(tmp_path):
    with telemetry(tmp_path) as run:
        for step in range(1, 8):
            run.log(step, {"loss": 1.0 * step})
        run.log_evaluation(4, "val", {"recall": 0.4})
        run.log_evaluation(6, "val", {"recall": 0.6})
    with telemetry(tmp_path, start_step=4) as run:
        for step in range(5, 9):
            run.log(step, {"loss": -1.0 * step})
    expected = [{"step": step, "loss": 1.0 * step} for step in range(1, 5)]
    expected += [{"step": 4, "val/recall": 0.4}]
    expected += [{"step": step, "loss": -1.0 * step} for step in range(5, 9)]
    assert read_metrics(tmp_path / "metrics.jsonl") == expected


def test_lines_kept_on_resume_keep_their_bytes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    kept = b'{"step":1,  "loss": 1.50}\n{"step": 2, "loss": "NaN"}\n'
    path.write_bytes(kept + b'{"step": 3}\n')
    MetricsLog(path, start_step=2).close()
    assert path.read_bytes() == kept
    assert list(tmp_path.iterdir()) == [path]


@given(keep=st.integers(0, 45))
def test_a_line_torn_anywhere_is_dropped_and_the_others_stay(tmp_path_factory, keep):
    path = tmp_path_factory.mktemp("torn") / "metrics.jsonl"
    first, second = b'{"step": 1, "loss": 1.5}\n', b'{"step": 2, "loss": 0.123456789, "k": "NaN"}\n'
    path.write_bytes(first + second[:keep])
    log = MetricsLog(path, start_step=10)
    log.append(3, {"loss": 0.5})
    log.close()
    # Without its newline alone the line is whole, and stays.
    assert [record["step"] for record in read_metrics(path)] == ([1, 2, 3] if keep >= len(second) - 1 else [1, 3])


def test_a_last_line_of_zero_bytes_after_a_power_cut_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + bytes(64))
    MetricsLog(path, start_step=1).close()
    assert path.read_bytes() == b'{"step": 1}\n'


@pytest.mark.parametrize("damaged", [b"{torn", b"[1]", b'{"loss": 1}', b"\xff\xfe"])
def test_a_damaged_line_in_the_middle_is_named_and_nothing_is_changed(tmp_path, damaged):
    path = tmp_path / "metrics.jsonl"
    content = b'{"step": 1}\n' + damaged + b'\n{"step": 2}\n'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        MetricsLog(path, start_step=2)
    assert path.read_bytes() == content


def test_a_repeated_evaluation_replaces_its_line(tmp_path):
    for start_step, recall in ((0, 0.1), (1, 0.2)):
        with telemetry(tmp_path, start_step=start_step) as run:
            run.log_evaluation(1, "val", {"recall": 0.0})
            run.log_evaluation(1, "val", {"recall": recall})
            run.log_evaluation(1, "test", {"recall": 0.9})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "val/recall": 0.2}, {"step": 1, "test/recall": 0.9}]


def test_numbers_that_json_lacks_are_strings_and_come_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, start_step=0)
    log.append(1, {"a": math.nan, "b": math.inf, "c": -math.inf})
    log.close()
    assert json.loads(path.read_text()) == {"step": 1, "a": "NaN", "b": "Infinity", "c": "-Infinity"}
    (record,) = read_metrics(path)
    assert math.isnan(record["a"])
    assert (record["b"], record["c"]) == (math.inf, -math.inf)


def test_only_the_primary_process_writes(tmp_path):
    console = plain_console()
    workdir = tmp_path / "run"
    with telemetry(workdir, console, primary=False) as run:
        run.log(1, {"loss": 1.0})
        run.log_evaluation(1, "val", {"recall": 1.0})
        run.advance(2)
        run.message("hello")
    assert not workdir.exists()
    assert not shown(console)


def test_tensorboard_gets_the_same_numbers(tmp_path):
    with telemetry(tmp_path) as run:
        run.log(1, {"loss": 2.5})
        run.log_evaluation(1, "val", {"image_to_text_recall@1": 0.25})
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"train/loss" in content
    assert b"val/image_to_text_recall_1" in content


def test_away_from_a_terminal_lines_are_plain_and_not_too_often(tmp_path):
    console, clock = plain_console(), Clock()
    with telemetry(tmp_path, console, clock=clock, plain_interval_seconds=10.0) as run:
        for step in range(1, 101):
            clock.seconds = step * 1.0
            run.log(step, {"loss": 1.0, "pairs_per_second": 1234.5, "data_wait_share": 0.031})
    lines = shown(console)
    assert [line.split()[1] for line in lines] == [f"{step}/100" for step in (*range(1, 100, 10), 100)]
    assert lines[1] == "step 11/100  loss 1.0000  1,234 pairs/s  3% waiting for data  time left 1:29"
    assert lines[-1].endswith("time left 0:00")
    assert "\x1b" not in console.file.getvalue()


def test_time_left_leaves_out_the_first_step_with_its_compilation(tmp_path):
    console, clock = plain_console(), Clock()
    with telemetry(tmp_path, console, clock=clock, plain_interval_seconds=0.0) as run:
        for step, seconds in ((1, 500.0), (2, 502.0), (3, 504.0)):
            clock.seconds = seconds
            run.advance(step)
            run.log(step, {"loss": 1.0})
    assert [re.search("time left (.*)", line)[1] for line in shown(console)] == ["unknown", "3:16", "3:14"]


def test_time_left_follows_the_recent_rate(tmp_path):
    console, clock = plain_console(), Clock()
    with telemetry(tmp_path, console, total_steps=1000, clock=clock, plain_interval_seconds=0.0) as run:
        for step in range(1, 301):
            clock.seconds += 10.0 if step < 100 else 1.0
            run.advance(step)
        run.log(300, {"loss": 1.0})
    assert shown(console)[-1].endswith("time left 11:40")


def test_a_terminal_shows_a_live_bar_with_the_numbers(tmp_path):
    console = Console(file=io.StringIO(), width=100, force_terminal=True, _environ={"TERM": "xterm"})
    with telemetry(tmp_path, console) as run:
        run.log(40, {"loss": 1.25, "pairs_per_second": 612.0, "data_wait_share": 0.03})
        run.log_evaluation(40, "val", {"image_to_text_recall@1": 0.5, "image_to_text_recall@5": 0.8})
    last_frame = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue()).splitlines()[-2:]
    assert re.match(r"step 40/100 .*━.* 40% .*time left unknown", last_frame[0])
    assert last_frame[1].split("   ")[:3] == ["loss 1.2500", "612 pairs/s", "3% waiting for data"]
    assert "image to text recall@1 0.5" in last_frame[1]


def test_messages_from_outside_cannot_move_the_cursor_or_stop_an_ascii_run(tmp_path):
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii"), width=80, force_terminal=False)
    with telemetry(tmp_path, console) as run:
        run.message("skipped [bold]über\x1b[2J.png[/bold]")
    console.file.flush()
    assert raw.getvalue() == b"skipped [bold]?ber?[2J.png[/bold]\n"


def test_files_are_whole_after_an_error_in_the_loop(tmp_path):
    def fail_after_a_step():
        with telemetry(tmp_path) as run:
            run.log(1, {"loss": 1.0})
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail_after_a_step()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 1.0}]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (0.2, "0:01"), (59.7, "1:00"), (3723, "1:02:03"), (200_000, "2d 7:33:20")]
)
def test_durations_read_like_a_clock(seconds, text):
    assert format_duration(seconds) == text
