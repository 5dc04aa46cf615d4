"""Batches of images with captions or labels for training, and of images for evaluation, prepared ahead by Grain.

The order of training is a function of (seed, step) alone: step n holds the examples n*B … n*B+B-1 of an endless stream
of shuffled epochs, whatever the number of processes and workers, so a run continues at a step without any saved state.
Shuffling is by index (a permutation that is computed, not stored), and what is random about an example comes from a
counter-based generator with the key (seed, position in the stream), so no example depends on another one.

A process reads only the rows of each batch that its devices hold (`parallel.mesh.process_rows`).
"""

import signal
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import cv2
import grain
import numpy as np
from absl import flags
from jaxtyping import UInt8

from align_jax.cores import usable_cores
from align_jax.data.images import ImageDecodeError, ImageTransform, decode_image
from align_jax.data.order import OrderedSequence, Place, shuffled_index
from align_jax.data.quarantine import Quarantine
from align_jax.data.records import DatasetError, RecordError, RecordSequence
from align_jax.data.stall import ReadingMarks, set_worker, watched

STALL_SECONDS = 300.0
"""The longest wait for a batch, unless another is given."""

LARGEST_DATASET = 2**32 - 1
"""Records in a data set at most: Grain's shuffle computes with 32-bit indices."""


class EvaluationBatch(NamedTuple):
    """Consecutive records; row i of every field belongs to the same one."""

    images: Any  # uint8 [B H W C], black where not valid
    valid: Any  # bool [B], False on rows that only fill the batch and where the image cannot be used


@runtime_checkable
class Batching(Protocol):
    """What stands beside the images of a batch, from the records to the arrays: `PairBatching`, `LabelBatching`.

    It travels to worker processes by pickling.
    """

    def read(self, record: Any, /) -> Any:
        """What is kept of a record besides its image; a `RecordError` puts the record aside."""
        ...

    def draw(self, kept: Any, rng: np.random.Generator, /) -> Any:
        """What one example takes of it, with the example's own randomness."""
        ...

    def batch(self, images: np.ndarray, drawn: Sequence[Any], /) -> Any:
        """The batch: a named tuple of arrays with a row for each example, the images first."""
        ...


@dataclass(frozen=True)
class TrainLoader:
    """An endless stream of training batches.

    Attributes:
      source: the records.
      transform: its `train` makes the images.
      batching: makes what stands beside them.
      batch_size: examples per step over all processes.
      seed: order and augmentation follow from it.
      quarantine: where records go that cannot be used; the next usable record of the data set takes the place of such
        a one, on every process alike. Where it is None, the first such record is an error.
      rows: the rows of the batch that this process needs, in this order; all when absent.
      workers: worker processes; 0 prepares batches in threads of this process, which suits small images and few cores.
      cache_bytes: a data set whose resized images fit into this is decoded once and kept in memory (in each worker).
      neighbours: records that stand next to each other in the data set and stay together when it is shuffled. Where
        related pictures are stored side by side, they become each other's hard negatives.
      stall_seconds: the longest wait for a batch; a source that takes longer is an error (`DataStalledError`).
    """

    source: RecordSequence
    transform: ImageTransform
    batching: Batching
    batch_size: int
    seed: int
    quarantine: Quarantine | None = None
    rows: Sequence[int] | None = None
    workers: int = 0
    cache_bytes: int = 0
    neighbours: int = 1
    stall_seconds: float = STALL_SECONDS

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ValueError(f"neighbours {self.neighbours} is not positive; 1 shuffles every record by itself")
        _check_rows(self.batch_size, self.rows)
        _check_source(self.source)
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed {self.seed} is not between 0 and 2**63 - 1")

    def iterate(self, start_step: int = 0) -> Generator[Any, None, None]:
        """Batches from `start_step` on, this process's rows; close it (`contextlib.closing`) before the program ends.

        Yields:
          what `batching` makes of uint8 images `[R crop_px crop_px 3]`, for R of the batch's B rows.
        """
        if start_step < 0:
            raise ValueError(f"start_step {start_step} is negative; steps count from 0")
        return _in_parallel(_TrainBatches(self, start_step), self)


@dataclass(frozen=True)
class EvaluationLoader:
    """One pass over a source, in order, in batches of a fixed size; row i of batch b is record b * batch_size + i.

    Attributes:
      source: the records.
      transform: its `evaluate` makes the images.
      batch_size: rows per batch over all processes; the last batch is filled with rows that are not valid.
      quarantine: where records go that cannot be used; their rows are not valid. Where it is None, the first such
        record is an error.
      rows: the rows of the batch that this process needs, in this order; all when absent.
      workers: worker processes; 0 prepares batches in threads of this process.
      stall_seconds: the longest wait for a batch; a source that takes longer is an error (`DataStalledError`).
    """

    source: RecordSequence
    transform: ImageTransform
    batch_size: int
    quarantine: Quarantine | None = None
    rows: Sequence[int] | None = None
    workers: int = 0
    stall_seconds: float = STALL_SECONDS

    def __post_init__(self) -> None:
        _check_rows(self.batch_size, self.rows)
        _check_source(self.source)

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def iterate(self) -> Generator[EvaluationBatch, None, None]:
        """The batches, this process's rows of each: every process gets equally many."""
        return _in_parallel(_EvaluationBatches(self), self)


