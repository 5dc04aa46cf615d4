"""Both objectives over logits that are never held whole: a block at a time, and again for the gradient.

The logits of a block are computed once for both directions: they enter the statistics of this device's images (rows)
and of the block's texts (columns). Only these statistics are kept for the gradient, which computes the logits again.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from align_jax.losses.blocks import Pairs, device_count, varying
from align_jax.losses.chunks import Chunks
from align_jax.losses.ring import Ring

Stream = Chunks | Ring


def streamed_sums(
    stream: Stream,
    image: Float[Array, "B D"],
    text: Float[Array, "B D"],
    temperature: Float[Array, ""],
    bias: Float[Array, ""],
) -> Float[Array, "3"]:
    """Sums on this device of the loss and of the hits in either direction."""
    # What is equal on all devices has a gradient that is summed over them: the transpose of this cast.
    temperature, bias = varying((temperature, bias), stream.axis_names)
    return _sums(stream, Pairs(image, text, temperature, bias))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(stream: Stream, pairs: Pairs) -> Float[Array, "3"]:
    return _forward(stream, pairs)[0]


def _forward(stream: Stream, pairs: Pairs) -> tuple[Float[Array, "3"], Any]:
    rows, columns = stream.statistics(pairs)
    loss = stream.objective.loss(rows, columns, device_count(stream.axis_names) * pairs.image.shape[0])
    return jnp.stack([loss, rows.hits(), columns.hits()]), (pairs, rows.normalizer, columns.normalizer)


def _backward(stream: Stream, kept: Any, cotangent: Float[Array, "3"]) -> tuple[Pairs]:
    gradient = stream.gradient(*kept)
    return (jax.tree.map(lambda leaf: cotangent[0] * leaf, gradient),)


_sums.defvjp(_forward, _backward)
