"""Depthwise convolution with the form of each direction chosen per platform, stride and kernel size.

Takes NHWC images and a kernel in Flax layout `(k, k, 1, C)`; gives NHWC features in the dtype of the images. Sums are
kept in float32, or in float64 for float64 inputs. The operator is EfficientNet's (Tan and Le 2019, arXiv:1905.11946):
one `k x k` filter for each channel. It carries its own gradient, because the fastest way to compute the output, the
input gradient and the kernel gradient differ; `choose_forms` is the table of choices.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial, reduce
from operator import add
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

Padding = tuple[tuple[int, int], tuple[int, int]]


def depthwise_conv(
    images_BxHxWxC: Float[Array, "B H W C"], kernel_KxKx1xC: Float[Array, "K K 1 C"], *, stride: int, padding: Padding
) -> Float[Array, "B H2 W2 C"]:
    """Convolve every channel with its own square filter.

    Differentiable in reverse mode with respect to both arrays; gradients come in the dtypes of the arrays.

    Args:
        images_BxHxWxC: images or features.
        kernel_KxKx1xC: one `k x k` filter a channel, of the same dtype.
        stride: the step between windows, in pixels, along both axes.
        padding: zeros before and after the rows, then before and after the columns, in pixels.

    Returns:
        The features, of `(height + before + after - k) // stride + 1` rows, and columns likewise.

    Raises:
        ValueError: the shapes, dtypes, stride or padding do not fit together.
    """
    _validate(images_BxHxWxC, kernel_KxKx1xC, stride, padding)
    # Adding a zero of the other array changes nothing, and is compiled away. Inside shard_map it makes both vary over
    # the same mesh axes, and a kernel held by every device gets the sum of the devices' gradients.
    images = images_BxHxWxC + jnp.zeros_like(kernel_KxKx1xC, shape=(1, 1, 1, 1))
    kernel = kernel_KxKx1xC + jnp.zeros_like(images_BxHxWxC, shape=(1, 1, 1, 1))
    return _depthwise_conv(images, kernel, stride, padding)


class Forms(NamedTuple):
    """One way to compute each direction."""

    forward: Callable[[Array, Array, int, Padding], Array]
    """`(images, kernel, stride, padding)` to output."""
    input_gradient: Callable[[Array, Array, int, Padding, tuple[int, int]], Array]
    """`(output gradient, kernel, stride, padding, (height, width) of the images)` to image gradient."""
    kernel_gradient: Callable[[Array, Array, int, Padding, int], Array]
    """`(images, output gradient, stride, padding, k)` to kernel gradient."""


def choose_forms(platform: str, kernel_size: int, stride: int) -> Forms:
    """The table of choices. Measurements: `benchmarks/depthwise.py`, recorded in `benchmarks/RESULTS.md`."""
    if platform == "cpu":
        # Measured: XLA's grouped convolution is 7 to 90 times slower forward, 4 to 600 times backward. Padding must be
        # written to memory first, or every shift computes what precedes the operator again.
        return Forms(
            partial(forward_by_shifts, pad=_pad_in_memory),
            partial(input_gradient_by_phases, pad=_pad_in_memory),
            kernel_gradient_by_blocks,
        )
    if platform == "tpu" and stride == 1:
        # HBM bytes counted by the v5e compiler: shifts read input and output about once, the grouped convolution up to
        # three times. Reductions over shifts read the images twice as often as it does for k = 5, but not for k = 3.
        # Not timed on a device.
        kernel_gradient = kernel_gradient_by_reductions if kernel_size <= 3 else kernel_gradient_by_grouping
        return Forms(forward_by_shifts, input_gradient_by_phases, kernel_gradient)
    # TPU at stride 2, by the same count: strided slices move 3 to 8 times the bytes. GPU: cuDNN's grouped convolution
    # is the safe default, not measured.
    return Forms(forward_by_grouping, input_gradient_by_grouping, kernel_gradient_by_grouping)


# Forward ------------------------------------------------------------------------------------------------------------


def forward_by_grouping(images: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """XLA's grouped convolution, one group a channel."""
    return lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=images.shape[-1],
    )


