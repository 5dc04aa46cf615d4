"""EfficientNet (Tan & Le, arXiv 1905.11946): ALIGN's image tower, and the classifiers it comes from.

Images [B H W 3] go in, features [B D] come out. ALIGN pools the last block's output; `EfficientNetConfig` adds the top
convolution and, where it names labels, the classifier, and has the choices of EfficientNet-Lite. Stride-2 padding is
explicit, (k // 2 - 1, k // 2) but for the blocks that the configuration lists, and not XLA's SAME (289 px gives maps of
144, 72, 36, 18 and 9, where SAME gives 145 … 10). Batch norm works on fixed groups of examples.
"""

import dataclasses
from functools import partial
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from align_jax.configuration import AlignVisionConfig, EfficientNetConfig
from align_jax.models.activations import activation, inference_activation
from align_jax.models.efficientnet_blocks import (
    BatchNorm,
    BlockSpec,
    DepthwiseConv,
    FoldedNorm,
    Layers,
    MBConv,
    PointwiseConv,
    Stem,
    Top,
    conv_init,
    strided_padding,
    symmetric_padding,
)
from align_jax.models.rematerialization import check_parts, rematerialized

_classifier_init = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")


class ImageFeatures(NamedTuple):
    """What the image tower computes."""

    pooled: Float[Array, "B D"]
    last_hidden_state: Float[Array, "B H W D"]  # of the top convolution, or of the last block
    hidden_states: tuple[Float[Array, "B H W C"], ...]  # the stem's output, then every block's
    logits: Float[Array, "B K"] | None = None  # float32; None without a classifier


class EfficientNet(nn.Module):
    """The image tower, or a whole classifier: then the tower's parameters are `image/…`, as in ALIGN.

    Attributes:
        config: depth, widths and kernels.
        batch_norm_group_size: consecutive examples of the batch that share statistics in training; `None` takes the
            whole batch. The released recipe uses 16.
        dtype: of the computation; statistics, pooling and logits are float32.
        param_dtype: of the parameters.
        rematerialize: parts ("stem", "stage_1", …) whose blocks keep only their input for the gradient and compute the
            rest again. Values, gradients and parameter paths stay the same.
        batch_norm: "folded" for inference alone, on variables whose kernels contain the running statistics
            (`inference.folding`): of each batch norm its offset is left. Activations then have their fastest form.
        first_class_bias: what the classifier's bias starts from.
    """

    config: AlignVisionConfig
    batch_norm_group_size: int | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    rematerialize: tuple[str, ...] = ()
    batch_norm: Literal["separate", "folded"] = "separate"
    first_class_bias: float = 0.0

    @nn.compact
    def __call__(self, images: Float[Array | np.ndarray, "B H W 3"], *, train: bool = False) -> ImageFeatures:
        """Encodes images whose pixels are already scaled: to [-1, 1] for ALIGN."""
        config = self.config
        check_parts(self.rematerialize, rematerializable_parts(config))
        if isinstance(config, EfficientNetConfig) and config.id2label:
            return self._classify(config, images, train)
        layers = self._layers(train)
        stem_padding = symmetric_padding(3) if config.stem_padding == "symmetric" else strided_padding(3)
        stem = rematerialized(Stem, "stem" in self.rematerialize)
        x = stem(config.stem_channels, stem_padding, layers, name="stem")(jnp.asarray(images, self.dtype))
        hidden_states = [x]
        for index, spec in enumerate(block_specs(config)):
            block = rematerialized(MBConv, f"stage_{spec.stage}" in self.rematerialize)
            x = block(spec, layers, name=f"blocks_{index}")(x)
            hidden_states.append(x)
        if config.top_channels is not None:
            x = Top(config.top_channels, layers, name="top")(x)
        return ImageFeatures(_pool(x, config.pooling_type), x, tuple(hidden_states))

    def _classify(
        self, config: EfficientNetConfig, images: Float[Array | np.ndarray, "B H W 3"], train: bool
    ) -> ImageFeatures:
        tower = EfficientNet(
            dataclasses.replace(config, id2label=()),
            self.batch_norm_group_size,
            self.dtype,
            self.param_dtype,
            self.rematerialize,
            self.batch_norm,
            name="image",
        )
        features = tower(images, train=train)
        pooled = nn.Dropout(config.dropout_rate, deterministic=not train)(features.pooled)
        classifier = nn.Dense(
            len(config.id2label),
            dtype=jnp.float32,
            param_dtype=self.param_dtype,
            kernel_init=_classifier_init,
            bias_init=nn.initializers.constant(self.first_class_bias),
            name="classifier",
        )
        return features._replace(logits=classifier(pooled))

    def _layers(self, train: bool) -> Layers:
        config, types = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        folded = self.batch_norm == "folded"
        if folded and train:
            raise ValueError("batch norm is folded into the convolutions, which serves inference; train it separate")
        return Layers(
            conv=partial(nn.Conv, use_bias=False, kernel_init=conv_init, **types),
            pointwise=partial(PointwiseConv, **types),
            depthwise=partial(DepthwiseConv, **types),
            dense=partial(nn.Dense, kernel_init=conv_init, **types),
            norm=FoldedNorm
            if folded
            else partial(
                BatchNorm,
                train=train,
                group_size=self.batch_norm_group_size,
                momentum=config.batch_norm_momentum,
                epsilon=config.batch_norm_eps,
            ),
            dropout=partial(nn.Dropout, deterministic=not train),
            act=(inference_activation if folded else activation)(config.hidden_act),
        )


