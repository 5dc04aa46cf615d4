"""What the models return: the outputs of `transformers`, field for field, with its names and in its order.

An output is a frozen dataclass, a mapping, and a JAX pytree: `jax.jit` returns it, `jax.device_get` reaches through it.
As a mapping it holds the fields that are not None, as there: `output["logits_per_image"]`, `output.keys()`, and a loop
over it gives names. Numbers and slices count through `to_tuple()`: `output[0]`, `output[:2]`.

Arrays are JAX's, or torch's where the inputs were. Axes: B batch, T tokens, F hidden features, D embedding, C H W.
"""

import dataclasses
from collections.abc import Iterator, KeysView, Mapping
from typing import Any, Self, overload

import jax
from jaxtyping import Float


class ModelOutput(Mapping[str, Any]):
    """A frozen dataclass whose fields are arrays, tuples of arrays or outputs, or None where nothing was asked for."""

    def __init_subclass__(cls) -> None:
        jax.tree_util.register_pytree_with_keys(
            cls,
            lambda output: ([(jax.tree_util.GetAttrKey(name), value) for name, value in output._fields()], None),
            lambda _, values: cls._of_fields(values),
            lambda output: (tuple(value for _, value in output._fields()), None),
        )

    @overload
    def __getitem__(self, key: str | int) -> Any: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[Any, ...]: ...
    def __getitem__(self, key: str | int | slice) -> Any:
        """A field by name, or one or several by their places among those that are not None.

        Raises:
            KeyError: if there is no such field, or it is None.
            IndexError: if there are fewer fields.
        """
        if not isinstance(key, str):
            return self.to_tuple()[key]
        value = dict(self._fields()).get(key)
        if value is None:
            raise KeyError(f"{key!r} is not among the {type(self).__name__}'s fields: {', '.join(self)}")
        return value

    def __iter__(self) -> Iterator[str]:
        return (name for name, value in self._fields() if value is not None)

    def __len__(self) -> int:
        return sum(value is not None for _, value in self._fields())

    def keys(self) -> KeysView[str]:
        """The names, printed without the arrays."""
        return dict.fromkeys(self).keys()

    # A mapping is compared by its values, and arrays have no single truth value: outputs are equal to themselves only.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None, with the outputs among them as tuples too."""
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())

    def _fields(self) -> list[tuple[str, Any]]:
        """Names and values of all fields; a method, because checking an annotation of a mapping asks for its length."""
        fields = dataclasses.fields(self)  # pyrefly: ignore[bad-argument-type]
        return [(field.name, getattr(self, field.name)) for field in fields]

    @classmethod
    def _of_fields(cls, values: Any) -> Self:
        """Without a call of `__init__`: JAX fills a tree with whatever a transformation needs, arrays or not."""
        output = object.__new__(cls)
        for field, value in zip(dataclasses.fields(cls), values, strict=True):  # pyrefly: ignore[bad-argument-type]
            object.__setattr__(output, field.name, value)
        return output


@dataclasses.dataclass(frozen=True, eq=False)
class BaseModelOutputWithPoolingAndCrossAttentions(ModelOutput):
    """What the text tower computes.

    Attributes:
        last_hidden_state: of every token.
        pooler_output: BERT's tanh layer on the first token; ALIGN itself does not use it.
        hidden_states: the embeddings, then every layer's output; with `output_hidden_states`.
        past_key_values: always None; an encoder has none.
        attentions: every layer's weights, as they weigh the values; with `output_attentions`.
        cross_attentions: always None.
    """

    last_hidden_state: Float[Any, "B T F"] | None = None
    pooler_output: Float[Any, "B F"] | None = None
    hidden_states: tuple[Float[Any, "B T F"], ...] | None = None
    past_key_values: None = None
    attentions: tuple[Float[Any, "B heads T T"], ...] | None = None
    cross_attentions: None = None


@dataclasses.dataclass(frozen=True, eq=False)
class BaseModelOutputWithPoolingAndNoAttention(ModelOutput):
    """What the image tower computes; channels come first.

    Attributes:
        last_hidden_state: the last block's output.
        pooler_output: its mean (or maximum) over all places.
        hidden_states: the stem's output, then every block's; with `output_hidden_states`.
    """

    last_hidden_state: Float[Any, "B D H W"] | None = None
    pooler_output: Float[Any, "B D"] | None = None
    hidden_states: tuple[Float[Any, "B _ _ _"], ...] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class BaseModelOutputWithPooling(ModelOutput):
    """What a Vision Transformer computes as the image tower of ALIGN.

    Attributes:
        last_hidden_state: of every token, behind the last norm.
        pooler_output: the first token's, behind the representation layer where there is one.
        hidden_states: the embeddings, then every layer's output; with `output_hidden_states`.
        attentions: every layer's weights; with `output_attentions`.
    """

    last_hidden_state: Float[Any, "B T F"] | None = None
    pooler_output: Float[Any, "B D"] | None = None
    hidden_states: tuple[Float[Any, "B T F"], ...] | None = None
    attentions: tuple[Float[Any, "B heads T T"], ...] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ImageClassifierOutput(ModelOutput):
    """What a Vision Transformer says about some images.

    Attributes:
        loss: with `labels`.
        logits: float32.
        hidden_states: the embeddings, then every layer's output; with `output_hidden_states`.
        attentions: every layer's weights, as they weigh the values; with `output_attentions`.
    """

    loss: Float[Any, ""] | None = None
    logits: Float[Any, "B K"] | None = None
    hidden_states: tuple[Float[Any, "B T F"], ...] | None = None
    attentions: tuple[Float[Any, "B heads T T"], ...] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ImageClassifierOutputWithNoAttention(ModelOutput):
    """What an EfficientNet says about some images; channels come first.

    Attributes:
        loss: with `labels`.
        logits: float32.
        hidden_states: the stem's output, then every block's; with `output_hidden_states`.
    """

    loss: Float[Any, ""] | None = None
    logits: Float[Any, "B K"] | None = None
    hidden_states: tuple[Float[Any, "B _ _ _"], ...] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class AlignOutput(ModelOutput):
    """What both towers have to say about some images and some texts; their numbers may differ.

    Attributes:
        loss: the contrastive loss, the mean of both directions; with `return_loss`.
        logits_per_image: cosines divided by the temperature.
        logits_per_text: the same, transposed.
        text_embeds: of unit length.
        image_embeds: of unit length.
        text_model_output: of the text tower.
        vision_model_output: of the image tower.
    """

    loss: Float[Any, ""] | None = None
    logits_per_image: Float[Any, "images texts"] | None = None
    logits_per_text: Float[Any, "texts images"] | None = None
    text_embeds: Float[Any, "texts D"] | None = None
    image_embeds: Float[Any, "images D"] | None = None
    text_model_output: BaseModelOutputWithPoolingAndCrossAttentions | None = None
    vision_model_output: BaseModelOutputWithPoolingAndNoAttention | BaseModelOutputWithPooling | None = None
