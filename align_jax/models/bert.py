"""BERT (Devlin et al., arXiv 1810.04805): post-layer-norm encoder, tokens [B T] in, hidden states [B T D] out.

Every option of the text tower of `transformers` 4.37 means what it means there: later releases dropped `head_mask` and
the embeddings of distances.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from align_jax.configuration import AlignTextConfig, ViTConfig
from align_jax.models.activations import activation
from align_jax.models.rematerialization import check_parts, rematerialized

REMATERIALIZABLE_PARTS = ("layers",)
"""What `Bert.rematerialize` can name."""


class TextFeatures(NamedTuple):
    """What the text tower computes."""

    last_hidden_state: Float[Array, "B T D"]
    pooled: Float[Array, "B D"]  # BERT's tanh pooler; ALIGN projects the first token's hidden state instead
    hidden_states: tuple[Float[Array, "B T D"], ...]  # the embeddings, then every layer's output
    attentions: tuple[Float[Array, "B heads T T"], ...]  # as they weigh the values: after dropout and `head_mask`


class Bert(nn.Module):
    """The text tower.

    Attributes:
        config: depth, widths and vocabulary.
        dtype: of the computation; softmax and layer-norm statistics are float32.
        param_dtype: of the parameters, but for those of the norms.
        rematerialize: parts ("layers") whose blocks keep only their input for the gradient and compute the rest again.
    """

    config: AlignTextConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    rematerialize: tuple[str, ...] = ()

    @nn.compact
    def __call__(
        self,
        input_ids: Int[Array | np.ndarray, "B T"] | None = None,
        attention_mask: Int[Array | np.ndarray, "B T"] | None = None,
        token_type_ids: Int[Array | np.ndarray, "B T"] | None = None,
        position_ids: Int[Array | np.ndarray, "#B T"] | None = None,
        *,
        inputs_embeds: Float[Array | np.ndarray, "B T D"] | None = None,
        head_mask: Float[Array | np.ndarray, "heads"] | Float[Array | np.ndarray, "L heads"] | None = None,
        last_layer_tokens: int | None = None,
        train: bool = False,
    ) -> TextFeatures:
        """Encodes tokens.

        Args:
            input_ids: token ids, zero-padded.
            attention_mask: 1 on tokens, 0 on padding; all tokens when absent.
            token_type_ids: segments; all zero when absent.
            position_ids: 0, 1, … when absent; without effect where distances are embedded instead of positions.
            inputs_embeds: what the token table would give, in place of `input_ids`.
            head_mask: factor of each head's attention, in all layers or by layer; 1 keeps the head, 0 silences it.
            last_layer_tokens: the first tokens, for which alone the last layer is computed, as ALIGN reads but one;
                all when absent.
            train: dropout.

        Raises:
            ValueError: if not exactly one of `input_ids` and `inputs_embeds` is given, `head_mask` does not fit the
                heads, or there are more tokens than positions.
        """
        config, init = self.config, nn.initializers.normal(self.config.initializer_range)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        check_parts(self.rematerialize, REMATERIALIZABLE_PARTS)
        head_masks = heads_of_layers(head_mask, config)
        layers = Layers(
            dense=partial(nn.Dense, kernel_init=init, **types),
            embed=partial(nn.Embed, embedding_init=init, **types),
            norm=partial(LayerNorm, epsilon=config.layer_norm_eps, dtype=jnp.float32, param_dtype=jnp.float32),
            dropout=partial(nn.Dropout, config.hidden_dropout_prob, deterministic=not train),
            attention_dropout=partial(nn.Dropout, config.attention_probs_dropout_prob, deterministic=not train),
        )
        embed = Embeddings(config, layers, name="embeddings")
        x = embed(input_ids, token_type_ids, position_ids, inputs_embeds)
        if attention_mask is None:
            attention_mask = jnp.ones(x.shape[:2], jnp.int32)
        # Float32, added to float32 scores: the lowest number leaves padding a weight of exactly zero.
        mask_bias = jnp.where(attention_mask[:, None, None, :] > 0, 0.0, jnp.finfo(jnp.float32).min)
        hidden_states, attentions = [x], []
        encoder_layer = rematerialized(EncoderLayer, "layers" in self.rematerialize)
        for index, factors in enumerate(head_masks):
            queries = last_layer_tokens if index == len(head_masks) - 1 else None
            x, attention = encoder_layer(config, layers, queries, name=f"layers_{index}")(x, mask_bias, factors)
            hidden_states.append(x)
            attentions.append(attention)
        pooled = nn.tanh(layers.dense(config.hidden_size, name="pooler")(x[:, 0]))
        return TextFeatures(x, pooled, tuple(hidden_states), tuple(attentions))


class Layers(NamedTuple):
    """The layers that blocks are made of, with everything that is the same in the whole network filled in."""

    dense: partial[nn.Dense]
    embed: partial[nn.Embed]
    norm: partial[nn.Module]
    dropout: partial[nn.Dropout]
    attention_dropout: partial[nn.Dropout]


class LayerNorm(nn.LayerNorm):
    """Layer norm in float32, whose mean and variance are sums over the width, returned in the type of its input."""

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return super().__call__(x.astype(jnp.float32)).astype(x.dtype)


class Embeddings(nn.Module):
    """Sum of token, segment and position embeddings, normalised; without positions where distances are embedded.

    Every table is a parameter, used or not, as in the files of `transformers`.
    """

    config: AlignTextConfig
    layers: Layers

    @nn.compact
    def __call__(
        self,
        input_ids: Int[Array | np.ndarray, "B T"] | None,
        token_type_ids: Int[Array | np.ndarray, "B T"] | None,
        position_ids: Int[Array | np.ndarray, "#B T"] | None,
        inputs_embeds: Float[Array | np.ndarray, "B T D"] | None,
    ) -> Float[Array, "B T D"]:
        config, embed = self.config, self.layers.embed
        word = embed(config.vocab_size, config.hidden_size, name="word")
        token_type = embed(config.type_vocab_size, config.hidden_size, name="token_type")
        position = embed(config.max_position_embeddings, config.hidden_size, name="position")
        x = _embed_tokens(word, config.pad_token_id, input_ids, inputs_embeds)
        length = x.shape[1]
        if length > config.max_position_embeddings:
            raise ValueError(
                f"{length} tokens are more than the {config.max_position_embeddings} positions of the text tower; "
                "truncate the texts"
            )
        if token_type_ids is None:
            token_type_ids = jnp.zeros(x.shape[:2], jnp.int32)
        if position_ids is None:
            position_ids = jnp.arange(length, dtype=jnp.int32)[None, :]
        x = x + token_type(token_type_ids)
        positions = jnp.broadcast_to(position(position_ids), x.shape)
        if config.position_embedding_type == "absolute":
            x = x + positions
        return self.layers.dropout()(self.layers.norm(name="norm")(x))


def _embed_tokens(
    word: nn.Embed,
    padding: int | None,
    input_ids: Int[Array | np.ndarray, "B T"] | None,
    inputs_embeds: Float[Array | np.ndarray, "B T D"] | None,
) -> Float[Array, "B T D"]:
    """Rows of the token table, or what stands in for them; the row of the padding gets no gradient."""
    _ = word.embedding  # makes the parameter, also for a call that brings its own embeddings
    if input_ids is None:
        if inputs_embeds is None:
            raise ValueError("neither input_ids nor inputs_embeds is given; give exactly one of them")
        if inputs_embeds.shape[-1] != word.features:
            raise ValueError(f"inputs_embeds are {inputs_embeds.shape[-1]} wide; the text tower takes {word.features}")
        return jnp.asarray(inputs_embeds, word.dtype)
    if inputs_embeds is not None:
        raise ValueError("both input_ids and inputs_embeds are given; give exactly one of them")
    x = word(input_ids)
    if padding is None:
        return x
    return jnp.where((input_ids == padding)[..., None], jax.lax.stop_gradient(x), x)


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward layer, each added to its input and then normalised.

    With `queries`, only that many of the first tokens come out; they attend to all.
    """

    config: AlignTextConfig
    layers: Layers
    queries: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        mask_bias: Float[Array, "B 1 1 T"],
        head_mask: Float[Array | np.ndarray, "heads"] | None,
    ) -> tuple[Float[Array, "B Q D"], Float[Array, "B heads Q T"]]:
        config, layers = self.config, self.layers
        attended, attention = SelfAttention(config, layers, self.queries, name="attention")(x, mask_bias, head_mask)
        x = layers.norm(name="attention_norm")(x[:, : self.queries] + layers.dropout()(attended))
        hidden = activation(config.hidden_act)(layers.dense(config.intermediate_size, name="feed_forward_in")(x))
        output = layers.dense(config.hidden_size, name="feed_forward_out")(hidden)
        return layers.norm(name="feed_forward_norm")(x + layers.dropout()(output)), attention


