"""The order of training: which record stands where in an endless stream, computed and not stored.

A single data set is an endless row of shuffled epochs. A mixture takes its data sets by their weights: in every block
of 4,096 runs each has its share, to within two runs and over all blocks exactly, and the runs of a block are shuffled.
Both follow from the seed and the position alone, so a stream begins anywhere at once.
"""

import functools
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import grain.experimental
import numpy as np

BLOCK_RUNS = 4096
SMALLEST_SHARE = Fraction(2, BLOCK_RUNS)
"""Of a data set in a mixture: so much of it stands in every block."""


class Place(NamedTuple):
    """Where a record lies.

    Attributes:
      index: of the record in the source.
      within: the indexes of its data set; where it cannot be used, another one of these takes its place.
    """

    index: int
    within: range


@runtime_checkable
class OrderedSequence(Protocol):
    """A source that has an order of its own."""

    def stream(self, position: int, seed: int, neighbours: int) -> Place:
        """What stands at a position of the endless stream."""
        ...


def shuffled_index(position: int, records: int, seed: int, neighbours: int = 1) -> int:
    """Which record of a single data set stands at `position` of the endless stream.

    Each epoch is a permutation of its own, of runs of `neighbours` consecutive records; the first record follows the
    last one. Where the runs do not divide the records, an epoch leaves out fewer than `neighbours` of them, each epoch
    others. A data set of fewer records than `neighbours` is one run, which begins elsewhere in each epoch.
    """
    run_length = min(neighbours, records)
    runs = records // run_length
    epoch, index = divmod(position, runs * run_length)
    run, within = divmod(index, run_length)
    order_seed, first = _epoch_randomness(seed, epoch)
    shuffled = grain.experimental.index_shuffle(run, max_index=runs - 1, seed=order_seed, rounds=4)
    # The runs begin elsewhere in each epoch, so that every record meets the ones on both sides of it.
    offset = first % records if run_length > 1 else 0
    return (shuffled * run_length + within + offset) % records


def mixed_place(
    position: int, lengths: Sequence[int], weights: Sequence[float], seed: int, neighbours: int = 1
) -> Place:
    """Which record of several data sets, one behind the other, stands at `position` of their mixture.

    Args:
      position: in the endless stream.
      lengths: records in each data set.
      weights: how much of the stream each is; the sum may be anything.
      seed: the order follows from it.
      neighbours: records that stay together, all of one data set.
    """
    run, within = divmod(position, neighbours)
    block, slot = divmod(run, BLOCK_RUNS)
    parts, runs = _block(block, tuple(weights), seed)
    part = int(parts[slot])
    local = int(runs[slot]) * neighbours + within
    first = sum(lengths[:part])
    index = shuffled_index(local, lengths[part], _part_seed(seed, part), neighbours)
    return Place(first + index, range(first, first + lengths[part]))


@functools.lru_cache(maxsize=8)
def _block(block: int, weights: tuple[float, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """For each slot of a block: which data set, and how many of its runs stood before."""
    before, after = (_runs_before(at, weights) for at in (block, block + 1))
    counts = np.subtract(after, before)
    order = np.random.Generator(np.random.Philox(key=[seed, block])).permutation(BLOCK_RUNS)
    parts = np.repeat(np.arange(len(weights)), counts)[order]
    runs = np.empty(BLOCK_RUNS, np.int64)
    for part, (first, count) in enumerate(zip(before, counts, strict=True)):
        runs[parts == part] = np.arange(first, first + count)  # in order, so that its epochs follow one another
    return parts, runs


def _runs_before(block: int, weights: tuple[float, ...]) -> list[int]:
    """How many runs of each data set stand before a block; they add up to all of them."""
    total = sum(map(Fraction, weights))
    reached = Fraction(0)
    ends = [0]
    for weight in weights:
        reached += Fraction(weight)
        ends.append(int(block * BLOCK_RUNS * reached / total))
    return [end - start for start, end in pairwise(ends)]


@functools.lru_cache(maxsize=64)
def _part_seed(seed: int, part: int) -> int:
    """Another order for each data set of a mixture."""
    return int(np.random.SeedSequence([seed, 1 + part]).generate_state(1, np.uint64)[0]) >> 1


@functools.lru_cache(maxsize=64)
def _epoch_randomness(seed: int, epoch: int) -> tuple[int, int]:
    order_seed, first = np.random.SeedSequence([seed, epoch]).generate_state(2)
    return int(order_seed), int(first)
