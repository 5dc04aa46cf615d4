"""The image tower's weights: names of `transformers`' `AlignVisionModel` (and `EfficientNetModel`) and ours."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from align_jax.configuration import AlignVisionConfig
from align_jax.conversion.rules import Ignored, Rule, RuleTable
from align_jax.models.efficientnet import EfficientNet

_CONVOLUTION = "o i h w -> h w i o"
_DENSE = "o i 1 1 -> i o"  # the squeeze-excite layers are 1 x 1 convolutions there, and linear layers here

_NORMS = {
    "embeddings.batchnorm": "stem/norm",
    "encoder.blocks.{n}.expansion.expand_bn": "blocks_{n}/expand_norm",
    "encoder.blocks.{n}.depthwise_conv.depthwise_norm": "blocks_{n}/depthwise_norm",
    "encoder.blocks.{n}.projection.project_bn": "blocks_{n}/project_norm",
}


def _norm(source: str, target: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{source}.weight", f"params/{target}/scale"),
        Rule(f"{source}.bias", f"params/{target}/bias"),
        Rule(f"{source}.running_mean", f"batch_stats/{target}/mean"),
        Rule(f"{source}.running_var", f"batch_stats/{target}/var"),
    )


def _step_counter(source: str, target: str) -> Ignored:
    return Ignored(
        f"{source}.num_batches_tracked",
        "counts training steps, which running averages of fixed momentum do not need",
        beside=f"batch_stats/{target}/mean",
        value=np.zeros((), np.int64),
    )


TABLE = RuleTable(
    rules=(
        Rule("embeddings.convolution.weight", "params/stem/conv/kernel", _CONVOLUTION),
        Rule("encoder.blocks.{n}.expansion.expand_conv.weight", "params/blocks_{n}/expand/kernel", _CONVOLUTION),
        Rule(
            "encoder.blocks.{n}.depthwise_conv.depthwise_conv.weight",
            "params/blocks_{n}/depthwise/kernel",
            _CONVOLUTION,
        ),
        Rule(
            "encoder.blocks.{n}.squeeze_excite.reduce.weight", "params/blocks_{n}/squeeze_excite/reduce/kernel", _DENSE
        ),
        Rule("encoder.blocks.{n}.squeeze_excite.reduce.bias", "params/blocks_{n}/squeeze_excite/reduce/bias"),
        Rule(
            "encoder.blocks.{n}.squeeze_excite.expand.weight", "params/blocks_{n}/squeeze_excite/expand/kernel", _DENSE
        ),
        Rule("encoder.blocks.{n}.squeeze_excite.expand.bias", "params/blocks_{n}/squeeze_excite/expand/bias"),
        Rule("encoder.blocks.{n}.projection.project_conv.weight", "params/blocks_{n}/project/kernel", _CONVOLUTION),
        *(rule for source, target in _NORMS.items() for rule in _norm(source, target)),
    ),
    ignored=tuple(_step_counter(source, target) for source, target in _NORMS.items()),
    optional_prefix="efficientnet.",
)


def abstract_variables(config: AlignVisionConfig, param_dtype: jnp.dtype = jnp.float32) -> dict[str, Any]:
    """Shapes and types of the tower's variables."""
    images = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, config.num_channels), jnp.float32)
    return jax.eval_shape(EfficientNet(config, param_dtype=param_dtype).init, jax.random.key(0), images)
