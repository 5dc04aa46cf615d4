"""Bootstrap confidence intervals of means (Efron, 1979), on the host: the same numbers whatever the devices."""

import numpy as np
from jaxtyping import Float, Int

_DRAWS_AT_ONCE = 2**24  # bounds the memory of the resamples to about 128 MB each for draws and counts


def weighted_mean(
    values: Float[np.ndarray, "N M"], weights: Float[np.ndarray, "N"] | None = None
) -> Float[np.ndarray, "M"]:
    """The mean of each column; `weights` counts some rows more than others."""
    return np.average(values, axis=0, weights=weights)


def confidence_interval(
    values: Float[np.ndarray, "N M"],
    weights: Float[np.ndarray, "N"] | None = None,
    groups: Int[np.ndarray, "N"] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "M"], Float[np.ndarray, "M"]]:
    """Percentile interval of `weighted_mean`, all columns from the same resamples.

    Args:
        values: what is averaged, such as hits and misses at several cutoffs; a row per example.
        weights: of the examples, positive.
        groups: examples of the same number are drawn together, as the five captions of one image must be: they are no
            independent observations.
        level: probability that the interval is meant to cover.
        resamples: means that are drawn.
        seed: of the draws.

    Returns:
        Lower and upper end for each column.

    Raises:
        ValueError: if there are no examples, or a setting is out of range.
    """
    if not 0 < level < 1 or resamples < 1 or not len(values):
        raise ValueError(
            f"an interval of level {level} from {resamples} resamples of {len(values)} examples cannot be computed; "
            "use a level between 0 and 1, and at least one resample and example"
        )
    sums_GxM, weights_G = _group_sums(values.astype(np.float64), weights, groups)
    count = len(weights_G)
    rng, means = np.random.default_rng(seed), []
    at_once = max(1, _DRAWS_AT_ONCE // count)
    for first in range(0, resamples, at_once):
        rows = min(at_once, resamples - first)
        draws = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times_drawn = np.bincount(draws.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)
        means.append((times_drawn @ sums_GxM) / (times_drawn @ weights_G)[:, None])
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return low, high


def _group_sums(
    values: np.ndarray, weights: np.ndarray | None, groups: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted sums of the values, and sums of the weights, of each group."""
    weights = np.ones(len(values)) if weights is None else weights.astype(np.float64)
    weighted = values * weights[:, None]
    if groups is None:
        return weighted, weights
    _, group = np.unique(groups, return_inverse=True)
    sums = np.stack([np.bincount(group, weights=column) for column in weighted.T], axis=1)
    return sums, np.bincount(group, weights=weights)
