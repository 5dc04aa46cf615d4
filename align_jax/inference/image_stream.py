"""Images through a model: read, decoded and resized ahead by threads, while the device computes; in order.

Where the mesh spreads over several processes, each makes the same calls with the same images, decodes those of its own
rows, and gets the results of all.
"""

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from typing import Any, TypeVar

import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float

from align_jax.data.preprocessing import Preprocessing
from align_jax.inference.encoder import in_flight
from align_jax.inference.prefetch import ImageBatch, Timings, image_batches, timed

Key = TypeVar("Key")

Start = Callable[[np.ndarray, np.ndarray], Callable[[], tuple[np.ndarray, np.ndarray]]]
"""Starts a batch, of which it gets this process's rows and which of them hold an image; what it gives waits for the
results of all rows, and gives them with all of the latter."""

_REASON_BYTES = 400


def stream(
    start: Start,
    items: Iterable[tuple[Key, Any]],
    preprocessing: Preprocessing,
    rows: list[int],
    batch_size: int,
    timings: Timings,
) -> Generator[tuple[list[Key], Float[np.ndarray, "n _"], list[tuple[Key, str]]], None, None]:
    """Results for images as they come, a batch at a time, in order; close it before the program ends.

    Args:
        start: the model.
        items: a key and the bytes of an image file (or Pillow's image, or pixels); taken by a thread, ahead.
        preprocessing: makes the squares that `start` gets, levels 0 … 255.
        rows: of each batch, which this process decodes.
        batch_size: rows of a whole batch.
        timings: is told how much of the time went into waiting for images.

    Yields:
        Keys of the rows, their results, and the key and the reason of each image that could not be decoded.
    """
    prepared = image_batches(items, preprocessing, rows, batch_size)
    alone = len(rows) == batch_size  # the mesh has devices of this process only

    def started(batch: ImageBatch[Key]) -> tuple[ImageBatch[Key], Any]:
        return batch, start(batch.squares, batch.valid)

    def finish(one: tuple[ImageBatch[Key], Any]) -> tuple[list[Key], np.ndarray, list[tuple[Key, str]]]:
        """Waits for a batch, and leaves out the rows that hold no image."""
        batch, (values, valid) = one[0], one[1]()
        count = len(batch.keys)
        refused = [row for row in range(count) if not valid[row]]
        reasons = batch.reasons if alone or not refused else _reasons_of_all(batch.reasons, batch_size)
        kept = np.flatnonzero(valid[:count])
        return (
            [batch.keys[row] for row in kept],
            np.asarray(values[kept], np.float32),
            [(batch.keys[row], reasons[row]) for row in refused],
        )

    def results() -> Generator[Any, None, None]:
        with closing(prepared):
            yield from in_flight(map(started, timed(prepared, timings)), finish)

    with closing(measured(results(), timings)) as found:
        for keys, values, refused in found:
            timings.inputs += len(keys) + len(refused)
            yield keys, values, refused


def measured(results: Generator[Any, None, None], timings: Timings) -> Generator[Any, None, None]:
    """The results; counts the time until each of them, but not the time that the receiver takes."""
    with closing(results):
        while True:
            start = time.perf_counter()
            result = next(results, None)
            timings.seconds += time.perf_counter() - start
            if result is None:
                return
            yield result


def _reasons_of_all(reasons: dict[int, str], batch_size: int) -> dict[int, str]:
    """The reasons that each process knows, on every process."""
    mine = np.zeros((batch_size, _REASON_BYTES), np.uint8)
    for row, reason in reasons.items():
        encoded = np.frombuffer(reason.encode()[:_REASON_BYTES], np.uint8)
        mine[row, : len(encoded)] = encoded
    gathered = np.max(multihost_utils.process_allgather(mine), axis=0)
    texts = (bytes(row).rstrip(b"\0").decode(errors="ignore") for row in gathered)
    return {row: text for row, text in enumerate(texts) if text}
