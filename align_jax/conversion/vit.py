"""The Vision Transformer's weights: names of `transformers`' `ViTModel` and `ViTForImageClassification`, and ours.

In a classifier every name of the tower begins with `vit.`, and ours with `image/`. Files of all releases have the names
of release 4; in memory release 5 has others, which are read and never written.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from align_jax.configuration import ViTConfig
from align_jax.conversion.bert import linear
from align_jax.conversion.rules import Ignored, Rule, RuleTable
from align_jax.models.vit import ViT

_LAYER = "encoder.layer.{n}"

_DENSE_LAYERS = {
    f"{_LAYER}.attention.attention.query": "layers_{n}/attention/query",
    f"{_LAYER}.attention.attention.key": "layers_{n}/attention/key",
    f"{_LAYER}.attention.attention.value": "layers_{n}/attention/value",
    f"{_LAYER}.attention.output.dense": "layers_{n}/attention/output",
    f"{_LAYER}.intermediate.dense": "layers_{n}/feed_forward_in",
    f"{_LAYER}.output.dense": "layers_{n}/feed_forward_out",
    "pooler.dense": "representation",
}
_NORMS = {
    f"{_LAYER}.layernorm_before": "layers_{n}/attention_norm",
    f"{_LAYER}.layernorm_after": "layers_{n}/feed_forward_norm",
    "layernorm": "norm",
}
# From release 4 to release 5, the longer names first.
_RELEASE_5 = {
    "encoder.layer.": "layers.",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    ".output.dense": ".mlp.fc2",
}


def release_5_name(name: str) -> str:
    """What release 5 of `transformers` calls a tensor of release 4, or a template of such names, in memory."""
    for old, new in _RELEASE_5.items():
        name = re.sub(f"(^|(?<=[.])){re.escape(old)}" if old[0] != "." else re.escape(old), new, name)
    return name


def _norm(source: str, target: str) -> tuple[Rule, Rule]:
    return Rule(f"{source}.weight", f"params/{target}/scale"), Rule(f"{source}.bias", f"params/{target}/bias")


_RULES = (
    Rule("embeddings.cls_token", "params/embeddings/class_token", "1 1 f -> f"),
    Rule("embeddings.position_embeddings", "params/embeddings/position", "1 t f -> t f"),
    Rule("embeddings.patch_embeddings.projection.weight", "params/embeddings/patches/kernel", "o i h w -> h w i o"),
    Rule("embeddings.patch_embeddings.projection.bias", "params/embeddings/patches/bias"),
    *(rule for source, target in _DENSE_LAYERS.items() for rule in linear(source, target)),
    *(rule for source, target in _NORMS.items() for rule in _norm(source, target)),
)
_IN_MEMORY = tuple(
    Rule(release_5_name(rule.source), rule.target, rule.layout)
    for rule in _RULES
    if release_5_name(rule.source) != rule.source
)
_MASK_TOKEN = "takes the place of masked patches in a pre-training that the model is not for"

TABLE = RuleTable(
    rules=(*_RULES, *_IN_MEMORY),
    ignored=(Ignored("embeddings.mask_token", _MASK_TOKEN),),
    optional_prefix="vit.",
)

_BEHIND_A_PREFIX = TABLE.prefixed("vit.", "image/")

VIT_TABLE = RuleTable(
    rules=(
        *TABLE.rules,
        *_BEHIND_A_PREFIX.rules,
        *TABLE.prefixed("", "image/").rules,  # the same, where the engine has taken the optional prefix off
        *linear("classifier", "classifier"),
    ),
    ignored=TABLE.ignored + _BEHIND_A_PREFIX.ignored,
    optional_prefix=TABLE.optional_prefix,
)


def abstract_variables(config: ViTConfig, param_dtype: DTypeLike = jnp.float32) -> dict[str, Any]:
    """Shapes and types of the variables."""
    images = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, config.num_channels), jnp.float32)
    return jax.eval_shape(ViT(config, param_dtype=param_dtype).init, jax.random.key(0), images)
