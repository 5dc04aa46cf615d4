"""What the streamed forms need to know of an objective: how a block of logits is reduced, merged, and differentiated.

A block has B rows (images) and C columns (texts). Each row, and each column, is reduced to a few numbers, which merge
with those of other blocks. When all blocks have been seen, the loss follows from these numbers, and the gradient of any
block from its logits and these numbers.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

ROWS, COLUMNS = 1, 0
"""The axis of a block that is summed over, to reduce its rows or its columns."""


class Block(NamedTuple):
    """Logits of this device's images against some of the texts."""

    logits: Float[Array, "B C"]
    own: Bool[Array, "B C"]  # partners
    valid: Bool[Array, "B C"]  # False in columns that only fill a chunk


class SumOfExponentials(NamedTuple):
    """`exp_sum * exp(maximum)`: kept apart, because their log-sum-exp, rounded, would lose the last digits."""

    maximum: Float[Array, "R"]
    exp_sum: Float[Array, "R"]

    def sum_at(self, maximum: Float[Array, "R"]) -> Float[Array, "R"]:
        """The sum relative to another maximum."""
        return self.exp_sum * jnp.exp(self.maximum - maximum)


class Statistics(NamedTuple):
    """What R rows, or columns, are reduced to."""

    normalizer: SumOfExponentials | None  # of the logits; None in the sigmoid objective
    total: Float[Array, "R"]  # of the logits; of the pairs' losses in the sigmoid objective
    right: Float[Array, "R"]  # the partner's logit; zero while it was not seen
    rival: Float[Array, "R"]  # the highest of all others

    def hits(self) -> Float[Array, ""]:
        """How many partners score higher than everything else."""
        return jnp.sum((self.right > self.rival).astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class Softmax:
    """Cross-entropy of rows and of columns, with smoothed labels."""

    label_smoothing: float

    def nothing(self, count: int) -> Statistics:
        """The statistics of no block at all."""
        zero, lowest = jnp.zeros(count, jnp.float32), jnp.full(count, -jnp.inf, jnp.float32)
        return Statistics(SumOfExponentials(lowest, zero), zero, zero, lowest)

    def reduce(self, block: Block, axis: Literal[0, 1]) -> Statistics:
        """The statistics of a block's rows or columns."""
        seen = jnp.where(block.valid, block.logits, -jnp.inf)
        maximum = jnp.max(seen, axis=axis)
        # Columns that are not valid get finite statistics, which nobody reads.
        maximum = jnp.where(jnp.isfinite(maximum), maximum, 0.0)
        exp_sum = jnp.sum(jnp.exp(seen - jnp.expand_dims(maximum, axis)), axis=axis)
        total = jnp.sum(jnp.where(block.valid, block.logits, 0.0), axis=axis)
        return Statistics(SumOfExponentials(maximum, exp_sum), total, *_right_and_rival(block, axis))

    def merge(self, left: Statistics, right: Statistics) -> Statistics:
        """The statistics of the same rows over two blocks."""
        ours, theirs = _present(left), _present(right)
        maximum = jnp.maximum(ours.maximum, theirs.maximum)
        exp_sum = ours.sum_at(maximum) + theirs.sum_at(maximum)
        return _merged(SumOfExponentials(maximum, exp_sum), left, right)

    def merge_devices(self, part: Statistics, axis_names: tuple[str, ...]) -> Statistics:
        """The statistics of the same columns over the blocks of all devices."""
        maximum = jax.lax.pmax(_present(part).maximum, axis_names)
        exp_sum = jax.lax.psum(_present(part).sum_at(maximum), axis_names)
        return _merged_devices(SumOfExponentials(maximum, exp_sum), part, axis_names)

    def loss(self, rows: Statistics, columns: Statistics, pairs: int) -> Float[Array, ""]:
        """The sum over this device's rows and columns, each of `pairs` logits."""
        return jnp.sum(self._cross_entropy(rows, pairs) + self._cross_entropy(columns, pairs))

    def _cross_entropy(self, seen: Statistics, pairs: int) -> Float[Array, "R"]:
        # -sum(target * log_softmax) = logsumexp - (1 - s) * right - s * mean, since the targets sum to one.
        smoothed = (1.0 - self.label_smoothing) * seen.right + self.label_smoothing * seen.total / pairs
        return _present(seen).maximum + jnp.log(_present(seen).exp_sum) - smoothed

    def gradient(
        self, block: Block, rows: SumOfExponentials, columns: SumOfExponentials, pairs: int
    ) -> Float[Array, "B C"]:
        """Derivative of the loss with respect to the block's logits: both directions' probabilities minus targets."""
        by_row = jnp.exp(block.logits - rows.maximum[:, None]) / rows.exp_sum[:, None]
        by_column = jnp.exp(block.logits - columns.maximum[None, :]) / columns.exp_sum[None, :]
        targets = jnp.where(block.own, 2.0 * (1.0 - self.label_smoothing), 0.0) + 2.0 * self.label_smoothing / pairs
        return jnp.where(block.valid, by_row + by_column - targets, 0.0)


@dataclasses.dataclass(frozen=True)
class Sigmoid:
    """Each pair by itself, as belonging together or not."""

    def nothing(self, count: int) -> Statistics:
        """As `Softmax.nothing`."""
        zero = jnp.zeros(count, jnp.float32)
        return Statistics(None, zero, zero, jnp.full(count, -jnp.inf, jnp.float32))

    def reduce(self, block: Block, axis: Literal[0, 1]) -> Statistics:
        """As `Softmax.reduce`."""
        # -log sigmoid(z x) = softplus(-z x)
        losses = jax.nn.softplus(jnp.where(block.own, -block.logits, block.logits))
        total = jnp.sum(jnp.where(block.valid, losses, 0.0), axis=axis)
        return Statistics(None, total, *_right_and_rival(block, axis))

    def merge(self, left: Statistics, right: Statistics) -> Statistics:
        """As `Softmax.merge`."""
        return _merged(None, left, right)

    def merge_devices(self, part: Statistics, axis_names: tuple[str, ...]) -> Statistics:
        """As `Softmax.merge_devices`."""
        return _merged_devices(None, part, axis_names)

    def loss(self, rows: Statistics, columns: Statistics, pairs: int) -> Float[Array, ""]:
        """As `Softmax.loss`; the columns hold the same pairs again."""
        del columns, pairs
        return jnp.sum(rows.total)

    def gradient(self, block: Block, rows: None, columns: None, pairs: int) -> Float[Array, "B C"]:
        """As `Softmax.gradient`."""
        del rows, columns, pairs
        signed = jax.nn.sigmoid(jnp.where(block.own, -block.logits, block.logits))
        return jnp.where(block.valid, jnp.where(block.own, -signed, signed), 0.0)


Objective = Softmax | Sigmoid


def _right_and_rival(block: Block, axis: int) -> tuple[Float[Array, "R"], Float[Array, "R"]]:
    right = jnp.sum(jnp.where(block.own, block.logits, 0.0), axis=axis)
    others = block.valid & ~block.own
    return right, jnp.max(jnp.where(others, block.logits, -jnp.inf), axis=axis)


def _present(seen: Statistics) -> SumOfExponentials:
    assert seen.normalizer is not None
    return seen.normalizer


def _merged(normalizer: SumOfExponentials | None, left: Statistics, right: Statistics) -> Statistics:
    return Statistics(
        normalizer, left.total + right.total, left.right + right.right, jnp.maximum(left.rival, right.rival)
    )


def _merged_devices(normalizer: SumOfExponentials | None, part: Statistics, axis_names: tuple[str, ...]) -> Statistics:
    total, right = jax.lax.psum((part.total, part.right), axis_names)
    return Statistics(normalizer, total, right, jax.lax.pmax(part.rival, axis_names))
