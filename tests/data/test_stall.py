import contextlib
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from align_jax.data.images import ImageTransform
from align_jax.data.loader import EvaluationLoader
from align_jax.data.records import PairDataset
from align_jax.data.stall import DataStalledError, ReadingMarks, watched
from tests.training.conftest import data_dir  # noqa: F401  (a fixture: a data set of real files)


@pytest.fixture
def hung(data_dir, tmp_path):  # noqa: F811
    """A data set whose file does not answer, as on a file server that is gone: a pipe that nobody writes into."""
    subprocess.run(["cp", "-r", str(data_dir), str(tmp_path / "data")], check=True)
    (file,) = (tmp_path / "data" / "discs").rglob("*.array_record*")
    file.unlink()
    os.mkfifo(file)
    yield file
    with contextlib.suppress(OSError):  # nobody reads
        os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))  # lets the readers go


def test_file_that_hangs_is_named(hung, caplog):
    source = PairDataset("discs", "train", str(hung.parents[2])).open()
    loader = EvaluationLoader(source, ImageTransform(20, 17), 8, stall_seconds=2.0)
    with (
        caplog.at_level(logging.WARNING),
        contextlib.closing(loader.iterate()) as batches,
        pytest.raises(DataStalledError) as stalled,
    ):
        next(batches)
    assert str(stalled.value).startswith("no batch for 2 s: this process reads record ")
    assert re.search(rf"of {re.escape(str(hung))} since \d+ s", str(stalled.value))  # 2 s, or more on a busy machine
    warning, *_ = [record.getMessage() for record in caplog.records if record.name == "align_jax.data.stall"]
    assert warning.startswith("no batch for 0.4 s: this process reads record ")


def test_slow_source_within_the_limit_loses_nothing():
    marks = ReadingMarks(0)
    batches = watched((time.sleep(0.2) or number for number in range(3)), marks, 60.0, str)
    assert list(batches) == [0, 1, 2]
    assert list(watched(iter(()), ReadingMarks(0), 60.0, str)) == []


def test_errors_of_the_source_arrive_as_they_are():
    def broken():
        yield 1
        raise ValueError("record 7 is broken")

    batches = watched(broken(), ReadingMarks(0), 60.0, str)
    assert next(batches) == 1
    with pytest.raises(ValueError, match="record 7 is broken"):
        next(batches)


def test_dead_workers_are_told_from_slow_reads():
    marks = ReadingMarks(2)
    released = []

    def hangs():
        while not released:
            time.sleep(0.01)
        yield 1

    with pytest.raises(DataStalledError, match="nothing is being read; worker processes start or were killed"):
        next(watched(hangs(), marks, 0.5, str))
    released.append(True)


def test_place_of_a_record_counts_within_its_file(data_dir):  # noqa: F811
    source = PairDataset("discs", "train[10:20]", str(data_dir)).open()
    assert source.place(3).startswith("record 13 of ")
    assert "array_record" in source.place(3)


def test_wait_that_is_given_up_does_not_wait_for_the_batch():
    """SIGTERM ends the wait with an exception; a source that hangs must not keep the run from being saved."""
    released = threading.Event()

    def hung():
        released.wait()
        yield 1

    class GivenUpError(Exception):
        pass

    def give_up(*_):
        raise GivenUpError

    rescue = threading.Timer(30, released.set)
    rescue.start()
    previous = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(GivenUpError):
            next(watched(hung(), ReadingMarks(0), 60.0, str))
        assert not released.is_set()
    finally:
        signal.signal(signal.SIGALRM, previous)
        rescue.cancel()
        released.set()


def test_file_of_a_killed_process_is_deleted_by_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    command = (
        "import os; from align_jax.data.stall import ReadingMarks; marks = ReadingMarks(1); os.kill(os.getpid(), 9)"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", command], env=environment, check=False).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    used = ReadingMarks(1)
    assert left.exists()  # it may be of a process that begins
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    other = ReadingMarks(1)
    assert not left.exists()
    assert len(list(tmp_path.iterdir())) == 2
    with pickle.loads(pickle.dumps(used)).reading(7):
        assert [record for _, record, _ in used.current()] == [7]
    for marks in (used, other):
        marks.remove()
    assert not list(tmp_path.iterdir())
