"""The models as compiled functions: one program for each shape of the inputs, each set of inputs, and what is wanted.

What is not wanted is not returned, and so not computed or kept. Images come with their channels first, and so do the
image tower's maps in the outputs; the transpositions are part of the program.
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from align_jax.configuration.labels import ProblemType
from align_jax.inference.model_inputs import problem_type
from align_jax.inference.outputs import (
    AlignOutput,
    BaseModelOutputWithPooling,
    BaseModelOutputWithPoolingAndCrossAttentions,
    BaseModelOutputWithPoolingAndNoAttention,
    ImageClassifierOutput,
    ImageClassifierOutputWithNoAttention,
)
from align_jax.losses import contrastive_loss
from align_jax.losses.classification import sigmoid_cross_entropy, softmax_cross_entropy, squared_error
from align_jax.models.align import Align, unit_length_at_any_scale
from align_jax.models.bert import Bert, TextFeatures
from align_jax.models.efficientnet import EfficientNet, ImageFeatures
from align_jax.models.vit import PatchFeatures, ViT


class Wanted(NamedTuple):
    """The parts of an output that are there on request only."""

    loss: bool = False
    pooler: bool = True
    hidden_states: bool = False
    attentions: bool = False


# The default of JAX lets accelerators round the factors of float32 products to fewer bits; torch's results are float32.
_full_precision = partial(jax.default_matmul_precision, "float32")


@partial(jax.jit, static_argnums=(0, 4))
def run_align(
    module: Align, variables: Any, images: Float[Array, "B 3 H W"], texts: dict[str, Any], wanted: Wanted
) -> AlignOutput:
    """Both towers, every image against every text, and the loss if it is wanted."""

    def towers(model: Align) -> tuple[Any, ...]:
        return *model.encode_image(_channels_last(images)), *model.encode_text(**texts), model.temperature

    with _full_precision():
        image, image_features, text, text_features, temperature = nn.apply(towers, module)(variables)
        image, text = unit_length_at_any_scale(image), unit_length_at_any_scale(text)
        logits_per_text = text @ image.T / temperature
        loss = contrastive_loss(image, text, temperature).loss / 2 if wanted.loss else None
    return AlignOutput(
        loss=loss,
        logits_per_image=logits_per_text.T,
        logits_per_text=logits_per_text,
        text_embeds=text,
        image_embeds=image,
        text_model_output=_text_output(text_features, wanted),
        vision_model_output=_image_output(image_features, wanted),
    )


@partial(jax.jit, static_argnums=0)
def embed_images(module: Align, variables: Any, images: Float[Array, "B 3 H W"]) -> Float[Array, "B D"]:
    """Embeddings that are not normalised."""
    with _full_precision():
        return module.apply(variables, _channels_last(images), method=Align.encode_image)[0]


@partial(jax.jit, static_argnums=0)
def embed_texts(module: Align, variables: Any, texts: dict[str, Any]) -> Float[Array, "B D"]:
    """Embeddings that are not normalised."""
    with _full_precision():
        return module.apply(variables, **texts, method=Align.encode_text)[0]


@partial(jax.jit, static_argnums=(0, 3))
def run_text_tower(
    module: Bert, variables: Any, texts: dict[str, Any], wanted: Wanted
) -> BaseModelOutputWithPoolingAndCrossAttentions:
    """The text tower alone."""
    with _full_precision():
        features: Any = module.apply(variables, **texts)
    return _text_output(features, wanted)


@partial(jax.jit, static_argnums=(0, 3))
def run_image_tower(
    module: EfficientNet, variables: Any, images: Float[Array, "B 3 H W"], wanted: Wanted
) -> BaseModelOutputWithPoolingAndNoAttention | BaseModelOutputWithPooling:
    """The image tower alone."""
    with _full_precision():
        features: Any = module.apply(variables, _channels_last(images))
    return _image_output(features, wanted)


@partial(jax.jit, static_argnums=(0, 5))
def run_vit_classifier(
    module: ViT, variables: Any, images: Float[Array, "B 3 H W"], options: dict[str, Any], targets: Any, wanted: Wanted
) -> ImageClassifierOutput:
    """A Vision Transformer with its classifier, and the loss if there are targets."""
    with _full_precision():
        features: Any = module.apply(variables, _channels_last(images), **options)
    return ImageClassifierOutput(
        loss=_classification_loss(module.config.problem_type, features.logits, targets) if wanted.loss else None,
        logits=features.logits,
        hidden_states=features.hidden_states if wanted.hidden_states else None,
        attentions=features.attentions if wanted.attentions else None,
    )


@partial(jax.jit, static_argnums=(0, 4))
def run_efficientnet_classifier(
    module: EfficientNet, variables: Any, images: Float[Array, "B 3 H W"], targets: Any, wanted: Wanted
) -> ImageClassifierOutputWithNoAttention:
    """An EfficientNet with its classifier, and the loss if there are targets."""
    config: Any = module.config  # an EfficientNetConfig, as the facade has checked
    with _full_precision():
        features: Any = module.apply(variables, _channels_last(images))
    return ImageClassifierOutputWithNoAttention(
        loss=_classification_loss(config.problem_type, features.logits, targets) if wanted.loss else None,
        logits=features.logits,
        hidden_states=tuple(map(_channels_first, features.hidden_states)) if wanted.hidden_states else None,
    )


def _classification_loss(
    problem: ProblemType | None, logits: Float[Array, "B K"], targets: Shaped[Array, "..."]
) -> Float[Array, ""]:
    kind = problem_type(problem, logits.shape[1], targets.dtype)
    if kind == "single_label_classification":
        return softmax_cross_entropy(logits, targets)
    compare = squared_error if kind == "regression" else sigmoid_cross_entropy
    return compare(logits, targets.reshape(logits.shape).astype(logits.dtype))


def _text_output(features: TextFeatures, wanted: Wanted) -> BaseModelOutputWithPoolingAndCrossAttentions:
    return BaseModelOutputWithPoolingAndCrossAttentions(
        last_hidden_state=features.last_hidden_state,
        pooler_output=features.pooled if wanted.pooler else None,
        hidden_states=features.hidden_states if wanted.hidden_states else None,
        attentions=features.attentions if wanted.attentions else None,
    )


def _image_output(
    features: ImageFeatures | PatchFeatures, wanted: Wanted
) -> BaseModelOutputWithPoolingAndNoAttention | BaseModelOutputWithPooling:
    if isinstance(features, PatchFeatures):
        return BaseModelOutputWithPooling(
            last_hidden_state=features.last_hidden_state,
            pooler_output=features.pooled,
            hidden_states=features.hidden_states if wanted.hidden_states else None,
            attentions=features.attentions if wanted.attentions else None,
        )
    return BaseModelOutputWithPoolingAndNoAttention(
        last_hidden_state=_channels_first(features.last_hidden_state),
        pooler_output=features.pooled,
        hidden_states=tuple(map(_channels_first, features.hidden_states)) if wanted.hidden_states else None,
    )


def _channels_last(images: Float[Array, "B C H W"]) -> Float[Array, "B H W C"]:
    return jnp.transpose(images, (0, 2, 3, 1))


def _channels_first(maps: Float[Array, "B H W C"]) -> Float[Array, "B C H W"]:
    return jnp.transpose(maps, (0, 3, 1, 2))
