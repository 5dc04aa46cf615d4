"""What is read, decoded and resized ahead, in threads, while the device computes."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np

from align_jax.cores import usable_cores
from align_jax.data.images import ImageDecodeError
from align_jax.data.preprocessing import Preprocessing

Item = TypeVar("Item")
Key = TypeVar("Key")

_AHEAD_BATCHES = 2


@dataclass
class Timings:
    """How long a stream took, and how much of that it waited for its input.

    Attributes:
        inputs: images or texts that came out, those that could not be decoded among them.
        seconds: from the first request to the end, without the time that the receiver kept the results.
        waiting_seconds: for input that was not ready, whether or not the device still had work.
    """

    inputs: int = 0
    seconds: float = 0.0
    waiting_seconds: float = 0.0

    @property
    def waiting_share(self) -> float:
        """The part of the time that was spent waiting for input."""
        return self.waiting_seconds / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class ImageBatch(Generic[Key]):
    """Rows for the device, of which this process holds its own.

    Attributes:
        keys: of all rows that hold an input, on whatever process; the first rows of the batch.
        squares: levels 0 … 255 [R S S 3] of the process's rows; black where not valid.
        valid: [R], False on rows that only fill the batch and where an image could not be decoded.
        reasons: why, by row of the whole batch, for the rows of this process.
    """

    keys: list[Key]
    squares: np.ndarray
    valid: np.ndarray
    reasons: dict[int, str]


def image_batches(
    items: Iterable[tuple[Key, Any]], preprocessing: Preprocessing, rows: Sequence[int], batch_size: int
) -> Generator[ImageBatch[Key], None, None]:
    """Reads, decodes and resizes images in batches of consecutive items; close it before the program ends.

    Args:
        items: a key and whatever `Preprocessing.square` takes; read in a thread, a few batches ahead.
        preprocessing: makes the squares.
        rows: of each batch, which this process decodes.
        batch_size: rows of a whole batch.
    """
    rows = list(rows)
    with ThreadPoolExecutor(usable_cores(), "decode") as pool:

        def started() -> Iterator[_StartedBatch[Key]]:
            source = iter(items)
            while chunk := list(islice(source, batch_size)):
                yield _StartedBatch.of(chunk, preprocessing, rows, pool)

        with closing(prefetched(started(), _AHEAD_BATCHES)) as batches:
            for batch in batches:
                yield batch.finish(rows)


@dataclass(frozen=True)
class _StartedBatch(Generic[Key]):
    """A batch whose images are being decoded."""

    keys: list[Key]
    squares: np.ndarray
    decoded: dict[int, Future[None]]  # by place among the process's rows

    @classmethod
    def of(
        cls, chunk: list[tuple[Key, Any]], preprocessing: Preprocessing, rows: list[int], pool: ThreadPoolExecutor
    ) -> "_StartedBatch[Key]":
        side = preprocessing.size_px
        number_type = np.uint8 if preprocessing.mode == "hf" else np.float32
        squares = np.zeros((len(rows), side, side, 3), number_type)

        def decode(place: int, image: Any) -> None:
            squares[place] = preprocessing.square(image)

        decoded = {
            place: pool.submit(decode, place, chunk[row][1]) for place, row in enumerate(rows) if row < len(chunk)
        }
        return cls([key for key, _ in chunk], squares, decoded)

    def finish(self, rows: list[int]) -> ImageBatch[Key]:
        """Waits until every image is decoded, or has failed."""
        valid, reasons = np.zeros(len(rows), np.bool_), {}
        for place, future in self.decoded.items():
            try:
                future.result()
                valid[place] = True
            except ImageDecodeError as error:
                reasons[rows[place]] = str(error)
        return ImageBatch(self.keys, self.squares, valid, reasons)


def prefetched(items: Iterable[Item], ahead: int) -> Generator[Item, None, None]:
    """The items, in order, taken from their source by a thread that is at most `ahead` of them before; close it.

    What the source raises is raised here, when its turn comes.
    """
    waiting: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(entry: tuple[Item | None, BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def read() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((None, _FINISHED))
        except BaseException as error:
            put((None, error))

    reader = threading.Thread(target=read, name="read ahead", daemon=True)
    reader.start()
    try:
        while True:
            item, error = waiting.get()
            if error is _FINISHED:
                return
            if error is not None:
                raise error
            yield item  # pyrefly: ignore[invalid-yield]
    finally:
        stopped.set()
        reader.join()


_FINISHED = StopIteration()


def timed(items: Iterable[Item], timings: Timings, clock: Callable[[], float] = time.perf_counter) -> Iterator[Item]:
    """The items; adds how long each was waited for."""
    source = iter(items)
    while True:
        start = clock()
        try:
            item = next(source)
        except StopIteration:
            return
        finally:
            timings.waiting_seconds += clock() - start
        yield item