def rematerializable_parts(config: AlignVisionConfig) -> tuple[str, ...]:
    """What `EfficientNet.rematerialize` can name."""
    return ("stem", *(f"stage_{stage}" for stage in range(1, len(config.out_channels) + 1)))


def block_specs(config: AlignVisionConfig) -> list[BlockSpec]:
    """The blocks of a network, in order, after width and depth scaling."""
    repeats_of_stages = config.repeats_of_stages
    stages = zip(
        config.out_channels, config.kernel_sizes, config.strides, config.expand_ratios, repeats_of_stages, strict=True
    )
    in_channels = config.stem_channels
    blocks: list[BlockSpec] = []
    for stage, (stage_out, kernel_size, stage_stride, expand_ratio, repeats) in enumerate(stages, start=1):
        out_channels = config.round_channels(stage_out)
        for repeat in range(repeats):
            index = len(blocks)
            stride = 1 if repeat else stage_stride
            asymmetric = stride == 2 and index not in config.depthwise_padding
            squeezed_channels = max(1, int(in_channels * config.squeeze_expansion_ratio))
            blocks.append(
                BlockSpec(
                    stage=stage,
                    in_channels=in_channels,
                    out_channels=out_channels,
                    kernel_size=kernel_size,
                    stride=stride,
                    padding=strided_padding(kernel_size) if asymmetric else symmetric_padding(kernel_size),
                    expand_ratio=expand_ratio,
                    squeezed_channels=squeezed_channels if config.squeeze_excite else None,
                    # The first block of a stage never adds its input, even where the shapes would allow it.
                    residual=repeat > 0,
                    drop_rate=config.drop_connect_rate * index / sum(repeats_of_stages),
                )
            )
            in_channels = out_channels
    return blocks


def largest_map(config: AlignVisionConfig, height_px: int, width_px: int) -> int:
    """The most numbers that the network has between two layers, for one image of this size."""
    height, width, sizes = -(-height_px // 2), -(-width_px // 2), []
    sizes.append(height * width * config.stem_channels)
    for spec in block_specs(config):
        sizes.append(height * width * spec.in_channels * spec.expand_ratio)
        height, width = -(-height // spec.stride), -(-width // spec.stride)
    return max(sizes)


def _pool(x: Float[Array, "B H W D"], pooling_type: str) -> Float[Array, "B D"]:
    """Global pooling, in float32: a sum over every position."""
    if pooling_type == "max":
        return jnp.max(x, axis=(1, 2)).astype(jnp.float32)
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
