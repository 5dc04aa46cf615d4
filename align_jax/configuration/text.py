"""The text tower's configuration.

The small sizes are those of "Well-Read Students Learn Better" (Turc et al., arXiv 1908.08962).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from align_jax.configuration.hidden_act import HiddenAct
from align_jax.json_config import NOT_NEGATIVE, POSITIVE, RATE, JsonConfig, Limit

PositionEmbeddingType = Literal["absolute", "relative_key", "relative_key_query"]


@dataclasses.dataclass(frozen=True)
class AlignTextConfig(JsonConfig):
    """The text tower: BERT (Devlin et al., arXiv 1810.04805).

    Parameters with a 30,522-entry vocabulary, pooler included:

        mini 11,170,560   small 28,763,648   medium 41,373,184   base 109,482,240   large 335,141,888

    Attributes:
        pad_token_id: the row of the token table that gets no gradient, because it stands for no token; may be absent.
        position_embedding_type: what tells positions apart: embeddings added to those of the tokens ("absolute"); or
            embeddings of the distance between query and key, which every layer multiplies with the query (Shaw et al.,
            arXiv 1803.02155), or with both (method 4 of Huang et al., arXiv 2009.13658).
    """

    model_type: ClassVar[str] = "align_text_model"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: HiddenAct = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    position_embedding_type: PositionEmbeddingType = "absolute"

    _limits: ClassVar[Mapping[Limit, str]] = {
        POSITIVE: "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size "
        "max_position_embeddings type_vocab_size layer_norm_eps",
        NOT_NEGATIVE: "initializer_range pad_token_id",
        RATE: "hidden_dropout_prob attention_probs_dropout_prob",
    }

    def __post_init__(self) -> None:
        self._check_limits()
        self._require_choice("hidden_act", HiddenAct)
        self._require_choice("position_embedding_type", PositionEmbeddingType)
        self._require(
            self.hidden_size % self.num_attention_heads == 0,
            f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}",
        )
        self._require(
            self.pad_token_id is None or self.pad_token_id < self.vocab_size,
            f"pad_token_id {self.pad_token_id} is not among the {self.vocab_size} tokens; use null if there is none",
        )

    @classmethod
    def _of_size(cls, depth: int, width: int, **overrides: Any) -> Self:
        """BERT's own proportions: heads of 64 and a hidden layer four times as wide."""
        sizes: dict[str, Any] = {
            "num_hidden_layers": depth,
            "hidden_size": width,
            "num_attention_heads": width // 64,
            "intermediate_size": 4 * width,
        }
        return cls(**(sizes | overrides))

    @classmethod
    def mini(cls, **overrides: Any) -> Self:
        """4 layers of 256."""
        return cls._of_size(4, 256, **overrides)

    @classmethod
    def small(cls, **overrides: Any) -> Self:
        """4 layers of 512."""
        return cls._of_size(4, 512, **overrides)

    @classmethod
    def medium(cls, **overrides: Any) -> Self:
        """8 layers of 512."""
        return cls._of_size(8, 512, **overrides)

    @classmethod
    def base(cls, **overrides: Any) -> Self:
        """12 layers of 768."""
        return cls._of_size(12, 768, **overrides)

    @classmethod
    def large(cls, **overrides: Any) -> Self:
        """24 layers of 1024."""
        return cls._of_size(24, 1024, **overrides)

    @classmethod
    def tiny(cls, **overrides: Any) -> Self:
        """Two layers of 32, for tests."""
        sizes = {"num_attention_heads": 4, "intermediate_size": 37, "vocab_size": 99, "max_position_embeddings": 64}
        return cls._of_size(2, 32, **(sizes | overrides))


@dataclasses.dataclass(frozen=True)
class BertConfig(AlignTextConfig):
    """The text tower in a folder of its own, as BERT is published."""

    model_type: ClassVar[str] = "bert"
    # Sizes of a pooler that the first files describe; `transformers` has never read them.
    _derived_fields: ClassVar[frozenset[str]] = frozenset({
        "directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
        "pooler_size_per_head", "pooler_type",
    })  # fmt: skip
