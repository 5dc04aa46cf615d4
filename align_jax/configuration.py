"""Model configurations: frozen dataclasses that read and write the `config.json` of `transformers`.

Field names, defaults and meaning are those of `transformers` 4.37 (`AlignConfig`, `AlignTextConfig`,
`AlignVisionConfig`); a file that leaves a field out therefore means what it means there.

Named sizes follow "EfficientNet" (Tan & Le, arXiv 1905.11946), "Well-Read Students Learn Better" (Turc et al., arXiv
1908.08962, the small BERTs) and ALIGN (Jia et al., arXiv 2102.05918, section 5).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from align_jax.json_config import (
    COLOURS,
    NOT_NEGATIVE,
    ODD,
    POSITIVE,
    RATE,
    STRIDE,
    ConfigurationError,
    JsonConfig,
    Limit,
)

__all__ = ["AlignConfig", "AlignTextConfig", "AlignVisionConfig", "ConfigurationError"]

HiddenAct = Literal[
    "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "relu6", "silu", "swish", "tanh",
    "sigmoid", "linear", "selu", "mish",
]  # fmt: skip
PoolingType = Literal["mean", "max"]
PositionEmbeddingType = Literal["absolute"]


@dataclasses.dataclass(frozen=True)
class AlignTextConfig(JsonConfig):
    """The text tower: BERT (Devlin et al., arXiv 1810.04805).

    Parameters with a 30,522-entry vocabulary, pooler included:

        mini 11,170,560   small 28,763,648   medium 41,373,184   base 109,482,240   large 335,141,888
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
    pad_token_id: int = 0
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


