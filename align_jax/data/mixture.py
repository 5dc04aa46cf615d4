"""Several data sets in one training, each with its share of every batch's worth of pairs.

PairMixture((Weighted(PairDataset("coyo700m", "train", "data"), 0.9), Weighted(TarPairs("cc3m/images"), 0.1)))
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import SupportsIndex

from align_jax.data.order import SMALLEST_SHARE, Place, mixed_place
from align_jax.data.records import DatasetError, PairDataset, PairRecord, PairSequence
from align_jax.data.tar_pairs import TarPairs


@dataclass(frozen=True)
class Weighted:
    """A data set of a mixture.

    Attributes:
      pairs: the data set.
      weight: its share of the stream, relative to the other weights.
    """

    pairs: PairDataset | TarPairs
    weight: float


@dataclass(frozen=True)
class PairMixture:
    """Pairs of several data sets by weight; a small one is repeated more often, whatever its size.

    Attributes:
      parts: the data sets with their weights.
    """

    parts: tuple[Weighted, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise DatasetError("a mixture has no parts; give it data sets with weights")
        for part in self.parts:
            if not (math.isfinite(part.weight) and part.weight > 0):
                raise DatasetError(
                    f"weight {part.weight} of {part.pairs.description!r} is not a positive number; leave the part out, "
                    "or give it one"
                )
        total = sum(Fraction(part.weight) for part in self.parts)
        for part in self.parts:
            if Fraction(part.weight) / total < SMALLEST_SHARE:
                raise DatasetError(
                    f"weight {part.weight:g} of {part.pairs.description!r} is less than a {1 / SMALLEST_SHARE}th of "
                    f"all weights, {float(total):g}; raise it, or leave the part out"
                )

    @property
    def description(self) -> str:
        """What the order of examples follows from, besides the number of records."""
        return " + ".join(f"{part.weight:g} of ({part.pairs.description})" for part in self.parts)

    def open(self) -> "MixedSource":
        """Opens all parts; raises what they raise."""
        return MixedSource([part.pairs.open() for part in self.parts], [part.weight for part in self.parts])


class MixedSource(Sequence[PairRecord]):
    """The records of several sources, one source behind the other, with the order of their mixture."""

    def __init__(self, sources: Sequence[PairSequence], weights: Sequence[float]) -> None:
        self._sources, self._weights = list(sources), tuple(weights)
        self._lengths = [len(source) for source in sources]
        self._ends = list(accumulate(self._lengths))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: SupportsIndex) -> PairRecord:  # pyrefly: ignore[bad-override]
        """The record at `index`; as in the source that it lies in."""
        position = index.__index__()
        if not 0 <= position < len(self):
            raise IndexError(f"record {position} of {len(self)}")
        part, local = self._part(position)
        return self._sources[part][local]

    def stream(self, position: int, seed: int, neighbours: int) -> Place:
        """What stands at a position of the mixture."""
        return mixed_place(position, self._lengths, self._weights, seed, neighbours)

    def place(self, index: int) -> str:
        """Where the record at `index` lies."""
        part, local = self._part(index)
        return getattr(self._sources[part], "place", "record {}".format)(local)

    def _part(self, index: int) -> tuple[int, int]:
        part = bisect_right(self._ends, index)
        return part, index - (self._ends[part] - self._lengths[part])
