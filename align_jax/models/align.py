"""ALIGN (Jia et al., arXiv 2102.05918): an image tower and a text tower that meet in one normalised space."""

from functools import partial
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt8

from align_jax.configuration import AlignConfig
from align_jax.models import bert, image_tower
from align_jax.models.bert import Bert, TextFeatures
from align_jax.models.image_tower import TowerFeatures
from align_jax.models.rematerialization import check_parts, parts_below


class AlignEmbeddings(NamedTuple):
    """What the contrastive loss compares."""

    image: Float[Array, "B D"]  # float32, of unit length
    text: Float[Array, "B D"]  # float32, of unit length
    temperature: Float[Array, ""]  # float32; logits are cosines divided by it


class Align(nn.Module):
    """Both towers.

    Attributes:
        config: the two towers and the shared space.
        batch_norm_group_size: see `EfficientNet`.
        dtype: of the computation inside the towers; projections, norms and temperature are float32.
        param_dtype: of the parameters.
        batch_norm: "folded" takes the variables of `inference.folding`, see `EfficientNet`.
        rematerialize: parts of the towers whose blocks keep only their input for the gradient and compute the rest
            again, see `rematerializable_parts`.
    """

    config: AlignConfig
    batch_norm_group_size: int | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    rematerialize: tuple[str, ...] = ()
    batch_norm: Literal["separate", "folded"] = "separate"

    def setup(self) -> None:
        """Names the parameters: `image/…`, `text/…`, the projections and the temperature."""
        config, types = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        check_parts(self.rematerialize, rematerializable_parts(config))
        image_parts, text_parts = (parts_below(tower, self.rematerialize) for tower in ("image", "text"))
        self.image = image_tower.image_tower(
            config.vision_config, batch_norm_group_size=self.batch_norm_group_size, batch_norm=self.batch_norm,
            rematerialize=image_parts, types=types,
        )  # fmt: skip
        self.text = Bert(config.text_config, rematerialize=text_parts, **types)
        # Glorot uniform, as in the released training and in `transformers`.
        project = partial(
            nn.Dense, config.projection_dim, dtype=jnp.float32, param_dtype=self.param_dtype,
            kernel_init=nn.initializers.xavier_uniform(),
        )  # fmt: skip
        if config.image_projection:
            self.image_projection = project()
        self.text_projection = project()
        self.temperature = self.param(
            "temperature", nn.initializers.constant(config.temperature_init_value), (), jnp.float32
        )

    def __call__(
        self,
        images: UInt8[Array | np.ndarray, "B H W 3"] | Float[Array | np.ndarray, "B H W 3"],
        input_ids: Int[Array | np.ndarray, "B T"] | None = None,
        attention_mask: Int[Array | np.ndarray, "B T"] | None = None,
        token_type_ids: Int[Array | np.ndarray, "B T"] | None = None,
        position_ids: Int[Array | np.ndarray, "#B T"] | None = None,
        *,
        inputs_embeds: Float[Array | np.ndarray, "B T E"] | None = None,
        head_mask: Float[Array | np.ndarray, "heads"] | Float[Array | np.ndarray, "L heads"] | None = None,
        train: bool = False,
    ) -> AlignEmbeddings:
        """Embeds pairs.

        Args:
            images: bytes 0 to 255, which are scaled here; or floating-point pixels already in [-1, 1].
            input_ids: WordPiece ids, zero-padded.
            attention_mask: 1 on tokens, 0 on padding; all tokens when absent.
            token_type_ids: segments; all zero when absent.
            position_ids: 0, 1, … when absent.
            inputs_embeds: in place of `input_ids`, see `Bert`.
            head_mask: factors of the text tower's heads, see `Bert`.
            train: batch statistics, dropout and drop-connect.
        """
        image, _ = self.encode_image(images, train=train)
        text, _ = self.encode_text(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds=inputs_embeds, head_mask=head_mask,
            train=train,
        )  # fmt: skip
        return AlignEmbeddings(unit_length(image), unit_length(text), self.temperature)

    def encode_image(
        self,
        images: UInt8[Array | np.ndarray, "B H W 3"] | Float[Array | np.ndarray, "B H W 3"],
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B D"], TowerFeatures]:
        """Float32 embeddings, not normalised, and what the tower computed on the way."""
        features = self.image(scale_pixels(images), train=train)
        if not self.config.image_projection:
            return features.pooled, features
        return self.image_projection(features.pooled), features

    def encode_text(
        self,
        input_ids: Int[Array | np.ndarray, "B T"] | None = None,
        attention_mask: Int[Array | np.ndarray, "B T"] | None = None,
        token_type_ids: Int[Array | np.ndarray, "B T"] | None = None,
        position_ids: Int[Array | np.ndarray, "#B T"] | None = None,
        *,
        inputs_embeds: Float[Array | np.ndarray, "B T E"] | None = None,
        head_mask: Float[Array | np.ndarray, "heads"] | Float[Array | np.ndarray, "L heads"] | None = None,
        last_layer_tokens: int | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B D"], TextFeatures]:
        """Float32 embeddings, not normalised, and what the tower computed on the way.

        The embeddings need one token of the last layer; `last_layer_tokens` 1 leaves the others out, see `Bert`.
        """
        features = self.text(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds=inputs_embeds, head_mask=head_mask,
            last_layer_tokens=last_layer_tokens, train=train,
        )  # fmt: skip
        return self.text_projection(features.last_hidden_state[:, 0].astype(jnp.float32)), features


def rematerializable_parts(config: AlignConfig) -> tuple[str, ...]:
    """What `Align.rematerialize` can name: `image/stem`, `image/stage_1`, … or `image/layers`, and `text/layers`."""
    image, text = image_tower.rematerializable_parts(config.vision_config), bert.REMATERIALIZABLE_PARTS
    return (*(f"image/{part}" for part in image), *(f"text/{part}" for part in text))


def scale_pixels(
    images: UInt8[Array | np.ndarray, "B H W 3"] | Float[Array | np.ndarray, "B H W 3"],
) -> Float[Array, "B H W 3"]:
    """Bytes to [-1, 1], as the released model does; floating-point images pass unchanged."""
    if images.dtype == jnp.uint8:
        return jnp.asarray(images, jnp.float32) / 127.5 - 1.0
    return jnp.asarray(images)


def unit_length(vectors: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """Divides by the Euclidean norm, with the sum of squares at least 1e-12 so that zero stays zero."""
    square = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    return vectors * jnp.reciprocal(jnp.sqrt(jnp.maximum(square, 1e-12)))


def unit_length_at_any_scale(vectors: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """Divides by the Euclidean norm, however small or large, as `transformers` does; zero stays zero.

    `x / |x| = (x / s) / |x / s|` for any s. With the power of two next to the largest value for it no square
    vanishes or overflows: features of an untrained network can be 1e-30.
    """
    _, exponent = jnp.frexp(jnp.max(jnp.abs(vectors), axis=-1, keepdims=True))
    return unit_length(vectors * jnp.ldexp(jnp.ones((), vectors.dtype), -exponent))
