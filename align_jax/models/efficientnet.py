"""EfficientNet (Tan & Le, arXiv 1905.11946) as ALIGN uses it: global pooling, no top convolution.

Images [B H W 3] go in, features [B D] come out. It differs from the usual EfficientNet in its stride-2 padding, which
is always (k // 2 - 1, k // 2) and not XLA's SAME (289 px gives maps of 144, 72, 36, 18 and 9, where SAME gives 145 …
10), and in batch norm over fixed groups of examples.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from align_jax.configuration import AlignVisionConfig
from align_jax.models.activations import activation
from align_jax.ops.batch_norm import GroupMoments, group_moments, normalize
from align_jax.ops.depthwise_conv import depthwise_conv
from align_jax.ops.pointwise_conv import pointwise_conv

Padding = tuple[tuple[int, int], tuple[int, int]]

conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")


class ImageFeatures(NamedTuple):
    """What the image tower computes."""

    pooled: Float[Array, "B D"]
    last_hidden_state: Float[Array, "B H W D"]
    hidden_states: tuple[Float[Array, "B H W C"], ...]  # the stem's output, then every block's


class EfficientNet(nn.Module):
    """The image tower.

    Attributes:
        config: depth, widths and kernels.
        batch_norm_group_size: consecutive examples of the batch that share statistics in training; `None` takes the
            whole batch. The released recipe uses 16.
        dtype: of the computation; statistics and pooling are float32.
        param_dtype: of the parameters.
    """

    config: AlignVisionConfig
    batch_norm_group_size: int | None = None
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], *, train: bool = False) -> ImageFeatures:
        """Encodes images whose pixels are already scaled to [-1, 1]."""
        config = self.config
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        layers = Layers(
            conv=partial(nn.Conv, use_bias=False, kernel_init=conv_init, **types),
            pointwise=partial(PointwiseConv, **types),
            depthwise=partial(DepthwiseConv, **types),
            dense=partial(nn.Dense, kernel_init=conv_init, **types),
            norm=partial(
                BatchNorm,
                train=train,
                group_size=self.batch_norm_group_size,
                momentum=config.batch_norm_momentum,
                epsilon=config.batch_norm_eps,
            ),
            act=activation(config.hidden_act),
        )
        x = Stem(config.round_channels(32), layers, name="stem")(images.astype(self.dtype))
        hidden_states = [x]
        for index, spec in enumerate(block_specs(config)):
            x = MBConv(spec, layers, name=f"blocks_{index}")(x, train=train)
            hidden_states.append(x)
        return ImageFeatures(_pool(x, config.pooling_type), x, tuple(hidden_states))


class Layers(NamedTuple):
    """The layers that blocks are made of, with everything that is the same in the whole network filled in."""

    conv: Callable[..., nn.Module]
    pointwise: Callable[..., nn.Module]
    depthwise: Callable[..., nn.Module]
    dense: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    act: Callable[[jax.Array], jax.Array]


class BlockSpec(NamedTuple):
    """One inverted bottleneck."""

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    padding: Padding
    expand_ratio: int
    squeezed_channels: int
    residual: bool
    drop_rate: float


def block_specs(config: AlignVisionConfig) -> list[BlockSpec]:
    """The blocks of a network, in order, after width and depth scaling."""
    repeats_of_stages = [config.round_repeats(repeats) for repeats in config.num_block_repeats]
    stages = zip(
        config.in_channels, config.out_channels, config.kernel_sizes, config.strides, config.expand_ratios,
        repeats_of_stages, strict=True,
    )  # fmt: skip
    blocks: list[BlockSpec] = []
    for stage_in, stage_out, kernel_size, stage_stride, expand_ratio, repeats in stages:
        for repeat in range(repeats):
            index = len(blocks)
            in_channels = config.round_channels(stage_out if repeat else stage_in)
            stride = 1 if repeat else stage_stride
            asymmetric = stride == 2 and index not in config.depthwise_padding
            blocks.append(
                BlockSpec(
                    in_channels=in_channels,
                    out_channels=config.round_channels(stage_out),
                    kernel_size=kernel_size,
                    stride=stride,
                    padding=strided_padding(kernel_size) if asymmetric else symmetric_padding(kernel_size),
                    expand_ratio=expand_ratio,
                    squeezed_channels=max(1, int(in_channels * config.squeeze_expansion_ratio)),
                    # The first block of a stage never adds its input, even where the shapes would allow it.
                    residual=repeat > 0,
                    drop_rate=config.drop_connect_rate * index / sum(repeats_of_stages),
                )
            )
    return blocks


class Stem(nn.Module):
    """A 3 x 3 convolution of stride 2."""

    channels: int
    layers: Layers

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B H2 W2 C"]:
        x = self.layers.conv(self.channels, (3, 3), strides=2, padding=strided_padding(3), name="conv")(x)
        return self.layers.act(self.layers.norm(name="norm")(x))


class MBConv(nn.Module):
    """Inverted bottleneck with squeeze-excite: expand, depthwise, squeeze-excite, project."""

    spec: BlockSpec
    layers: Layers

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H2 W2 C2"]:
        spec, layers, residual = self.spec, self.layers, x
        if spec.expand_ratio != 1:
            x = layers.pointwise(spec.in_channels * spec.expand_ratio, name="expand")(x)
            x = layers.act(layers.norm(name="expand_norm")(x))
        x = layers.depthwise(spec.kernel_size, spec.stride, spec.padding, name="depthwise")(x)
        x = layers.act(layers.norm(name="depthwise_norm")(x))
        x = SqueezeExcite(spec.squeezed_channels, layers, name="squeeze_excite")(x)
        x = layers.norm(name="project_norm")(layers.pointwise(spec.out_channels, name="project")(x))
        if not spec.residual:
            return x
        # Drop-connect (arXiv 1603.09382): an example loses the whole branch, and the others are scaled up.
        x = nn.Dropout(spec.drop_rate, broadcast_dims=(1, 2, 3), deterministic=not train)(x)
        return x + residual


class SqueezeExcite(nn.Module):
    """Channel gates from the pooled map (Hu et al., arXiv 1709.01507)."""

    squeezed_channels: int
    layers: Layers

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        dense, act = self.layers.dense, self.layers.act
        # Float32: a sum of thousands of positions.
        pooled = jnp.mean(x, axis=(1, 2), dtype=jnp.float32).astype(x.dtype)
        squeezed = act(dense(self.squeezed_channels, name="reduce")(pooled))
        gates = nn.sigmoid(dense(x.shape[-1], name="expand")(squeezed))
        return x * gates[:, None, None, :]


class PointwiseConv(nn.Module):
    """A 1 x 1 convolution without bias."""

    features: int
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W D"]:
        kernel = self.param("kernel", conv_init, (1, 1, x.shape[-1], self.features), self.param_dtype)
        return pointwise_conv(x.astype(self.dtype), kernel.astype(self.dtype))


class DepthwiseConv(nn.Module):
    """One k x k filter per channel, without bias."""

    kernel_size: int
    stride: int
    padding: Padding
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C"]:
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
        kernel = self.param("kernel", _depthwise_init, shape, self.param_dtype)
        return depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype), stride=self.stride, padding=self.padding)


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
        if not self.train:
            moments = GroupMoments(running_mean.value[None, :], running_variance.value[None, :])
            return normalize(x, moments, scale, offset, self.epsilon)
        moments = group_moments(x, self.group_size)
        if not self.is_initializing():
            for running, batch in ((running_mean, moments.mean), (running_variance, moments.variance)):
                running.value = self.momentum * running.value + (1 - self.momentum) * jnp.mean(batch, axis=0)
        return normalize(x, moments, scale, offset, self.epsilon)


def strided_padding(kernel_size: int) -> Padding:
    """The explicit padding of every stride-2 convolution, (k // 2 - 1, k // 2) in both directions."""
    side = (kernel_size // 2 - 1, kernel_size // 2)
    return (side, side)


def symmetric_padding(kernel_size: int) -> Padding:
    """Padding that keeps the size at stride 1."""
    side = (kernel_size // 2, kernel_size // 2)
    return (side, side)


def _depthwise_init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Variance scaling by the fan-out of one filter, k * k: a (k, k, 1, C) kernel would otherwise count k * k * C."""
    kernel_height, kernel_width, _, channels = shape
    transposed = conv_init(key, (kernel_height, kernel_width, channels, 1), dtype)
    return transposed.reshape(shape)


def _pool(x: Float[Array, "B H W D"], pooling_type: str) -> Float[Array, "B D"]:
    """Global pooling, in float32: a sum over every position."""
    if pooling_type == "max":
        return jnp.max(x, axis=(1, 2)).astype(jnp.float32)
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
