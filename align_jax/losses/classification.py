"""Losses of classifiers: those that `transformers` computes for its three kinds of problem."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

IGNORED_CLASS = -100
"""Of examples that do not count."""


def softmax_cross_entropy(logits: Float[Array, "B K"], classes: Int[Array, "B"]) -> Float[Array, ""]:
    """Mean of -log p(class), over the examples whose class is not `IGNORED_CLASS`; nan if there is none.

    >>> round(float(softmax_cross_entropy(jnp.array([[0.0, 0.0], [9.0, 0.0]]), jnp.array([1, -100]))), 4)
    0.6931
    """
    counted = classes != IGNORED_CLASS
    chosen = jnp.where(counted, classes, 0)[:, None]
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), chosen, axis=1)[:, 0]
    return jnp.sum(jnp.where(counted, losses, 0.0)) / jnp.sum(counted, dtype=logits.dtype)


def sigmoid_cross_entropy(logits: Float[Array, "B K"], targets: Float[Array, "B K"]) -> Float[Array, ""]:
    """Mean over examples and classes of the cross-entropy of a sigmoid; targets are 0, 1, or between.

    >>> round(float(sigmoid_cross_entropy(jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]]))), 4)
    0.6931
    """
    # -t log s(x) - (1 - t) log(1 - s(x)), and 1 - s(x) = s(-x)
    losses = -targets * jax.nn.log_sigmoid(logits) - (1.0 - targets) * jax.nn.log_sigmoid(-logits)
    return jnp.mean(losses)


def squared_error(values: Float[Array, "B K"], targets: Float[Array, "B K"]) -> Float[Array, ""]:
    """Mean of the squared differences.

    >>> float(squared_error(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 0.0]])))
    2.5
    """
    return jnp.mean(jnp.square(values - targets))
