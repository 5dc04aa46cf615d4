"""Batch-norm statistics over fixed groups of examples ("ghost" batch norm, Hoffer et al., arXiv 1705.08741).

The released recipe normalises over 16 examples at a time, whatever the batch. A group is a run of consecutive examples
of the global batch, so its members do not depend on how many devices share the batch, and as long as a device's share
is a multiple of the group no statistic crosses devices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class GroupMoments(NamedTuple):
    """Float32 mean and biased variance of every group."""

    mean: Float[Array, "G C"]
    variance: Float[Array, "G C"]


def group_count(batch_size: int, group_size: int | None) -> int:
    """Number of groups in a batch; `None`, and a group larger than the batch, mean one group.

    Raises:
        ValueError: if the group has no examples, or the batch is not a multiple of it.
    """
    if group_size is not None and group_size < 1:
        raise ValueError(
            f"batch-norm group size {group_size} is not positive; use 1 or more, or None for the whole batch"
        )
    if group_size is None or batch_size <= group_size:
        return 1
    if batch_size % group_size:
        lower = batch_size - batch_size % group_size
        raise ValueError(
            f"batch size {batch_size} is not a multiple of the batch-norm group size {group_size}; "
            f"use {lower} or {lower + group_size}"
        )
    return batch_size // group_size


def group_moments(images: Float[Array, "B H W C"], group_size: int | None) -> GroupMoments:
    """Mean and variance of every channel over the examples and positions of each group.

    Args:
        images: features of any floating type; the sums are taken in float32.
        group_size: consecutive examples that share statistics.
    """
    batch, height, width, channels = images.shape
    groups = group_count(batch, group_size)
    grouped = images.reshape(groups, batch // groups, height, width, channels).astype(jnp.float32)
    mean = jnp.mean(grouped, axis=(1, 2, 3))
    # E[(x - m)^2], not E[x^2] - m^2: the latter cancels where a channel's mean is large beside its spread. The mean
    # needs no gradient here: d/dm E[(x - m)^2] = -2 E[x - m] = 0.
    centre = jax.lax.stop_gradient(mean)[:, None, None, None, :]
    variance = jnp.mean(jnp.square(grouped - centre), axis=(1, 2, 3))
    return GroupMoments(mean, variance)


def normalize(
    images: Float[Array, "B H W C"],
    moments: GroupMoments,
    scale: Float[Array, "C"],
    offset: Float[Array, "C"],
    epsilon: float,
) -> Float[Array, "B H W C"]:
    """`(x - mean) / sqrt(variance + epsilon) * scale + offset` per group, computed in float32, in the type of `images`.

    The moments of one group (the running statistics at evaluation) serve a batch of any size.
    """
    batch, height, width, channels = images.shape
    groups = moments.mean.shape[0]
    factor = jax.lax.rsqrt(moments.variance + epsilon) * scale[None, :]
    shift = offset[None, :] - moments.mean * factor
    grouped = images.reshape(groups, batch // groups, height, width, channels).astype(jnp.float32)
    normalized = grouped * factor[:, None, None, None, :] + shift[:, None, None, None, :]
    return normalized.reshape(images.shape).astype(images.dtype)
