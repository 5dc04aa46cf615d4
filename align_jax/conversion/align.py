"""The whole model's weights: names of `transformers`' `AlignModel` and ours.

The linear layer after the image tower, which every pair of towers but the released one needs, has no counterpart there;
it is written as `image_projection.weight` and `image_projection.bias`. Nor has a Vision Transformer as image tower; its
names are those of `ViTModel` behind `vision_model.`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from align_jax.configuration import AlignConfig
from align_jax.conversion import bert, efficientnet, vit
from align_jax.conversion.rules import Rule, RuleTable, TrainingOnly
from align_jax.models.align import Align

_IMAGE = efficientnet.TABLE.prefixed("vision_model.", "image/")
_PATCHES = vit.TABLE.prefixed("vision_model.", "image/")
_TEXT = bert.TABLE.prefixed("text_model.", "text/")

TABLE = RuleTable(
    rules=(
        *_IMAGE.rules,
        *_PATCHES.rules,
        *bert.linear("image_projection", "image_projection"),
        *_TEXT.rules,
        *bert.linear("text_projection", "text_projection"),
        Rule("temperature", "params/temperature"),
    ),
    ignored=_IMAGE.ignored + _PATCHES.ignored + _TEXT.ignored,
    optional_prefix="align.",
    training_only=(
        TrainingOnly("params/logit_bias", "added to all logits in the sigmoid loss; no ranking and no softmax changes"),
    ),
)


def abstract_variables(config: AlignConfig, param_dtype: DTypeLike = jnp.float32) -> dict[str, Any]:
    """Shapes and types of the model's variables."""
    vision = config.vision_config
    images = jax.ShapeDtypeStruct((1, vision.image_size, vision.image_size, vision.num_channels), jnp.uint8)
    input_ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return jax.eval_shape(Align(config, param_dtype=param_dtype).init, jax.random.key(0), images, input_ids)
