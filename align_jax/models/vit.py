"""The Vision Transformer (Dosovitskiy et al., arXiv 2010.11929): images [B H W 3] in, features of the first token out.

Patches become tokens behind a class token, positions are added, and layers with the norm in front of each part follow.
Images may have any size: position embeddings are interpolated where the grid of patches is another one.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from align_jax.configuration import ViTConfig
from align_jax.models.activations import activation
from align_jax.models.bert import LayerNorm, heads_of_layers
from align_jax.models.position_embeddings import interpolate_positions
from align_jax.models.rematerialization import check_parts, rematerialized

REMATERIALIZABLE_PARTS = ("layers",)
"""What `ViT.rematerialize` can name."""

# As the released trainer draws them (coyo-vit, `vit_model.py`); its patches have Keras's default.
_dense_init = nn.initializers.glorot_normal()
_patch_init = nn.initializers.glorot_uniform()
_position_init = nn.initializers.normal(0.02)


class PatchFeatures(NamedTuple):
    """What a Vision Transformer computes; T is one token for the class and one for each patch."""

    pooled: Float[Array, "B D"]  # float32: the class token, behind the representation layer where there is one
    last_hidden_state: Float[Array, "B T F"]  # behind the last norm
    hidden_states: tuple[Float[Array, "B T F"], ...]  # the embeddings, then every layer's output
    attentions: tuple[Float[Array, "B heads T T"], ...]  # as they weigh the values: after dropout and `head_mask`
    logits: Float[Array, "B K"] | None = None  # float32; None without a classifier


class ViT(nn.Module):
    """The image tower, or a whole classifier: then the tower's parameters are `image/…`, as in ALIGN.

    Attributes:
        config: depth, widths, patches and classes.
        dtype: of the computation; softmax, layer-norm statistics and logits are float32.
        param_dtype: of the parameters, but for those of the norms.
        rematerialize: parts ("layers") whose blocks keep only their input for the gradient and compute the rest again.
        first_class_bias: what the classifier's bias starts from; its kernel starts from zero.
    """

    config: ViTConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    rematerialize: tuple[str, ...] = ()
    first_class_bias: float = 0.0

    @nn.compact
    def __call__(
        self,
        images: Float[Array | np.ndarray, "B H W 3"],
        *,
        head_mask: Float[Array | np.ndarray, "heads"] | Float[Array | np.ndarray, "L heads"] | None = None,
        train: bool = False,
    ) -> PatchFeatures:
        """Encodes images whose pixels are already scaled: to [-1, 1] for ALIGN and for the released classifier.

        Args:
            images: at least a patch in both directions; what does not fill a patch at the right and the lower edge is
                not seen.
            head_mask: factor of each head's attention, in all layers or by layer; 1 keeps the head, 0 silences it.
            train: dropout.

        Raises:
            ValueError: if `head_mask` does not fit the heads.
        """
        config = self.config
        check_parts(self.rematerialize, REMATERIALIZABLE_PARTS)
        if config.id2label:
            return self._classify(config, images, head_mask, train)
        layers = self._layers(train)
        x = Embeddings(config, layers, self.param_dtype, name="embeddings")(jnp.asarray(images, self.dtype))
        hidden_states, attentions = [x], []
        encoder_layer = rematerialized(EncoderLayer, "layers" in self.rematerialize)
        for index, factors in enumerate(heads_of_layers(head_mask, config)):
            x, attention = encoder_layer(config, layers, name=f"layers_{index}")(x, factors)
            hidden_states.append(x)
            attentions.append(attention)
        x = layers.norm(name="norm")(x)
        pooled = x[:, 0]
        if config.representation_size is not None:
            representation = layers.dense(config.representation_size, name="representation")
            pooled = activation(config.pooler_act)(representation(pooled))
        return PatchFeatures(pooled.astype(jnp.float32), x, tuple(hidden_states), tuple(attentions))

    def _classify(
        self,
        config: ViTConfig,
        images: Float[Array | np.ndarray, "B H W 3"],
        head_mask: Float[Array | np.ndarray, "heads"] | Float[Array | np.ndarray, "L heads"] | None,
        train: bool,
    ) -> PatchFeatures:
        tower_config = dataclasses.replace(config, id2label=())
        tower = ViT(tower_config, self.dtype, self.param_dtype, self.rematerialize, name="image")
        features = tower(images, head_mask=head_mask, train=train)
        classifier = nn.Dense(
            len(config.id2label),
            dtype=jnp.float32,
            param_dtype=self.param_dtype,
            kernel_init=nn.initializers.zeros,
            bias_init=nn.initializers.constant(self.first_class_bias),
            name="classifier",
        )
        return features._replace(logits=classifier(features.pooled))

    def _layers(self, train: bool) -> "Layers":
        config, types = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return Layers(
            dense=partial(nn.Dense, kernel_init=_dense_init, **types),
            norm=partial(LayerNorm, epsilon=config.layer_norm_eps, dtype=jnp.float32, param_dtype=jnp.float32),
            dropout=partial(nn.Dropout, config.hidden_dropout_prob, deterministic=not train),
            attention_dropout=partial(nn.Dropout, config.attention_probs_dropout_prob, deterministic=not train),
        )


class Layers(NamedTuple):
    """The layers that blocks are made of, with everything that is the same in the whole network filled in."""

    dense: partial[nn.Dense]
    norm: partial[nn.Module]
    dropout: partial[nn.Dropout]
    attention_dropout: partial[nn.Dropout]


class Embeddings(nn.Module):
    """A linear layer on each patch, the class token in front, and positions added to both."""

    config: ViTConfig
    layers: Layers
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B T F"]:
        config, width = self.config, self.config.hidden_size
        batch, height, image_width, _ = images.shape
        positions = self.param("position", _position_init, (config.grid_side**2 + 1, width), self.param_dtype)
        token = self.param("class_token", nn.initializers.zeros, (width,), self.param_dtype)
        patches = PatchProjection(config, images.dtype, self.param_dtype, name="patches")(images)
        (_, rows, columns, _), patches = patches.shape, patches.reshape(batch, -1, width)
        token = jnp.broadcast_to(jnp.asarray(token, images.dtype), (batch, 1, width))
        x = jnp.concatenate([token, patches], axis=1)
        positions = jnp.asarray(positions)
        if rows * columns != config.grid_side**2 or height != image_width:
            positions = interpolate_positions(positions, (rows, columns), config.position_interpolation)
        return self.layers.dropout()(x + jnp.broadcast_to(positions.astype(x.dtype), x.shape))


class PatchProjection(nn.Module):
    """A convolution whose stride is its kernel, written as one matrix product over patches."""

    config: ViTConfig
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B rows columns F"]:
        config, side = self.config, self.config.patch_size
        shape = (side, side, config.num_channels, config.hidden_size)
        kernel = jnp.asarray(self.param("kernel", _patch_init, shape, self.param_dtype), self.dtype)
        bias = jnp.asarray(self.param("bias", nn.initializers.zeros, shape[-1:], self.param_dtype), self.dtype)
        rows, columns = images.shape[1] // side, images.shape[2] // side
        whole = images[:, : rows * side, : columns * side]
        patches = whole.reshape(images.shape[0], rows, side, columns, side, config.num_channels)
        projected = jnp.einsum("byixjc,ijcf->byxf", patches, kernel)
        return projected + jnp.broadcast_to(bias, projected.shape)


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward layer, each on its normalised input and added to it."""

    config: ViTConfig
    layers: Layers

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T F"], head_mask: Float[Array | np.ndarray, "heads"] | None
    ) -> tuple[Float[Array, "B T F"], Float[Array, "B heads T T"]]:
        config, layers = self.config, self.layers
        normed = layers.norm(name="attention_norm")(x)
        attended, attention = SelfAttention(config, layers, name="attention")(normed, head_mask)
        x = x + layers.dropout()(attended)
        normed = layers.norm(name="feed_forward_norm")(x)
        hidden = activation(config.hidden_act)(layers.dense(config.intermediate_size, name="feed_forward_in")(normed))
        return x + layers.dropout()(layers.dense(config.hidden_size, name="feed_forward_out")(hidden)), attention


class SelfAttention(nn.Module):
    """Multi-head attention of every token to every token (Vaswani et al., arXiv 1706.03762)."""

    config: ViTConfig
    layers: Layers

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T F"], head_mask: Float[Array | np.ndarray, "heads"] | None
    ) -> tuple[Float[Array, "B T F"], Float[Array, "B heads T T"]]:
        config, dense = self.config, self.layers.dense
        batch, length, width = x.shape
        head_size = width // config.num_attention_heads

        def heads(name: str) -> jax.Array:
            projected = dense(width, use_bias=config.qkv_bias, name=name)(x)
            return projected.reshape(batch, length, config.num_attention_heads, head_size)

        query, key, value = heads("query"), heads("key"), heads("value")
        # Float32: differences of large scores decide the softmax.
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32) / head_size**0.5
        attention = self.layers.attention_dropout()(nn.softmax(scores)).astype(x.dtype)
        if head_mask is not None:
            attention *= head_mask.astype(x.dtype)[None, :, None, None]
        context = jnp.einsum("bhqk,bkhd->bqhd", attention, value).reshape(batch, length, width)
        return dense(width, name="output")(context), attention
