"""Both objectives over logits that are held whole: dense, or local rows against gathered columns."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def softmax_sums(
    image: Float[Array, "B D"],
    text: Float[Array, "B D"],
    temperature: Float[Array, ""],
    label_smoothing: float,
    axis_names: tuple[str, ...],
) -> Float[Array, "3"]:
    """Sums on this device of the loss and of the hits in either direction.

    With axes, both sides are gathered over them, local rows are compared with global columns, and the gradient flows
    back through the gather, whose transpose is a reduce-scatter.
    """
    batch = image.shape[0]
    if axis_names:
        first = jax.lax.axis_index(axis_names) * batch
        all_images = jax.lax.all_gather(image, axis_names, tiled=True)
        all_texts = jax.lax.all_gather(text, axis_names, tiled=True)
    else:
        first, all_images, all_texts = 0, image, text
    partner = first + jnp.arange(batch, dtype=jnp.int32)
    image_to_text = _softmax_rows(image, all_texts, temperature, partner, label_smoothing)
    text_to_image = _softmax_rows(text, all_images, temperature, partner, label_smoothing)
    return jnp.stack([image_to_text[0] + text_to_image[0], image_to_text[1], text_to_image[1]])


def _softmax_rows(
    rows: Float[Array, "B D"],
    columns: Float[Array, "N D"],
    temperature: Float[Array, ""],
    partner: Int[Array, "B"],
    label_smoothing: float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sums over rows of the smoothed cross-entropy and of the hits."""
    logits_BxN = jnp.matmul(rows, columns.T, precision=jax.lax.Precision.HIGHEST) / temperature
    right_B = jnp.take_along_axis(logits_BxN, partner[:, None], axis=1)[:, 0]
    # -sum(target * log_softmax) = logsumexp - (1 - s) * right - s * mean, since the targets sum to one.
    smoothed_B = (1.0 - label_smoothing) * right_B + label_smoothing * jnp.mean(logits_BxN, axis=1)
    cross_entropy_B = jax.nn.logsumexp(logits_BxN, axis=1) - smoothed_B
    # A hit only where nothing else scores as high, so that collapsed embeddings have no accuracy.
    rivals_B = jnp.sum((jax.lax.stop_gradient(logits_BxN) >= right_B[:, None]).astype(jnp.float32), axis=1)
    return jnp.sum(cross_entropy_B), jnp.sum((rivals_B == 1.0).astype(jnp.float32))


def sigmoid_sums(
    image: Float[Array, "B D"],
    text: Float[Array, "B D"],
    temperature: Float[Array, ""],
    bias: Float[Array, ""],
    axis_names: tuple[str, ...],
) -> Float[Array, "3"]:
    """As `softmax_sums`. Each pair counts once, so only the texts are gathered."""
    batch = image.shape[0]
    first, all_texts = 0, text
    if axis_names:
        first = jax.lax.axis_index(axis_names) * batch
        all_texts = jax.lax.all_gather(text, axis_names, tiled=True)
    logits_BxN = jnp.matmul(image, all_texts.T, precision=jax.lax.Precision.HIGHEST) / temperature + bias
    partner = first + jnp.arange(batch, dtype=jnp.int32)
    own_BxN = partner[:, None] == jnp.arange(all_texts.shape[0], dtype=jnp.int32)[None, :]
    # -log sigmoid(z x) = softplus(-z x)
    loss = jnp.sum(jax.nn.softplus(jnp.where(own_BxN, -logits_BxN, logits_BxN)))
    seen_BxN = jax.lax.stop_gradient(logits_BxN)
    right_B = jnp.take_along_axis(seen_BxN, partner[:, None], axis=1)[:, 0]
    rivals_BxN = jnp.where(own_BxN, -jnp.inf, seen_BxN)
    best_image_N = jnp.max(rivals_BxN, axis=0)
    if axis_names:
        best_image_N = jax.lax.pmax(best_image_N, axis_names)
    image_hits = jnp.sum((right_B > jnp.max(rivals_BxN, axis=1)).astype(jnp.float32))
    text_hits = jnp.sum((right_B > best_image_N[partner]).astype(jnp.float32))
    return jnp.stack([loss, image_hits, text_hits])
