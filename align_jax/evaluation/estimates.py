"""Measured numbers with their confidence intervals."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from align_jax.metrics import confidence_interval, weighted_mean


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """How confidence intervals are made: percentiles of means of resampled examples.

    Attributes:
        level: the probability that they are meant to cover.
        resamples: how often the examples are drawn anew.
        seed: of the draws.
    """

    level: float = 0.95
    resamples: int = 1000
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over examples.

    Attributes:
        value: between 0 and 1.
        low: lower end of the confidence interval.
        high: upper end.
        examples: how many were averaged.
    """

    value: float
    low: float
    high: float
    examples: int


def estimates(
    names: list[str],
    outcomes: Float[np.ndarray, "N M"],
    bootstrap: Bootstrap,
    *,
    weights: Float[np.ndarray, "N"] | None = None,
    groups: Int[np.ndarray, "N"] | None = None,
) -> dict[str, Estimate]:
    """The means of the columns, outcomes from 0 to 1, under their names; the rest as for `confidence_interval`."""
    low, high = confidence_interval(
        outcomes, weights, groups, level=bootstrap.level, resamples=bootstrap.resamples, seed=bootstrap.seed
    )
    # Weights that are no whole numbers are rounded, and so the mean of ones might not be one.
    rows = np.round([weighted_mean(outcomes, weights), low, high], 12).T
    return {name: Estimate(*map(float, row), examples=len(outcomes)) for name, row in zip(names, rows, strict=True)}
