"""Zero-shot classification: a class is the mean direction of its captions (arXiv 2102.05918, section 5.2)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from align_jax.evaluation.row_blocks import map_rows
from align_jax.metrics import class_ranks


def class_embeddings(sentences: Float[np.ndarray, "K P D"]) -> Float[np.ndarray, "K D"]:
    """The embeddings of each class's P sentences averaged, and only then brought to unit length.

    Args:
        sentences: unit-length embeddings.
    """
    mean_KxD = np.mean(sentences, axis=1, dtype=np.float64)
    return (mean_KxD / np.linalg.norm(mean_KxD, axis=1, keepdims=True)).astype(np.float32)


def zero_shot_ranks(
    images: Float[np.ndarray, "N D"],
    classes: Float[np.ndarray, "K D"],
    right: Bool[np.ndarray, "N K"],
    mesh: Mesh,
    *,
    rows_at_once: int = 8192,
) -> Int[np.ndarray, "N"]:
    """Rank of the right class of each image by cosine, see `class_ranks`.

    Args:
        images: unit-length embeddings.
        classes: of `class_embeddings`.
        right: the classes that are right for an image.
        mesh: images are spread over it.
        rows_at_once: bounds the score matrix.
    """
    return map_rows(_ranks, mesh, (images, right), (classes,), rows_at_once=rows_at_once)


def _ranks(images: Float[Array, "B D"], right: Bool[Array, "B K"], classes: Float[Array, "K D"]) -> Int[Array, "B"]:
    return class_ranks(jnp.matmul(images, classes.T, precision=jax.lax.Precision.HIGHEST), right)