class _TrainBatches:
    """The rows of one process, step by step, as a source that Grain reads."""

    def __init__(self, loader: TrainLoader, start_step: int) -> None:
        self._loader = loader
        self._start_step = start_step
        self._rows = range(loader.batch_size) if loader.rows is None else loader.rows
        self.marks = ReadingMarks(loader.workers)
        self._bad: set[int] = set()
        prepared_bytes = loader.transform.prepared_bytes
        self._cache_fits = prepared_bytes is not None and len(loader.source) * prepared_bytes <= loader.cache_bytes
        self._cache: dict[int, tuple[np.ndarray, Any]] = {}

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> Any:
        loader, side = self._loader, self._loader.transform.crop_px
        first = (self._start_step + index) * loader.batch_size
        images = np.empty((len(self._rows), side, side, 3), np.uint8)
        drawn = []
        for place, row in enumerate(self._rows):
            images[place], beside = self._example(first + row)
            drawn.append(beside)
        return loader.batching.batch(images, drawn)

    def _example(self, position: int) -> tuple[UInt8[np.ndarray, "H W 3"], Any]:
        loader = self._loader
        image, kept = self._usable(self._place(position))
        rng = np.random.Generator(np.random.Philox(key=[loader.seed, position]))
        drawn = loader.batching.draw(kept, rng)
        return loader.transform.train(image, rng), drawn

    def _place(self, position: int) -> Place:
        loader, source = self._loader, self._loader.source
        if isinstance(source, OrderedSequence):
            return source.stream(position, loader.seed, loader.neighbours)
        index = shuffled_index(position, len(source), loader.seed, loader.neighbours)
        return Place(index, range(len(source)))

    def _usable(self, place: Place) -> tuple[UInt8[np.ndarray, "H W 3"], Any]:
        """The record at a place, or the first usable one after it in the order of its data set."""
        index, within = place
        records = len(within)
        for offset in range(records):
            if (found := self._read(within[(index - within.start + offset) % records])) is not None:
                return found
            if self._loader.quarantine is not None:
                self._loader.quarantine.check()
        raise RecordError(f"not one of the {records} records can be used; see the quarantine file")

    def _read(self, index: int) -> tuple[UInt8[np.ndarray, "H W 3"], Any] | None:
        """The prepared image of one record and what stands beside it, or None where it cannot be used."""
        if (cached := self._cache.get(index)) is not None:
            return cached
        if index in self._bad:
            return None
        key = f"record {index}"
        try:
            with self.marks.reading(index):
                record = self._loader.source[index]
            key = record.key
            kept, image = self._loader.batching.read(record), decode_image(record.image)
        except (ImageDecodeError, RecordError) as error:
            _put_aside(self._loader.quarantine, key, error)
            self._bad.add(index)
            return None
        found = self._loader.transform.prepare(image), kept
        if self._cache_fits:
            self._cache[index] = found
        return found


class _EvaluationBatches:
    """The rows of one process, batch by batch, as a source that Grain reads."""

    def __init__(self, loader: EvaluationLoader) -> None:
        self._loader = loader
        self._rows = range(loader.batch_size) if loader.rows is None else loader.rows
        self.marks = ReadingMarks(loader.workers)

    def __len__(self) -> int:
        return len(self._loader)

    def __getitem__(self, index: int) -> EvaluationBatch:
        loader, rows, side = self._loader, len(self._rows), self._loader.transform.crop_px
        images, valid = np.zeros((rows, side, side, 3), np.uint8), np.zeros(rows, np.bool_)
        for place, row in enumerate(self._rows):
            position = index * loader.batch_size + row
            if position >= len(loader.source):
                continue
            key = f"record {position}"
            try:
                with self.marks.reading(position):
                    record = loader.source[position]
                key = record.key
                images[place] = loader.transform.evaluate(decode_image(record.image))
                valid[place] = True
            except (ImageDecodeError, RecordError) as error:
                _put_aside(loader.quarantine, key, error)
        return EvaluationBatch(images, valid)


def _put_aside(quarantine: Quarantine | None, key: str, error: ValueError) -> None:
    if quarantine is None:
        raise RecordError(f"{key} cannot be used: {error}") from error
    quarantine.add(key, str(error))


def _check_rows(batch_size: int, rows: Sequence[int] | None) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} is not positive; use 1 or more")
    outside = [row for row in rows or () if not 0 <= row < batch_size]
    if outside:
        raise ValueError(f"row {outside[0]} is not in a batch of {batch_size}; rows count from 0")
    if rows is not None and not len(rows):
        raise ValueError("this process has no rows of the batch; use a mesh that spans its devices")


def _check_source(source: RecordSequence) -> None:
    if not 1 <= len(source) <= LARGEST_DATASET:
        raise DatasetError(f"the data set has {len(source)} records; 1 to {LARGEST_DATASET} are possible")


def _in_parallel(
    batches: _TrainBatches | _EvaluationBatches, loader: TrainLoader | EvaluationLoader
) -> Generator[Any, None, None]:
    """Yields a source's batches in order, prepared ahead by threads or worker processes."""
    _prepare_reader(-1, loader.workers)
    threads = 1 if loader.workers else max(1, min(4, usable_cores()))
    dataset = grain.MapDataset.source(batches).to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    )
    if loader.workers:
        if not flags.FLAGS.is_parsed():  # Grain hands the flags of absl to its workers, parsed or not
            flags.FLAGS.mark_as_parsed()
        options = grain.multiprocessing.MultiprocessingOptions(num_workers=loader.workers, per_worker_buffer_size=2)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_prepare_reader)
    place = getattr(loader.source, "place", "record {}".format)
    yield from watched(iter(dataset), batches.marks, loader.stall_seconds, place)


def _prepare_reader(worker: int, workers: int) -> None:
    """Once in every process that reads."""
    cv2.setNumThreads(0)  # OpenCV's own threads only get into the way of ours
    set_worker(worker + 1)
    if worker >= 0:  # a scheduler that ends a run sends this to all of it, and the run wants its batches to the end
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
