"""The layers of EfficientNet (Tan & Le, arXiv 1905.11946): stem, inverted bottlenecks, top convolution, batch norm.

`Layers` carries what is the same in the whole network; `BlockSpec` says how one bottleneck differs from another.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from align_jax.ops.batch_norm import GroupMoments, group_moments, normalize
from align_jax.ops.depthwise_conv import depthwise_conv
from align_jax.ops.pointwise_conv import gated_pointwise_conv, pointwise_conv

Padding = tuple[tuple[int, int], tuple[int, int]]

conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")


class Layers(NamedTuple):
    """The layers that blocks are made of, with everything that is the same in the whole network filled in."""

    conv: Callable[..., nn.Module]
    pointwise: Callable[..., nn.Module]
    depthwise: Callable[..., nn.Module]
    dense: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    dropout: Callable[..., nn.Module]
    act: Callable[[jax.Array], jax.Array]


class BlockSpec(NamedTuple):
    """One inverted bottleneck."""

    stage: int  # counted from 1, as in the paper's table 1 without the stem
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    padding: Padding
    expand_ratio: int
    squeezed_channels: int | None  # None without squeeze-excite
    residual: bool
    drop_rate: float


class Stem(nn.Module):
    """A 3 x 3 convolution of stride 2."""

    channels: int
    padding: Padding
    layers: Layers

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B H2 W2 C"]:
        x = self.layers.conv(self.channels, (3, 3), strides=2, padding=self.padding, name="conv")(x)
        return self.layers.act(self.layers.norm(name="norm")(x))


class MBConv(nn.Module):
    """Inverted bottleneck: expand, depthwise, squeeze-excite, project."""

    spec: BlockSpec
    layers: Layers

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C2"]:
        spec, layers, residual = self.spec, self.layers, x
        if spec.expand_ratio != 1:
            x = layers.pointwise(spec.in_channels * spec.expand_ratio, name="expand")(x)
            x = layers.act(layers.norm(name="expand_norm")(x))
        x = layers.depthwise(spec.kernel_size, spec.stride, spec.padding, name="depthwise")(x)
        x = layers.act(layers.norm(name="depthwise_norm")(x))
        gates = None
        if spec.squeezed_channels is not None:
            gates = SqueezeExcite(spec.squeezed_channels, layers, name="squeeze_excite")(x)
        x = layers.norm(name="project_norm")(layers.pointwise(spec.out_channels, name="project")(x, gates))
        if not spec.residual:
            return x
        # Drop-connect (arXiv 1603.09382): an example loses the whole branch, and the others are scaled up.
        x = layers.dropout(spec.drop_rate, broadcast_dims=(1, 2, 3))(x)
        return x + residual


class Top(nn.Module):
    """A 1 x 1 convolution behind the last block."""

    channels: int
    layers: Layers

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W D"]:
        x = self.layers.pointwise(self.channels, name="conv")(x)
        return self.layers.act(self.layers.norm(name="norm")(x))


class SqueezeExcite(nn.Module):
    """Factors of the channels, from the pooled map (Hu et al., arXiv 1709.01507)."""

    squeezed_channels: int
    layers: Layers

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B C"]:
        dense, act = self.layers.dense, self.layers.act
        # Float32: a sum of thousands of positions.
        pooled = jnp.mean(x, axis=(1, 2), dtype=jnp.float32).astype(x.dtype)
        squeezed = act(dense(self.squeezed_channels, name="reduce")(pooled))
        return nn.sigmoid(dense(x.shape[-1], name="expand")(squeezed))


class PointwiseConv(nn.Module):
    """A 1 x 1 convolution without bias, of channels that are first multiplied by their gates where there are any."""

    features: int
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], gates: Float[Array, "B C"] | None = None) -> Float[Array, "B H W D"]:
        kernel = self.param("kernel", conv_init, (1, 1, x.shape[-1], self.features), self.param_dtype)
        x, kernel = x.astype(self.dtype), jnp.asarray(kernel, self.dtype)
        return pointwise_conv(x, kernel) if gates is None else gated_pointwise_conv(x, gates, kernel)


class DepthwiseConv(nn.Module):
    """One k x k filter per channel, without bias."""

    kernel_size: int
    stride: int
    padding: Padding
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C"]:
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
        kernel = jnp.asarray(self.param("kernel", _depthwise_init, shape, self.param_dtype), self.dtype)
        padding = self.padding
        if padding == strided_padding(1):  # (-1, 0): the first row and column are not seen
            x, padding = x[:, 1:, 1:], symmetric_padding(1)
        return depthwise_conv(
            x.astype(self.dtype), jnp.asarray(kernel, self.dtype), stride=self.stride, padding=padding
        )


class BatchNorm(nn.Module):
    """Batch norm over groups of examples in training, over running statistics in evaluation.

    The running statistics move by the mean over groups of the groups' means and biased variances, once a step:
    `running = momentum * running + (1 - momentum) * batch`, the TensorFlow sense of momentum.
    """

    train: bool
    group_size: int | None
    momentum: float
    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        offset = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale, offset = jnp.asarray(scale), jnp.asarray(offset)  # weights of a file are NumPy arrays
        if not self.train:
            moments = GroupMoments(jnp.asarray(running_mean.value)[None], jnp.asarray(running_variance.value)[None])
            return normalize(x, moments, scale, offset, self.epsilon)
        moments = group_moments(x, self.group_size)
        if not self.is_initializing():
            for running, batch in ((running_mean, moments.mean), (running_variance, moments.variance)):
                running.value = self.momentum * running.value + (1 - self.momentum) * jnp.mean(batch, axis=0)
        return normalize(x, moments, scale, offset, self.epsilon)


class FoldedNorm(nn.Module):
    """What is left of a batch norm whose factor is part of the kernel before it: the offset."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        offset = jnp.asarray(self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32))
        return (x.astype(jnp.float32) + offset[None, None, None, :]).astype(x.dtype)


def strided_padding(kernel_size: int) -> Padding:
    """The explicit padding of every stride-2 convolution, (k // 2 - 1, k // 2) in both directions."""
    side = (kernel_size // 2 - 1, kernel_size // 2)
    return (side, side)


def symmetric_padding(kernel_size: int) -> Padding:
    """Padding that keeps the size at stride 1."""
    side = (kernel_size // 2, kernel_size // 2)
    return (side, side)


def _depthwise_init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Variance scaling by the fan-out of one filter, k * k: a (k, k, 1, C) kernel would otherwise count k * k * C."""
    kernel_height, kernel_width, _, channels = shape
    transposed = conv_init(key, (kernel_height, kernel_width, channels, 1), dtype)
    return transposed.reshape(shape)