def forward_by_shifts(images: Array, kernel: Array, stride: int, padding: Padding, pad: Callable = lax.pad) -> Array:
    """A sum of `k * k` shifted images, each times one tap of the filter."""
    size = kernel.shape[0]
    rows, columns = _output_shape(images.shape[1:3], size, stride, padding)
    padded = _pad_to_windows(images, rows, columns, size, stride, padding, pad)
    products = (
        _wide(_shift(padded, i, j, rows, columns, stride)) * _tap(kernel, i, j)
        for i in range(size)
        for j in range(size)
    )
    return _sum(products).astype(images.dtype)


# Input gradient -----------------------------------------------------------------------------------------------------


def input_gradient_by_grouping(
    gradient: Array, kernel: Array, stride: int, padding: Padding, image_shape: tuple[int, int]
) -> Array:
    """XLA's transpose of the grouped convolution."""
    images = jnp.zeros_like(gradient, shape=(gradient.shape[0], *image_shape, gradient.shape[3]))
    _, transpose = jax.vjp(lambda images: forward_by_grouping(images, kernel, stride, padding), images)
    return transpose(gradient)[0]


def input_gradient_by_phases(
    gradient: Array,
    kernel: Array,
    stride: int,
    padding: Padding,
    image_shape: tuple[int, int],
    pad: Callable = lax.pad,
) -> Array:
    """Shifted multiply-adds, for each of the `stride * stride` interleaved phases of the images by itself.

    Pixel `y = stride * n + phase` meets tap `i` of output row `(y + padding - i) / stride`, so a phase uses only the
    taps congruent to `phase + padding`, and no multiplication by a dilation's zeros is left. One phase at stride 1.
    """
    size = kernel.shape[0]
    reach = (size - 1) // stride
    counts = tuple(-(-pixels // stride) for pixels in image_shape)
    highest = [(stride - 1 + before) // stride for before, _ in padding]
    after = [count + high - rows for count, high, rows in zip(counts, highest, gradient.shape[1:3], strict=True)]
    padded = pad(gradient, _zero(gradient), ((0, 0, 0), (reach, after[0], 0), (reach, after[1], 0), (0, 0, 0)))

    def phase(row_phase: int, column_phase: int) -> Array:
        row, first_i = divmod(row_phase + padding[0][0], stride)
        column, first_j = divmod(column_phase + padding[1][0], stride)
        products = (
            _wide(_shift(padded, reach + row - i // stride, reach + column - j // stride, *counts, stride=1))
            * _tap(kernel, i, j)
            for i in range(first_i, size, stride)
            for j in range(first_j, size, stride)
        )
        nothing = jnp.zeros_like(_wide(gradient), shape=(len(gradient), *counts, gradient.shape[3]))
        return reduce(add, products, nothing).astype(gradient.dtype)  # no tap reaches a phase where stride exceeds k

    if stride == 1:
        return phase(0, 0)
    phases = jnp.stack([jnp.stack([phase(a, b) for b in range(stride)], axis=3) for a in range(stride)], axis=2)
    interleaved = phases.reshape(len(gradient), counts[0] * stride, counts[1] * stride, gradient.shape[3])
    return interleaved[:, : image_shape[0], : image_shape[1]]


# Kernel gradient ----------------------------------------------------------------------------------------------------


def kernel_gradient_by_grouping(images: Array, gradient: Array, stride: int, padding: Padding, size: int) -> Array:
    """XLA's transpose of the grouped convolution."""
    kernel = jnp.zeros_like(images, shape=(size, size, 1, images.shape[3]))
    _, transpose = jax.vjp(lambda kernel: forward_by_grouping(images, kernel, stride, padding), kernel)
    return transpose(gradient)[0]


def kernel_gradient_by_reductions(images: Array, gradient: Array, stride: int, padding: Padding, size: int) -> Array:
    """For every tap, the sum over images and pixels of the shifted images times the output gradient."""
    _, rows, columns, channels = gradient.shape
    padded = _pad_to_windows(images, rows, columns, size, stride, padding, lax.pad)
    taps = [
        jnp.sum(_wide(_shift(padded, i, j, rows, columns, stride)) * _wide(gradient), axis=(0, 1, 2))
        for i in range(size)
        for j in range(size)
    ]
    return jnp.stack(taps).reshape(size, size, 1, channels).astype(images.dtype)


def kernel_gradient_by_blocks(images: Array, gradient: Array, stride: int, padding: Padding, size: int) -> Array:
    """A loop over blocks of a few rows that stay in cache, adding up `k * k * width * C` in vectors.

    Each turn adds the block's rows in one expression over contiguous channels. XLA's own reduction to `C` numbers reads
    memory with a stride, and all of it once for each tap.
    """
    batch = len(images)
    shares = math.gcd(batch, jax.device_count())  # a loop over a sharded batch would gather it on every device
    split = (jnp.reshape(array, (shares, batch // shares, *array.shape[1:])) for array in (images, gradient))
    return (
        jax.vmap(partial(_sum_of_blocks, stride=stride, padding=padding, size=size))(*split)
        .sum(axis=0)
        .astype(images.dtype)
    )


def _sum_of_blocks(images: Array, gradient: Array, stride: int, padding: Padding, size: int) -> Array:
    batch, rows, columns, channels = gradient.shape
    height = _block_height(rows)
    depth = min(-(-_LEAST_BLOCK_ROWS // height), batch)
    images_blocks, rows_blocks = -(-batch // depth), -(-rows // height)
    window = stride * (height - 1) + size

    more_images, more_rows = images_blocks * depth - batch, rows_blocks * height - rows
    images = _pad_to_windows(images, rows + more_rows, columns, size, stride, padding, lax.pad, more_images)
    gradient = lax.pad(gradient, _zero(gradient), ((0, more_images, 0), (0, more_rows, 0), (0, 0, 0), (0, 0, 0)))
    images, gradient = lax.optimization_barrier((images, gradient))

    def add_block(step: Array, total: Array) -> Array:
        image, row = lax.div(step, rows_blocks) * depth, lax.rem(step, rows_blocks) * height
        block = lax.dynamic_slice(images, (image, row * stride, 0, 0), (depth, window, *images.shape[2:]))
        weight = lax.dynamic_slice(gradient, (image, row, 0, 0), (depth, height, columns, channels))
        # Without the barrier every tap slices the whole arrays again, at a cost that forbids vector instructions.
        block, weight = lax.optimization_barrier((block, weight))

        def taps_of_column(j: int) -> Array:
            return _sum(
                _wide(block[n, stride * r : stride * r + size, j : j + stride * (columns - 1) + 1 : stride])
                * _wide(weight[n, r : r + 1])
                for n in range(depth)
                for r in range(height)
            )

        return total + jnp.stack([taps_of_column(j) for j in range(size)])

    total = jnp.zeros_like(_wide(gradient), shape=(size, size, columns, channels))
    total = lax.fori_loop(0, images_blocks * rows_blocks, add_block, total)
    return total.sum(axis=2).swapaxes(0, 1)[:, :, None]


_LEAST_BLOCK_ROWS = 6  # XLA:CPU recomputes a slice that has 15 uses or fewer: k = 3 columns times 6 rows are 18
_MOST_BLOCK_ROWS = 12  # more rows than this leave the second-level cache


def _block_height(rows: int) -> int:
    """All rows where they are few, else the height that wastes the fewest padded rows, 8 before others."""
    if rows <= _MOST_BLOCK_ROWS:
        return rows
    return min(range(_LEAST_BLOCK_ROWS, _MOST_BLOCK_ROWS + 1), key=lambda height: (-rows % height, abs(height - 8)))


# Shared by the forms ------------------------------------------------------------------------------------------------


def _wide(array: Array) -> Array:
    """Accumulate in float32 at least."""
    return array.astype(max(array.dtype, jnp.dtype(jnp.float32), key=lambda dtype: dtype.itemsize))


def _zero(array: Array) -> Array:
    return jnp.zeros((), array.dtype)


def _sum(terms: Iterable[Array]) -> Array:
    return reduce(add, terms)


def _tap(kernel: Array, i: int, j: int) -> Array:
    return _wide(kernel[i : i + 1, j : j + 1])  # [1 1 1 C], to multiply [B H W C] under strict rank promotion


def _shift(images: Array, i: int, j: int, rows: int, columns: int, stride: int) -> Array:
    """Every `stride`-th pixel from `(i, j)` on."""
    return images[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]


def _pad_in_memory(images: Array, zero: Array, widths: tuple[tuple[int, int, int], ...]) -> Array:
    """`lax.pad` whose result is written to memory, never computed again by each of its readers."""
    return lax.optimization_barrier(lax.pad(images, zero, widths))


def _pad_to_windows(
    images: Array,
    rows: int,
    columns: int,
    size: int,
    stride: int,
    padding: Padding,
    pad: Callable,
    more_images: int = 0,
) -> Array:
    """Exactly the pixels that `rows` by `columns` windows cover; drops those that no window reaches."""
    (above, _), (left, _) = padding
    below = stride * (rows - 1) + size - above - images.shape[1]
    right = stride * (columns - 1) + size - left - images.shape[2]
    return pad(images, _zero(images), ((0, more_images, 0), (above, below, 0), (left, right, 0), (0, 0, 0)))


def _output_shape(image_shape: tuple[int, ...], size: int, stride: int, padding: Padding) -> tuple[int, ...]:
    return tuple(
        (pixels + before + after - size) // stride + 1
        for pixels, (before, after) in zip(image_shape, padding, strict=True)
    )


def _validate(images: Array, kernel: Array, stride: int, padding: Padding) -> None:
    if images.ndim != 4 or kernel.shape != (*kernel.shape[:1] * 2, 1, images.shape[3]):
        raise ValueError(
            f"depthwise kernel of shape {kernel.shape} does not fit images of shape {images.shape}; "
            "images must be (batch, height, width, channels) and the kernel (k, k, 1, channels)"
        )
    if images.dtype != kernel.dtype:
        raise ValueError(f"images are {images.dtype} and the kernel is {kernel.dtype}; cast one of them")
    if stride < 1 or min(min(sides) for sides in padding) < 0:
        raise ValueError(f"stride {stride} and padding {padding}: use a stride of 1 or more and no negative padding")
    size = len(kernel)
    if min(_output_shape(images.shape[1:3], size, stride, padding)) < 1:
        raise ValueError(
            f"a {size} x {size} kernel is larger than images of shape {images.shape} with padding {padding}; "
            "pad more or use a smaller kernel"
        )


# The operator with its gradient -------------------------------------------------------------------------------------


def _on_this_platform(run: Callable[[Forms], Callable], kernel_size: int, stride: int, *arrays: Array):
    """Run what `run` makes of the forms chosen for the platform that the program is lowered for, not traced on."""
    forms = {platform: choose_forms(platform, kernel_size, stride) for platform in ("cpu", "tpu", "default")}
    return lax.platform_dependent(*arrays, **{platform: run(chosen) for platform, chosen in forms.items()})


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
@partial(jax.jit, static_argnums=(2, 3))  # layers of one shape are traced and lowered once
def _depthwise_conv(images: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    def run(forms: Forms) -> Callable:
        return lambda images, kernel: forms.forward(images, kernel, stride, padding)

    return _on_this_platform(run, kernel.shape[0], stride, images, kernel)


def _forward(images: Array, kernel: Array, stride: int, padding: Padding) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise_conv(images, kernel, stride, padding), (images, kernel)


@partial(jax.jit, static_argnums=(0, 1))
def _backward(stride: int, padding: Padding, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    def run(forms: Forms) -> Callable:
        return lambda images, kernel, gradient: (
            forms.input_gradient(gradient, kernel, stride, padding, images.shape[1:3]),
            forms.kernel_gradient(images, gradient, stride, padding, kernel.shape[0]),
        )

    images, kernel = residuals
    return _on_this_platform(run, kernel.shape[0], stride, images, kernel, gradient)


_depthwise_conv.defvjp(_forward, _backward)
