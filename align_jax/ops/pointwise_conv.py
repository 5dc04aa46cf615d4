"""1 x 1 convolution: a matrix product over channels, in the form each platform runs best.

XLA's CPU backend takes several times longer for the gradients of a 1 x 1 convolution than for the same products written
as matrices; on TPU and GPU the convolution keeps the layout of its neighbours.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def pointwise_conv(images: Float[Array, "B H W C"], kernel: Float[Array, "1 1 C D"]) -> Float[Array, "B H W D"]:
    """Mixes channels at every position; products accumulate in float32 and are returned in the type of `images`."""
    return jax.lax.platform_dependent(images, kernel, cpu=_matrix_product, default=_convolution)


def gated_pointwise_conv(
    images: Float[Array, "B H W C"], gates: Float[Array, "B C"], kernel: Float[Array, "1 1 C D"]
) -> Float[Array, "B H W D"]:
    """`pointwise_conv` of the channels times their gates.

    `(x diag(g)) K = x (diag(g) K)`: the gates of a single image can go into the kernel, which on a CPU saves a pass
    through memory wherever the map has more positions than the kernel has outputs.
    """
    batch, height, width, _ = images.shape

    def gated_images(images: jax.Array, gates: jax.Array, kernel: jax.Array) -> jax.Array:
        return pointwise_conv(images * gates[:, None, None, :], kernel)

    def gated_kernel(images: jax.Array, gates: jax.Array, kernel: jax.Array) -> jax.Array:
        return _matrix_product(images, kernel * gates[0][None, None, :, None])

    if batch != 1 or height * width <= kernel.shape[-1]:
        return gated_images(images, gates, kernel)
    return jax.lax.platform_dependent(images, gates, kernel, cpu=gated_kernel, default=gated_images)


def _matrix_product(images: Float[Array, "B H W C"], kernel: Float[Array, "1 1 C D"]) -> Float[Array, "B H W D"]:
    batch, height, width, channels = images.shape
    # Two-dimensional operands: only these reach the fast matrix product in the gradient with respect to the kernel.
    rows = images.reshape(batch * height * width, channels)
    mixed = jnp.matmul(rows, kernel[0, 0], preferred_element_type=jnp.float32)
    return mixed.astype(images.dtype).reshape(batch, height, width, kernel.shape[-1])


def _convolution(images: Float[Array, "B H W C"], kernel: Float[Array, "1 1 C D"]) -> Float[Array, "B H W D"]:
    return jax.lax.conv_general_dilated(
        images, kernel, window_strides=(1, 1), padding="VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
