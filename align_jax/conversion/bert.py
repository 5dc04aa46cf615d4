"""The text tower's weights: names of `transformers`' `AlignTextModel` (and `BertModel`) and ours.

Files of towers that embed distances hold the table of positions too, although nothing reads it; it is kept both ways.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from align_jax.configuration import AlignTextConfig
from align_jax.conversion.rules import Ignored, Rule, RuleTable
from align_jax.models.bert import Bert

_LINEAR = "o i -> i o"
_LAYER = "encoder.layer.{n}"

_DENSE_LAYERS = {
    f"{_LAYER}.attention.self.query": "layers_{n}/attention/query",
    f"{_LAYER}.attention.self.key": "layers_{n}/attention/key",
    f"{_LAYER}.attention.self.value": "layers_{n}/attention/value",
    f"{_LAYER}.attention.output.dense": "layers_{n}/attention/output",
    f"{_LAYER}.intermediate.dense": "layers_{n}/feed_forward_in",
    f"{_LAYER}.output.dense": "layers_{n}/feed_forward_out",
    "pooler.dense": "pooler",
}
_NORMS = {
    "embeddings.LayerNorm": "embeddings/norm",
    f"{_LAYER}.attention.output.LayerNorm": "layers_{n}/attention_norm",
    f"{_LAYER}.output.LayerNorm": "layers_{n}/feed_forward_norm",
}
_EMBEDDINGS = ("word", "position", "token_type")


def linear(source: str, target: str) -> tuple[Rule, Rule]:
    """A linear layer with a bias."""
    return (
        Rule(f"{source}.weight", f"params/{target}/kernel", _LINEAR),
        Rule(f"{source}.bias", f"params/{target}/bias"),
    )


def _norm(source: str, target: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{source}.weight", f"params/{target}/scale"),
        Rule(f"{source}.bias", f"params/{target}/bias"),
        # The first BERT files keep the names that TensorFlow gave these two.
        Rule(f"{source}.gamma", f"params/{target}/scale"),
        Rule(f"{source}.beta", f"params/{target}/bias"),
    )


TABLE = RuleTable(
    rules=(
        *(Rule(f"embeddings.{kind}_embeddings.weight", f"params/embeddings/{kind}/embedding") for kind in _EMBEDDINGS),
        Rule(f"{_LAYER}.attention.self.distance_embedding.weight", "params/layers_{n}/attention/distance/embedding"),
        *(rule for source, target in _DENSE_LAYERS.items() for rule in linear(source, target)),
        *(rule for source, target in _NORMS.items() for rule in _norm(source, target)),
    ),
    ignored=(
        Ignored("embeddings.position_ids", "counts 0, 1, 2, …, which the model computes"),
        Ignored("embeddings.token_type_ids", "zeros, which the model makes itself"),
    ),
    optional_prefix="bert.",
)

_PRETRAINING_HEADS = "a head of BERT's pre-training, which the tower does not have"

# For folders of BERT alone, of which the first ones were published with both heads.
BERT_TABLE = TABLE._replace(
    ignored=(
        *TABLE.ignored,
        *(Ignored(f"cls.{name}", _PRETRAINING_HEADS) for name in (
            "predictions.bias", "predictions.decoder.weight", "predictions.decoder.bias",
            "predictions.transform.dense.weight", "predictions.transform.dense.bias",
            "predictions.transform.LayerNorm.weight", "predictions.transform.LayerNorm.bias",
            "predictions.transform.LayerNorm.gamma", "predictions.transform.LayerNorm.beta",
            "seq_relationship.weight", "seq_relationship.bias",
        )),
    )
)  # fmt: skip


def abstract_variables(config: AlignTextConfig, param_dtype: DTypeLike = jnp.float32) -> dict[str, Any]:
    """Shapes and types of the tower's variables."""
    input_ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return jax.eval_shape(Bert(config, param_dtype=param_dtype).init, jax.random.key(0), input_ids)
