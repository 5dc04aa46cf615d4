"""The contrastive loss of ALIGN (Jia et al., arXiv 2102.05918, section 4.1), as a pure function of embeddings."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class ContrastiveLoss(NamedTuple):
    """The loss over every pair of the global batch, and how often the right partner scores highest."""

    loss: Float[Array, ""]
    image_to_text_accuracy: Float[Array, ""]
    text_to_image_accuracy: Float[Array, ""]


def contrastive_loss(
    image: Float[Array, "B D"],
    text: Float[Array, "B D"],
    temperature: Float[Array, ""],
    *,
    label_smoothing: float = 0.1,
    axis_names: tuple[str, ...] = (),
) -> ContrastiveLoss:
    """Every image against every text, and every text against every image.

    The sum of the two directions' cross-entropies, each a mean over the batch; `transformers` reports half of it.
    Without `axis_names` the batch is what is passed (the dense form). With them, the function runs inside
    `jax.shard_map`, each device holding B rows: both sides are gathered over the axes, local rows are compared with
    global columns, and the gradient flows back through the gather (whose transpose is a reduce-scatter).

    Args:
        image: unit-length float32 embeddings; row i of `image` and of `text` are a pair.
        text: unit-length float32 embeddings.
        temperature: cosines are divided by it.
        label_smoothing: share of the target spread evenly over all columns, the right one included.
        axis_names: mesh axes the batch is sharded over, major axis first.

    Example:
        Two pairs at right angles and temperature 1: a row's logits are (1, 0), its cross-entropy is
        log(e + 1) - 1 = 0.3133, and both directions together cost 0.6265.

        >>> eye = jnp.eye(2)
        >>> float(contrastive_loss(eye, eye, jnp.float32(1.0), label_smoothing=0.0).loss)  # doctest: +ELLIPSIS
        0.6265...
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
    sums = jnp.stack([image_to_text[0] + text_to_image[0], image_to_text[1], text_to_image[1]])
    if axis_names:
        sums = jax.lax.psum(sums, axis_names)
    loss, image_to_text_accuracy, text_to_image_accuracy = sums / all_images.shape[0]
    return ContrastiveLoss(loss, image_to_text_accuracy, text_to_image_accuracy)


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
