"""Names a source that hangs: what each reader reads is marked where all can see it, and the wait for it is bounded.

Readers are threads of this process or of worker processes. None of them can be interrupted while the system waits for a
disk or a server, so the process has to be ended from outside the interpreter (`os._exit`) after `DataStalledError`.
"""

import concurrent.futures
import contextlib
import fcntl
import logging
import mmap
import multiprocessing
import multiprocessing.connection
import os
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

_SLOT = struct.Struct("=?qd")  # whether it reads, which record, since when by the clock that all processes share
_SLOTS_PER_WORKER = 16
_PREFIX = "align_jax-reading-"
_NEW_SECONDS = 60.0

_worker = 0  # 0 is the process itself

Batch = TypeVar("Batch")


class DataStalledError(RuntimeError):
    """No batch came in the time that is allowed; the message names what is being read."""


def set_worker(worker: int) -> None:
    """Tells a worker process its number, from 1; 0 is the process that the workers belong to.

    A worker then ends with that process, which may have no time to say so, and even while it reads what hangs.
    """
    global _worker
    _worker = worker
    parent = multiprocessing.parent_process()
    if worker and parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


class ReadingMarks:
    """What each reader is reading at the moment; in a file that threads and worker processes share."""

    def __init__(self, workers: int):
        _remove_left()
        self._locked, self._path = tempfile.mkstemp(prefix=_PREFIX)
        fcntl.flock(self._locked, fcntl.LOCK_SH)  # held as long as this process lives, however it ends
        os.truncate(self._locked, _SLOT.size * _SLOTS_PER_WORKER * (workers + 1))
        self._open()

    def __getstate__(self) -> str:
        return self._path

    def __setstate__(self, path: str) -> None:
        self._locked, self._path = -1, path
        self._open()

    @contextlib.contextmanager
    def reading(self, record: int) -> Iterator[None]:
        """Marks `record` as being read by this thread, until the block ends."""
        if not hasattr(self._own, "offset"):
            with self._lock:
                self._readers += 1
            slot = _worker * _SLOTS_PER_WORKER + self._readers % _SLOTS_PER_WORKER
            self._own.offset = slot * _SLOT.size
        _SLOT.pack_into(self._marks, self._own.offset, True, record, time.monotonic())
        try:
            yield
        finally:
            _SLOT.pack_into(self._marks, self._own.offset, False, 0, 0.0)

    def current(self) -> list[tuple[int, int, float]]:
        """Worker, record and seconds of everything that is being read, the longest first."""
        now = time.monotonic()
        slots = enumerate(_SLOT.iter_unpack(self._marks[:]))
        found = [(slot // _SLOTS_PER_WORKER, record, now - since) for slot, (reads, record, since) in slots if reads]
        return sorted(found, key=lambda mark: -mark[2])

    def remove(self) -> None:
        """Deletes the file; readers that still run keep it."""
        Path(self._path).unlink(missing_ok=True)
        if self._locked >= 0:
            os.close(self._locked)
            self._locked = -1

    def _open(self) -> None:
        with open(self._path, "r+b") as file:  # noqa: PTH123
            self._marks = mmap.mmap(file.fileno(), 0)
        self._own, self._lock, self._readers = threading.local(), threading.Lock(), 0


def _remove_left() -> None:
    """Deletes the files of processes that were killed."""
    found = Path(tempfile.gettempdir()).glob(f"{_PREFIX}*")
    for path in (path for path in found if path.is_file()):
        with contextlib.suppress(OSError), path.open("rb") as file:  # it is another user's, or in use
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - path.stat().st_mtime > _NEW_SECONDS:  # a new one is about to be locked
                path.unlink()


def watched(
    batches: Iterator[Batch], marks: ReadingMarks, stall_seconds: float, place: Callable[[int], str]
) -> Generator[Batch, None, None]:
    """The same batches, or an error where one takes longer than `stall_seconds`, with a warning at each fifth of it.

    Args:
        batches: closed at the end, where it has a `close`.
        marks: what its readers read.
        stall_seconds: the longest wait for a batch.
        place: says where a record lies.
    """
    end = object()
    pulled: concurrent.futures.Future[Any] | None = None
    puller = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        while True:
            pulled = puller.submit(next, batches, end)
            for fifth in range(1, 6):
                if concurrent.futures.wait([pulled], stall_seconds / 5).done:
                    break
                waiting = f"no batch for {stall_seconds * fifth / 5:g} s: {_description(marks.current(), place)}"
                if fifth == 5:
                    advice = "repair the storage, or raise data.stall_seconds where it is only slow"
                    raise DataStalledError(f"{waiting}; {advice}")
                logging.getLogger(__name__).warning("%s", waiting)
            batch: Any = pulled.result()
            if batch is end:
                return
            yield batch
    finally:
        marks.remove()
        # Of a batch that is still awaited nobody knows when it comes, and both would wait for its readers.
        abandoned = pulled is not None and not pulled.done()
        puller.shutdown(wait=not abandoned)
        close = getattr(batches, "close", None)
        if close is not None and not abandoned:
            close()


def _description(current: list[tuple[int, int, float]], place: Callable[[int], str]) -> str:
    named = [
        f"{f'worker process {worker}' if worker else 'this process'} reads {place(record)} since {seconds:.0f} s"
        for worker, record, seconds in current[:3]
    ]
    more = f" and {len(current) - 3} more" if len(current) > 3 else ""
    return ", ".join(named) + more if named else "nothing is being read; worker processes start or were killed"
