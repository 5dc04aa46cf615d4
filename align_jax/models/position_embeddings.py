"""Position embeddings of patches, interpolated for images of other sizes than those they were trained for.

The grid of the table and that of the image are known when a program is compiled, so an interpolation is two small
matrices of constants, one for each axis, and costs two matrix products.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from align_jax.configuration.vit import PositionInterpolation

_CUBIC = -0.75  # the parameter of the convolution kernel (Keys, 1981) that PyTorch has


def interpolate_positions(
    table: Float[Array, "T D"], grid: tuple[int, int], formula: PositionInterpolation
) -> Float[Array, "T2 D"]:
    """The table of a grid of another shape; the first row, that of the class token, is kept.

    Args:
        table: one row for the class token, then those of a square grid of patches, row by row.
        grid: rows and columns of patches that are wanted.
        formula: see `ViTConfig.position_interpolation`.
    """
    side = math.isqrt(table.shape[0] - 1)
    patches = table[1:].reshape(side, side, table.shape[1]).astype(jnp.float32)
    down, across = (jnp.asarray(interpolation_weights(side, size, formula)) for size in grid)
    with jax.default_matmul_precision("float32"):  # weights of a table that is read once
        resized = jnp.einsum("yi,xj,ijd->yxd", down, across, patches)
    return jnp.concatenate([table[:1], resized.reshape(-1, table.shape[1]).astype(table.dtype)])


def interpolation_weights(
    size_in: int, size_out: int, formula: PositionInterpolation
) -> Float32[np.ndarray, "{size_out} {size_in}"]:
    """What each place of an axis takes from each place of the table.

    Args:
        size_in: places of the table.
        size_out: places that are wanted.
        formula: see `ViTConfig.position_interpolation`.
    """
    places = np.arange(size_out, dtype=np.float32)
    if formula == "linear":
        step = np.float32((size_in - 1) / max(size_out - 1, 1))
        return _weights(places * step, size_in, (0, 1), lambda x: np.maximum(1 - np.abs(x), 0))
    # `transformers` 4 adds a tenth of a patch, so that rounding never loses one, and resizes by the ratio that results.
    ratio = size_in / (size_out + 0.1) if formula == "bicubic_scaled" else size_in / size_out
    centres = np.float32(ratio) * (places + np.float32(0.5)) - np.float32(0.5)
    return _weights(centres, size_in, (-1, 0, 1, 2), _cubic_kernel)


def _weights(
    centres: np.ndarray, size_in: int, neighbours: tuple[int, ...], kernel: Callable[[np.ndarray], np.ndarray]
) -> Float32[np.ndarray, "places {size_in}"]:
    """Values of a kernel at the distances to the nearest places; the outermost places stand for those beyond."""
    weights = np.zeros((len(centres), size_in), np.float32)
    rows, below = np.arange(len(centres)), np.floor(centres)
    for offset in neighbours:
        columns = np.clip((below + offset).astype(np.int64), 0, size_in - 1)
        np.add.at(weights, (rows, columns), kernel(centres - below - np.float32(offset)))
    return weights


def _cubic_kernel(distance: np.ndarray) -> np.ndarray:
    x, a = np.abs(distance), np.float32(_CUBIC)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0)).astype(np.float32)
