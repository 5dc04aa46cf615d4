"""EfficientNet with its top convolution and classifier, plain (arXiv 1905.11946) or Lite, and its named sizes.

EfficientNet-Lite (2020, `models/official/efficientnet/lite` of the repository `tensorflow/tpu`) is made for small
devices: no squeeze-excite, ReLU6, and a stem and a top that do not grow with the network. Its pixels are scaled to
(x - 127) / 128, where plain EfficientNet's depend on the weights; scaling belongs to the preprocessing.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

from align_jax.configuration.labels import ProblemType, label_fields, read_labels
from align_jax.configuration.vision import EFFICIENTNET_SCALING, AlignVisionConfig, EfficientNetSize, StemPadding
from align_jax.json_config import RATE, Limit


class _Size(NamedTuple):
    width_coefficient: float
    depth_coefficient: float
    image_size: int
    dropout_rate: float


# Image size in pixels, and dropout: arXiv 1905.11946 and its TensorFlow code, `efficientnet_lite_builder.py` of the
# repository above for Lite, and arXiv 1911.04252 for L2.
_RECIPES: dict[str, tuple[int, float]] = {
    "b0": (224, 0.2), "b1": (240, 0.2), "b2": (260, 0.3), "b3": (300, 0.3), "b4": (380, 0.4), "b5": (456, 0.4),
    "b6": (528, 0.5), "b7": (600, 0.5), "l2": (800, 0.5),
    "lite0": (224, 0.2), "lite1": (240, 0.2), "lite2": (260, 0.3), "lite3": (280, 0.3), "lite4": (300, 0.3),
}  # fmt: skip
# Lite's multipliers are those of the plain sizes.
_SIZES = {name: _Size(*EFFICIENTNET_SCALING[name.replace("lite", "b")], *recipe) for name, recipe in _RECIPES.items()}

_TOWER, _CLASSIFIER = "EfficientNetModel", "EfficientNetForImageClassification"


@dataclasses.dataclass(frozen=True)
class EfficientNetConfig(AlignVisionConfig):
    """An EfficientNet: stem, blocks, top convolution, and a classifier where there are labels.

    Parameters with a classifier of 1,000 labels:

        b0  5,288,548   b1  7,794,184   b2  9,109,994   b3 12,233,232
        b4 19,341,616   b5 30,389,784   b6 43,040,704   b7 66,347,960
        lite0 4,652,008   lite1 5,416,680   lite2 6,092,072   lite3 8,197,096   lite4 13,006,568

    Attributes:
        hidden_dim: width of the top convolution; it follows from `width_coefficient`, and files repeat it.
        dropout_rate: of the pooled features, in front of the classifier.
        id2label: names of the classes, in order. Without any there is no classifier.
        problem_type: which loss, and which function of the logits, go with the classes; `None` where they tell.
        squeeze_excite: whether every block gates its channels.
        fixed_stem_and_top: keeps stem and top at 32 and 1280 channels in a network of any width, and the first and the
            last stage at their number of blocks in one of any depth.
        stem_padding: of the stem's 3 x 3 convolution: "asymmetric" (0, 1), or "symmetric" (1, 1). TensorFlow's SAME is
            the first for even images and the second for odd ones.

    The last three have no counterpart in `transformers`, and are left out of its files where they have the value that
    plain EfficientNet has.
    """

    model_type: ClassVar[str] = "efficientnet"

    dropout_rate: float = 0.5
    id2label: tuple[str, ...] = ()
    problem_type: ProblemType | None = None
    squeeze_excite: bool = True
    fixed_stem_and_top: bool = False
    stem_padding: StemPadding = "asymmetric"

    _limits: ClassVar[Mapping[Limit, str]] = {
        **AlignVisionConfig._limits,
        RATE: f"{AlignVisionConfig._limits[RATE]} dropout_rate",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_choice("stem_padding", StemPadding)
        if self.problem_type is not None:
            self._require_choice("problem_type", ProblemType)
        self._require(
            self.hidden_dim == self.top_channels,
            f"hidden_dim is {self.hidden_dim}, but the top convolution is {self.top_channels} wide at "
            f"width_coefficient {self.width_coefficient}; use hidden_dim {self.top_channels}",
        )

    @property
    def top_channels(self) -> int:
        """Width of the top convolution."""
        return self.round_end_channels(1280)

    @property
    def repeats_of_stages(self) -> tuple[int, ...]:
        """Blocks of every stage after depth scaling."""
        scaled = list(super().repeats_of_stages)
        if self.fixed_stem_and_top:
            scaled[0], scaled[-1] = self.num_block_repeats[0], self.num_block_repeats[-1]
        return tuple(scaled)

    @property
    def own_fields(self) -> dict[str, Any]:
        """What `transformers` does not know and would compute differently, by name; empty for plain EfficientNet."""
        fields = {field.name: field for field in dataclasses.fields(self)}
        values = {name: getattr(self, name) for name in ("squeeze_excite", "fixed_stem_and_top", "stem_padding")}
        return {name: value for name, value in values.items() if value != fields[name].default}

    def round_end_channels(self, channels: int) -> int:
        """Channels of the stem and the top after width scaling, if they are scaled."""
        return channels if self.fixed_stem_and_top else self.round_channels(channels)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads the object of a `config.json`; see `JsonConfig.from_dict`.

        There is a classifier if `architectures` says so or, where that is left out, if there are labels.
        """
        config = super().from_dict({name: value for name, value in values.items() if name != "id2label"})
        return dataclasses.replace(config, id2label=read_labels(values, cls.__name__, _CLASSIFIER))

    def to_dict(self) -> dict[str, Any]:
        """The object of a `config.json`."""
        values = super().to_dict()
        for name in ("id2label", "squeeze_excite", "fixed_stem_and_top", "stem_padding"):
            del values[name]
        if self.problem_type is None:
            del values["problem_type"]
        values |= self.own_fields | {"architectures": [_CLASSIFIER if self.id2label else _TOWER]}
        if self.id2label:
            values |= label_fields(self.id2label)
        return values

    @classmethod
    def efficientnet(cls, size: EfficientNetSize, **overrides: Any) -> Self:
        """A published size, without a classifier: give `id2label` for one."""
        return cls._of_size(_SIZES[size], overrides)

    @classmethod
    def _lite(cls, size: str, overrides: Mapping[str, Any]) -> Self:
        odd = overrides.get("image_size", _SIZES[size].image_size) % 2
        changes: dict[str, Any] = {
            "squeeze_excite": False, "fixed_stem_and_top": True, "hidden_act": "relu6", "hidden_dim": 1280,
            "stem_padding": "symmetric" if odd else "asymmetric",
        }  # fmt: skip
        return cls._of_size(_SIZES[size], changes | dict(overrides))

    @classmethod
    def _of_size(cls, size: _Size, overrides: Mapping[str, Any]) -> Self:
        """A network whose stride-2 blocks pad as TensorFlow's SAME does at its image size."""
        values: dict[str, Any] = size._asdict() | dict(overrides)
        scaling = AlignVisionConfig(width_coefficient=values["width_coefficient"])
        values.setdefault("hidden_dim", scaling.round_channels(1280))
        config = cls(**values)
        return dataclasses.replace(config, **({"depthwise_padding": _odd_blocks(config)} | dict(overrides)))

    @classmethod
    def b0(cls, **overrides: Any) -> Self:
        """224 px, features of 1280."""
        return cls.efficientnet("b0", **overrides)

    @classmethod
    def b1(cls, **overrides: Any) -> Self:
        """240 px, features of 1280."""
        return cls.efficientnet("b1", **overrides)

    @classmethod
    def b2(cls, **overrides: Any) -> Self:
        """260 px, features of 1408."""
        return cls.efficientnet("b2", **overrides)

    @classmethod
    def b3(cls, **overrides: Any) -> Self:
        """300 px, features of 1536."""
        return cls.efficientnet("b3", **overrides)

    @classmethod
    def b4(cls, **overrides: Any) -> Self:
        """380 px, features of 1792."""
        return cls.efficientnet("b4", **overrides)

    @classmethod
    def b5(cls, **overrides: Any) -> Self:
        """456 px, features of 2048."""
        return cls.efficientnet("b5", **overrides)

    @classmethod
    def b6(cls, **overrides: Any) -> Self:
        """528 px, features of 2304."""
        return cls.efficientnet("b6", **overrides)

    @classmethod
    def b7(cls, **overrides: Any) -> Self:
        """600 px, features of 2560."""
        return cls.efficientnet("b7", **overrides)

    @classmethod
    def lite0(cls, **overrides: Any) -> Self:
        """224 px, as wide and deep as B0."""
        return cls._lite("lite0", overrides)

    @classmethod
    def lite1(cls, **overrides: Any) -> Self:
        """240 px, as wide and deep as B1."""
        return cls._lite("lite1", overrides)

    @classmethod
    def lite2(cls, **overrides: Any) -> Self:
        """260 px, as wide and deep as B2."""
        return cls._lite("lite2", overrides)

    @classmethod
    def lite3(cls, **overrides: Any) -> Self:
        """280 px, as wide and deep as B3."""
        return cls._lite("lite3", overrides)

    @classmethod
    def lite4(cls, **overrides: Any) -> Self:
        """300 px, as wide and deep as B4."""
        return cls._lite("lite4", overrides)

    @classmethod
    def tiny(cls, **overrides: Any) -> Self:
        """Three stages at 32 px and a top convolution of 320, for tests."""
        return super().tiny(**({"width_coefficient": 0.25, "hidden_dim": 320} | overrides))


def _odd_blocks(config: AlignVisionConfig) -> tuple[int, ...]:
    """Indices of the stride-2 blocks whose input has an odd side, which SAME pads alike on both sides."""
    side, block, found = (config.image_size + (config.stem_padding == "symmetric")) // 2, 0, []
    for stride, repeats in zip(config.strides, config.repeats_of_stages, strict=True):
        if stride == 2:
            if side % 2:
                found.append(block)
            side = (side + 1) // 2
        block += repeats
    return tuple(found)