class SelfAttention(nn.Module):
    """Multi-head attention (Vaswani et al., arXiv 1706.03762), with embeddings of distances where configured."""

    config: AlignTextConfig
    layers: Layers
    queries: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        mask_bias: Float[Array, "B 1 1 T"],
        head_mask: Float[Array | np.ndarray, "heads"] | None,
    ) -> tuple[Float[Array, "B Q D"], Float[Array, "B heads Q T"]]:
        config, dense = self.config, self.layers.dense
        batch, length, width = x.shape
        head_size = width // config.num_attention_heads

        def heads(name: str, x: jax.Array = x) -> jax.Array:
            return dense(width, name=name)(x).reshape(batch, x.shape[1], config.num_attention_heads, head_size)

        query, key, value = heads("query", x[:, : self.queries]), heads("key"), heads("value")
        # Float32: differences of large scores decide the softmax.
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
        if config.position_embedding_type != "absolute":
            table = self.layers.embed(2 * config.max_position_embeddings - 1, head_size, name="distance").embedding
            distances = distance_embeddings(jnp.asarray(table, x.dtype), length)[: self.queries]
            scores += jnp.einsum("bqhd,qkd->bhqk", query, distances, preferred_element_type=jnp.float32)
            if config.position_embedding_type == "relative_key_query":
                scores += jnp.einsum("bkhd,qkd->bhqk", key, distances, preferred_element_type=jnp.float32)
        scores = scores / head_size**0.5 + jnp.broadcast_to(mask_bias, scores.shape)
        attention = self.layers.attention_dropout()(nn.softmax(scores)).astype(x.dtype)
        if head_mask is not None:
            attention *= head_mask.astype(x.dtype)[None, :, None, None]
        context = jnp.einsum("bhqk,bkhd->bqhd", attention, value).reshape(batch, -1, width)
        return dense(width, name="output")(context), attention


