"""Counts of values in bins, of all rows and of those that were kept."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from align_jax.data.coyo.releases import Bins, Column


class Histogram:
    """Counts one column.

    Args:
        column: with bins.

    Attributes:
        column: that is counted.
        rows: of all rows, how many lie in each bin.
        kept: of those that were kept.
        missing: rows without a value.
    """

    def __init__(self, column: Column):
        if column.bins is None:
            raise ValueError(f"column {column.name} has no bins")
        self.column, self._bins = column, column.bins
        self.rows: Int[np.ndarray, " bins"] = np.zeros(self._bins.count, np.int64)
        self.kept: Int[np.ndarray, " bins"] = np.zeros(self._bins.count, np.int64)
        self.missing = 0

    @property
    def edges(self) -> Float[np.ndarray, " edges"]:
        """Where the bins begin, and where the last one ends."""
        space = np.geomspace if self._bins.logarithmic else np.linspace
        return space(self._bins.low, self._bins.high, self._bins.count + 1)

    def add(self, values: np.ndarray, valid: Bool[np.ndarray, " rows"] | None, kept: Bool[np.ndarray, " rows"]) -> None:
        """Counts the values of a batch; those that are missing or not a number count as missing."""
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            valid = np.isfinite(values) if valid is None else valid & np.isfinite(values)
        if valid is not None:
            self.missing += int(len(values) - np.count_nonzero(valid))
            values, kept = values[valid], kept[valid]
        bins = _bins_of(values, self._bins)
        bins += kept * np.intp(self._bins.count)
        dropped, kept_counts = np.bincount(bins, minlength=2 * self._bins.count).reshape(2, -1)
        self.rows += dropped + kept_counts
        self.kept += kept_counts


def histograms_of(columns: Sequence[Column]) -> list[Histogram]:
    """One for each column that has bins."""
    return [Histogram(column) for column in columns if column.bins is not None]


def _bins_of(values: np.ndarray, bins: Bins) -> Int[np.ndarray, " rows"]:
    low, high = bins.low, bins.high
    if bins.logarithmic:
        values = np.log(np.maximum(values, low).astype(np.float32))
        low, high = np.log(low), np.log(high)
    scaled = values * np.float32(bins.count / (high - low))
    scaled -= np.float32(bins.count * low / (high - low))
    np.clip(scaled, 0, bins.count - 1, out=scaled)
    return scaled.astype(np.intp)
