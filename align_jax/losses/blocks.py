"""One block of the logits: this device's images against the texts that are here at the moment, and its gradient."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from align_jax.losses.objectives import Block


class Pairs(NamedTuple):
    """What the loss is a function of; also its gradient."""

    image: Float[Array, "B D"]
    text: Float[Array, "B D"]
    temperature: Float[Array, ""]
    bias: Float[Array, ""]


class Texts(NamedTuple):
    """The columns of a block."""

    embeddings: Float[Array, "C D"]
    places: Int[Array, "C"]  # rows of the global batch
    valid: Bool[Array, "C"]


class BlockGradient(NamedTuple):
    """What one block adds to the gradient."""

    image: Float[Array, "B D"]
    temperature: Float[Array, ""]
    bias: Float[Array, ""]


def block_of(pairs: Pairs, texts: Texts, device: Int[Array, ""]) -> Block:
    """The logits of a block, on the device with this place among all."""
    batch = pairs.image.shape[0]
    places = device * batch + jnp.arange(batch, dtype=jnp.int32)
    logits = _product(pairs.image, texts.embeddings.T) / pairs.temperature + pairs.bias
    valid = jnp.broadcast_to(texts.valid[None, :], logits.shape)
    return Block(logits, (places[:, None] == texts.places[None, :]) & valid, valid)


def block_gradient(
    pairs: Pairs, texts: Texts, block: Block, logit_gradient: Float[Array, "B C"]
) -> tuple[BlockGradient, Float[Array, "C D"]]:
    """The block's share in the gradients of what stays here, and the gradient of its texts."""
    per_cosine = logit_gradient / pairs.temperature
    # d(logit)/d(temperature) = -(logit - bias) / temperature
    temperature = -jnp.sum(per_cosine * (block.logits - pairs.bias))
    here = BlockGradient(_product(per_cosine, texts.embeddings), temperature, jnp.sum(logit_gradient))
    return here, _product(per_cosine.T, pairs.image)


def no_gradient(pairs: Pairs) -> BlockGradient:
    """Where the sum over blocks starts."""
    zero = jnp.zeros((), jnp.float32)
    return BlockGradient(jnp.zeros(pairs.image.shape, jnp.float32), zero, zero)


def added(left: Any, right: Any) -> Any:
    """The sum of two trees."""
    return jax.tree.map(jnp.add, left, right)


def device_count(axis_names: Sequence[str]) -> int:
    """Devices that share the batch."""
    return jax.lax.axis_size(tuple(axis_names)) if axis_names else 1


def device_place(axis_names: Sequence[str]) -> Int[Array, ""]:
    """The device's place among those that share the batch."""
    return jax.lax.axis_index(tuple(axis_names)) if axis_names else jnp.int32(0)


def varying(tree: Any, axis_names: Sequence[str]) -> Any:
    """Values that are equal on all devices now, and need not stay so."""
    return jax.lax.pcast(tree, tuple(axis_names), to="varying") if axis_names else tree


def _product(left: Float[Array, "M K"], right: Float[Array, "K N"]) -> Float[Array, "M N"]:
    """A matrix product without rounding to bfloat16, which would move a logit by up to 0.4 % of 1 / temperature."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