# (width, depth) multipliers of arXiv 1905.11946; L2 is that of "Noisy Student" (arXiv 1911.04252).
_EFFICIENTNET_SCALING: dict[str, tuple[float, float]] = {
    "b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2), "b3": (1.2, 1.4), "b4": (1.4, 1.8),
    "b5": (1.6, 2.2), "b6": (1.8, 2.6), "b7": (2.0, 3.1), "l2": (4.3, 5.3),
}  # fmt: skip
EfficientNetSize = Literal["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "l2"]


@dataclasses.dataclass(frozen=True)
class AlignVisionConfig(JsonConfig):
    """The image tower: EfficientNet without its top convolution.

    Parameters, and the width of the pooled features:

        b0  3,595,388 320   b1  6,101,024 320   b2  7,202,562 352   b3  10,103,336  384   b4 16,742,216 448
        b5 27,288,112 512   b6 39,403,992 576   b7 62,143,440 640   l2 467,219,796 1376
    """

    model_type: ClassVar[str] = "align_vision_model"
    _derived_fields: ClassVar[frozenset[str]] = frozenset({"num_hidden_layers"})

    num_channels: int = 3
    image_size: int = 600
    width_coefficient: float = 2.0
    depth_coefficient: float = 3.1
    depth_divisor: int = 8
    kernel_sizes: tuple[int, ...] = (3, 3, 5, 3, 5, 5, 3)
    in_channels: tuple[int, ...] = (32, 16, 24, 40, 80, 112, 192)
    out_channels: tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    depthwise_padding: tuple[int, ...] = ()
    strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    num_block_repeats: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    expand_ratios: tuple[int, ...] = (1, 6, 6, 6, 6, 6, 6)
    squeeze_expansion_ratio: float = 0.25
    hidden_act: HiddenAct = "swish"
    hidden_dim: int = 2560
    pooling_type: PoolingType = "mean"
    initializer_range: float = 0.02
    batch_norm_eps: float = 0.001
    batch_norm_momentum: float = 0.99
    drop_connect_rate: float = 0.2

    _limits: ClassVar[Mapping[Limit, str]] = {
        COLOURS: "num_channels",
        POSITIVE: "image_size width_coefficient depth_coefficient depth_divisor in_channels out_channels "
        "num_block_repeats expand_ratios squeeze_expansion_ratio hidden_dim batch_norm_eps",
        ODD: "kernel_sizes",
        STRIDE: "strides",
        NOT_NEGATIVE: "initializer_range depthwise_padding",
        RATE: "batch_norm_momentum drop_connect_rate",
    }

    def __post_init__(self) -> None:
        self._check_limits()
        self._require_choice("hidden_act", HiddenAct)
        self._require_choice("pooling_type", PoolingType)
        stages = ("kernel_sizes", "in_channels", "out_channels", "strides", "num_block_repeats", "expand_ratios")
        lengths = {name: len(getattr(self, name)) for name in stages}
        self._require(len(set(lengths.values())) == 1, f"the stages differ in number: {lengths}")
        self._require(
            len(self.out_channels) > 0,
            f"there is no stage: {', '.join(f'{name} is ()' for name in stages)}; give one item of each per stage",
        )
        given = [self.round_channels(channels) for channels in (32, *self.out_channels[:-1])]
        taken = [self.round_channels(channels) for channels in self.in_channels]
        self._require(
            given == taken,
            f"in_channels {self.in_channels} do not continue from the stem's 32 and out_channels {self.out_channels}",
        )

    def round_channels(self, channels: int) -> int:
        """Channels after width scaling: the nearest multiple of `depth_divisor`, never below nine tenths."""
        scaled = channels * self.width_coefficient
        rounded = max(
            self.depth_divisor, int(scaled + self.depth_divisor / 2) // self.depth_divisor * self.depth_divisor
        )
        return rounded + self.depth_divisor if rounded < 0.9 * scaled else rounded

    def round_repeats(self, repeats: int) -> int:
        """Blocks of a stage after depth scaling."""
        return math.ceil(self.depth_coefficient * repeats)

    @property
    def feature_size(self) -> int:
        """Width of the pooled features: the output channels of the last stage."""
        return self.round_channels(self.out_channels[-1])

    @classmethod
    def efficientnet(cls, size: EfficientNetSize, **overrides: Any) -> Self:
        """An EfficientNet of ALIGN: 289 px, every stride-2 padding asymmetric."""
        width, depth = _EFFICIENTNET_SCALING[size]
        config = cls(width_coefficient=width, depth_coefficient=depth, image_size=289)
        return dataclasses.replace(config, **({"hidden_dim": config.feature_size} | overrides))

    @classmethod
    def tiny(cls, **overrides: Any) -> Self:
        """Three stages at 32 px, for tests."""
        stages: dict[str, Any] = {
            "image_size": 32, "width_coefficient": 1.0, "depth_coefficient": 1.0, "kernel_sizes": (3, 3, 5),
            "in_channels": (32, 16, 24), "out_channels": (16, 24, 32), "strides": (1, 1, 2),
            "num_block_repeats": (1, 1, 2), "expand_ratios": (1, 6, 6), "hidden_dim": 32,
        }  # fmt: skip
        return cls(**(stages | overrides))


@dataclasses.dataclass(frozen=True)
class AlignConfig(JsonConfig):
    """Both towers and the space they share.

    Attributes:
        projection_dim: width D of the shared space.
        temperature_init_value: the temperature at the start of training; logits are cosines divided by it.
        image_projection: a linear layer from the image features to the shared space. The released model has none,
            because B7's features are 640 wide already; every other pair that shares 640 dimensions needs it
            (arXiv 2102.05918, section 5). `transformers` has no such field, and leaves it out of its files.
    """

    model_type: ClassVar[str] = "align"

    text_config: AlignTextConfig = dataclasses.field(default_factory=AlignTextConfig)
    vision_config: AlignVisionConfig = dataclasses.field(default_factory=AlignVisionConfig)
    projection_dim: int = 640
    temperature_init_value: float = 1.0
    initializer_range: float = 0.02
    image_projection: bool = False

    _limits: ClassVar[Mapping[Limit, str]] = {
        POSITIVE: "projection_dim temperature_init_value",
        NOT_NEGATIVE: "initializer_range",
    }

    def __post_init__(self) -> None:
        self._check_limits()
        width = self.vision_config.feature_size
        self._require(
            self.image_projection or width == self.projection_dim,
            f"the image features are {width} wide and projection_dim is {self.projection_dim}; set "
            f"image_projection=True, or projection_dim={width}",
        )

    def to_dict(self) -> dict[str, Any]:
        """The object of a `config.json`; `image_projection` appears only where there is one."""
        values = super().to_dict()
        if not self.image_projection:
            del values["image_projection"]
        return values

    @classmethod
    def of_towers(cls, vision: AlignVisionConfig, text: AlignTextConfig, **overrides: Any) -> Self:
        """Any pair of towers (or those given as overrides), with the image projection if their widths need one."""
        values: dict[str, Any] = {"vision_config": vision, "text_config": text, "projection_dim": 640} | overrides
        needed = values["vision_config"].feature_size != values["projection_dim"]
        return cls(**({"image_projection": needed} | values))

    @classmethod
    def b7_base(cls, **overrides: Any) -> Self:
        """The released pair, 172,117,841 parameters."""
        return cls.of_towers(AlignVisionConfig.efficientnet("b7"), AlignTextConfig.base(), **overrides)

    @classmethod
    def b7_large(cls, **overrides: Any) -> Self:
        """B7 with the largest BERT, a row of the paper's ablation."""
        return cls.of_towers(AlignVisionConfig.efficientnet("b7"), AlignTextConfig.large(), **overrides)

    @classmethod
    def b5_base(cls, **overrides: Any) -> Self:
        """The pair of the paper's ablations of loss and width (table 8)."""
        return cls.of_towers(AlignVisionConfig.efficientnet("b5"), AlignTextConfig.base(), **overrides)

    @classmethod
    def b3_mini(cls, **overrides: Any) -> Self:
        """The small pair of the paper's table 9, and of the COYO release on CC3M."""
        return cls.of_towers(AlignVisionConfig.efficientnet("b3"), AlignTextConfig.mini(), **overrides)

    @classmethod
    def b1_mini(cls, **overrides: Any) -> Self:
        """The smallest pair of the paper's grid (figure 3)."""
        return cls.of_towers(AlignVisionConfig.efficientnet("b1"), AlignTextConfig.mini(), **overrides)

    @classmethod
    def l2_large(cls, **overrides: Any) -> Self:
        """The paper's largest pair; the space is as wide as L2's features, 1376."""
        return cls.of_towers(
            AlignVisionConfig.efficientnet("l2"), AlignTextConfig.large(), **({"projection_dim": 1376} | overrides)
        )

    @classmethod
    def tiny(cls, **overrides: Any) -> Self:
        """Towers small enough for tests."""
        return cls.of_towers(AlignVisionConfig.tiny(), AlignTextConfig.tiny(), **({"projection_dim": 32} | overrides))
