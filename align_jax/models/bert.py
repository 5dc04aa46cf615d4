"""BERT (Devlin et al., arXiv 1810.04805): post-layer-norm encoder, tokens [B T] in, hidden states [B T D] out."""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from align_jax.configuration import AlignTextConfig
from align_jax.models.activations import activation


class TextFeatures(NamedTuple):
    """What the text tower computes."""

    last_hidden_state: Float[Array, "B T D"]
    pooled: Float[Array, "B D"]  # BERT's tanh pooler; ALIGN projects the first token's hidden state instead
    hidden_states: tuple[Float[Array, "B T D"], ...]  # the embeddings, then every layer's output
    attentions: tuple[Float[Array, "B heads T T"], ...]


class Bert(nn.Module):
    """The text tower.

    Attributes:
        config: depth, widths and vocabulary.
        dtype: of the computation; softmax and layer-norm statistics are float32.
        param_dtype: of the parameters.
    """

    config: AlignTextConfig
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        input_ids: Int[Array, "B T"],
        attention_mask: Int[Array, "B T"] | None = None,
        token_type_ids: Int[Array, "B T"] | None = None,
        position_ids: Int[Array, "#B T"] | None = None,
        *,
        train: bool = False,
    ) -> TextFeatures:
        """Encodes tokens; `attention_mask` is 1 on tokens and 0 on padding (all tokens when absent)."""
        config = self.config
        layers = Layers(
            dense=partial(nn.Dense, kernel_init=_init(config), dtype=self.dtype, param_dtype=self.param_dtype),
            norm=partial(LayerNorm, epsilon=config.layer_norm_eps, dtype=jnp.float32, param_dtype=self.param_dtype),
            dropout=partial(nn.Dropout, config.hidden_dropout_prob, deterministic=not train),
            attention_dropout=partial(nn.Dropout, config.attention_probs_dropout_prob, deterministic=not train),
        )
        if attention_mask is None:
            attention_mask = jnp.ones_like(input_ids)
        # Float32, added to float32 scores: the lowest number leaves padding a weight of exactly zero.
        mask_bias = jnp.where(attention_mask[:, None, None, :] > 0, 0.0, jnp.finfo(jnp.float32).min)
        embed = Embeddings(config, layers, self.dtype, self.param_dtype, name="embeddings")
        x = embed(input_ids, token_type_ids, position_ids)
        hidden_states, attentions = [x], []
        for index in range(config.num_hidden_layers):
            x, attention = EncoderLayer(config, layers, name=f"layers_{index}")(x, mask_bias)
            hidden_states.append(x)
            attentions.append(attention)
        pooled = nn.tanh(layers.dense(config.hidden_size, name="pooler")(x[:, 0]))
        return TextFeatures(x, pooled, tuple(hidden_states), tuple(attentions))


class Layers(NamedTuple):
    """The layers that blocks are made of, with everything that is the same in the whole network filled in."""

    dense: partial[nn.Dense]
    norm: partial[nn.Module]
    dropout: partial[nn.Dropout]
    attention_dropout: partial[nn.Dropout]


class LayerNorm(nn.LayerNorm):
    """Layer norm in float32, whose mean and variance are sums over the width, returned in the type of its input."""

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return super().__call__(x.astype(jnp.float32)).astype(x.dtype)


class Embeddings(nn.Module):
    """Sum of token, position and segment embeddings, normalised."""

    config: AlignTextConfig
    layers: Layers
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        input_ids: Int[Array, "B T"],
        token_type_ids: Int[Array, "B T"] | None,
        position_ids: Int[Array, "#B T"] | None,
    ) -> Float[Array, "B T D"]:
        config = self.config
        length = input_ids.shape[1]
        if length > config.max_position_embeddings:
            raise ValueError(
                f"{length} tokens are more than the {config.max_position_embeddings} positions of the text tower; "
                "truncate the texts"
            )
        table = partial(
            nn.Embed, features=config.hidden_size, embedding_init=_init(config), dtype=self.dtype,
            param_dtype=self.param_dtype,
        )  # fmt: skip
        if token_type_ids is None:
            token_type_ids = jnp.zeros_like(input_ids)
        if position_ids is None:
            position_ids = jnp.arange(length, dtype=jnp.int32)[None, :]
        x = table(config.vocab_size, name="word")(input_ids)
        x = x + table(config.type_vocab_size, name="token_type")(token_type_ids)
        x = x + jnp.broadcast_to(table(config.max_position_embeddings, name="position")(position_ids), x.shape)
        return self.layers.dropout()(self.layers.norm(name="norm")(x))


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward layer, each added to its input and then normalised."""

    config: AlignTextConfig
    layers: Layers

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], mask_bias: Float[Array, "B 1 1 T"]
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B heads T T"]]:
        config, layers = self.config, self.layers
        attended, attention = SelfAttention(config, layers, name="attention")(x, mask_bias)
        x = layers.norm(name="attention_norm")(x + layers.dropout()(attended))
        hidden = activation(config.hidden_act)(layers.dense(config.intermediate_size, name="feed_forward_in")(x))
        output = layers.dense(config.hidden_size, name="feed_forward_out")(hidden)
        return layers.norm(name="feed_forward_norm")(x + layers.dropout()(output)), attention


class SelfAttention(nn.Module):
    """Multi-head attention (Vaswani et al., arXiv 1706.03762)."""

    config: AlignTextConfig
    layers: Layers

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], mask_bias: Float[Array, "B 1 1 T"]
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B heads T T"]]:
        config, dense = self.config, self.layers.dense
        batch, length, width = x.shape
        head_size = width // config.num_attention_heads

        def heads(name: str) -> jax.Array:
            return dense(width, name=name)(x).reshape(batch, length, config.num_attention_heads, head_size)

        query, key, value = heads("query"), heads("key"), heads("value")
        # Float32: differences of large scores decide the softmax.
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
        scores = scores / head_size**0.5 + jnp.broadcast_to(mask_bias, scores.shape)
        attention = self.layers.attention_dropout()(nn.softmax(scores)).astype(x.dtype)
        context = jnp.einsum("bhqk,bkhd->bqhd", attention, value).reshape(batch, length, width)
        return dense(width, name="output")(context), attention


def _init(config: AlignTextConfig) -> jax.nn.initializers.Initializer:
    return nn.initializers.normal(config.initializer_range)
