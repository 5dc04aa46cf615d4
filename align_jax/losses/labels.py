"""Losses of images against rows of class numbers, one loss for each image.

Rows are filled with `NO_LABEL`; targets are never spread out over the classes, of which there may be twenty thousand.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from align_jax.types import NO_LABEL


def sigmoid_losses(logits: Float[Array, "B K"], labels: Int[Array, "B M"]) -> Float[Array, "B"]:
    """Binary cross-entropy of every class, summed over the classes.

    With targets t of 0 or 1, `-t log s(x) - (1 - t) log(1 - s(x)) = softplus(x) - t x`. The released trainer clips its
    probabilities at 1e-7, below which the loss of a class does not grow; this one's does.

    >>> round(float(sigmoid_losses(jnp.zeros((1, 2)), jnp.array([[1, -1]]))[0]), 4)  # 2 log 2
    1.3863
    """
    return jnp.sum(jax.nn.softplus(logits), axis=1) - jnp.sum(_right_logits(logits, labels), axis=1)


def softmax_losses(
    logits: Float[Array, "B K"], labels: Int[Array, "B M"], label_smoothing: float = 0.0
) -> Float[Array, "B"]:
    """Cross-entropy of a softmax whose target is shared equally by an image's classes, of which it has at least one.

    >>> round(float(softmax_losses(jnp.array([[0.0, 0.0]]), jnp.array([[1]]))[0]), 4)  # log 2
    0.6931
    """
    count = jnp.sum((labels != NO_LABEL).astype(logits.dtype), axis=1)
    right = jnp.sum(_right_logits(logits, labels), axis=1) / count
    # -sum(target * log_softmax) = logsumexp - (1 - s) * right - s * mean, since the targets sum to one.
    smoothed = (1.0 - label_smoothing) * right + label_smoothing * jnp.mean(logits, axis=1)
    return jax.nn.logsumexp(logits, axis=1) - smoothed


def first_is_right(logits: Float[Array, "B K"], labels: Int[Array, "B M"]) -> Bool[Array, "B"]:
    """Whether the class with the highest logit is one of the image's."""
    return jnp.any(jnp.argmax(logits, axis=1).astype(labels.dtype)[:, None] == labels, axis=1)


def _right_logits(logits: Float[Array, "B K"], labels: Int[Array, "B M"]) -> Float[Array, "B M"]:
    """The logits of the labels, and 0 where there is none."""
    given = labels != NO_LABEL
    return jnp.where(given, jnp.take_along_axis(logits, jnp.where(given, labels, 0), axis=1), 0.0)