def distance_embeddings(table: Float[Array, "R F"], length: int) -> Float[Array, "T T F"]:
    """The embedding of the distance `q - k` between each query q and key k.

    Args:
        table: one row for each distance from `-(R // 2)` to `R // 2`.
        length: T, at most `R // 2 + 1`.
    """
    # Repeating a sequence of 2T rows and reading it back in steps of 2T - 1 moves each reading by one place. Unlike a
    # gather of T² rows, this and its gradient, a sum, are dense.
    zero = table.shape[0] // 2
    falling = jnp.flip(table[zero - length + 1 : zero + length], axis=0)  # of the distances T - 1, …, 0, …, 1 - T
    repeated = jnp.tile(jnp.pad(falling, ((0, 1), (0, 0))), (length, 1))
    moved = repeated[length - 1 : length - 1 + length * (2 * length - 1)]
    return moved.reshape(length, 2 * length - 1, table.shape[1])[:, :length]


def heads_of_layers(
    head_mask: Float[Array | np.ndarray, "heads"] | Float[Array | np.ndarray, "L heads"] | None,
    config: AlignTextConfig | ViTConfig,
) -> list[Float[Array | np.ndarray, "heads"] | None]:
    """The factors of the heads for each layer.

    Raises:
        ValueError: if they do not fit the heads.
    """
    depth, heads = config.num_hidden_layers, config.num_attention_heads
    if head_mask is None:
        return [None] * depth
    if head_mask.shape not in ((heads,), (depth, heads)):
        raise ValueError(
            f"head_mask has shape {head_mask.shape}; give one factor a head, ({heads},), or one a layer and head, "
            f"({depth}, {heads})"
        )
    return list(jnp.broadcast_to(head_mask, (depth, heads)))
