"""The image tower's configuration: EfficientNet (Tan & Le, arXiv 1905.11946) and its named sizes."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from align_jax.configuration.hidden_act import HiddenAct
from align_jax.json_config import COLOURS, NOT_NEGATIVE, ODD, POSITIVE, RATE, STRIDE, JsonConfig, Limit

PoolingType = Literal["mean", "max"]
StemPadding = Literal["asymmetric", "symmetric"]

# (width, depth) multipliers of arXiv 1905.11946; L2 is that of "Noisy Student" (arXiv 1911.04252).
EFFICIENTNET_SCALING: dict[str, tuple[float, float]] = {
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
        given = [self.stem_channels, *(self.round_channels(channels) for channels in self.out_channels[:-1])]
        first, *others = self.in_channels
        taken = [self.round_end_channels(first), *(self.round_channels(channels) for channels in others)]
        self._require(
            given == taken,
            f"in_channels {self.in_channels} do not continue from the stem's 32 and out_channels {self.out_channels}",
        )
        side = self.map_side
        self._require(
            side > 0,
            f"image_size {self.image_size} is so small that nothing is left after {self.strides.count(2) + 1} strides "
            f"of 2; use {2 ** (self.strides.count(2) + 1)} or more",
        )
        self._require(
            side <= self.hidden_dim,
            f"hidden_dim {self.hidden_dim} is the side of the window that transformers pools over, and image_size "
            f"{self.image_size} ends in a larger map, {side} x {side}; use hidden_dim {max(side, self.feature_size)}",
        )

    @property
    def squeeze_excite(self) -> bool:
        """Whether every block gates its channels."""
        return True

    @property
    def stem_padding(self) -> StemPadding:
        """Where the stem pads: (0, 1) or (1, 1)."""
        return "asymmetric"

    @property
    def stem_channels(self) -> int:
        """Width of the stem."""
        return self.round_end_channels(32)

    @property
    def top_channels(self) -> int | None:
        """Width of the 1 x 1 convolution behind the last block, where there is one."""
        return None

    @property
    def feature_size(self) -> int:
        """Width of the pooled features."""
        return self.top_channels or self.round_channels(self.out_channels[-1])

    @property
    def repeats_of_stages(self) -> tuple[int, ...]:
        """Blocks of every stage after depth scaling."""
        return tuple(math.ceil(self.depth_coefficient * repeats) for repeats in self.num_block_repeats)

    @property
    def map_side(self) -> int:
        """Height and width of the last map, in positions, for an image of `image_size`."""
        side, block = _halved(self.image_size, self.stem_padding == "symmetric"), 0
        for stride, repeats in zip(self.strides, self.repeats_of_stages, strict=True):
            if stride == 2:
                side = _halved(side, block in self.depthwise_padding)
            block += repeats
        return side

    def round_end_channels(self, channels: int) -> int:
        """Channels of the stem and the top after width scaling."""
        return self.round_channels(channels)

    def round_channels(self, channels: int) -> int:
        """Channels after width scaling: the nearest multiple of `depth_divisor`, never below nine tenths."""
        scaled = channels * self.width_coefficient
        rounded = max(
            self.depth_divisor, int(scaled + self.depth_divisor / 2) // self.depth_divisor * self.depth_divisor
        )
        return rounded + self.depth_divisor if rounded < 0.9 * scaled else rounded

    @classmethod
    def efficientnet(cls, size: EfficientNetSize, **overrides: Any) -> Self:
        """An EfficientNet of ALIGN: 289 px, every stride-2 padding asymmetric."""
        width, depth = EFFICIENTNET_SCALING[size]
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


def _halved(side: int, symmetric: bool) -> int:
    """Positions after a convolution of stride 2, which do not depend on its kernel: it pads k - 1 or k - 2."""
    return (side + 1) // 2 if symmetric else side // 2
